// Archives that visit the members of any wire struct: one fills them, one compares them by their
// bytes.
//
// WIRE_TYPES expands over every struct found in the protocol headers that lists its members for an
// archive; plain layout structs, which are copied as they stand, are passed over.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/env.h"
#include "core/wire.h"
#include "objstore/node_objects.h"
#include "runtime/task_wire.h"
#include "scheduler/node_messages.h"
#include "scheduler/protocol.h"
#include "wire_structs.h"

namespace sheaf::fuzz {

// Fills every member from a seeded generator. Booleans are 0 or 1; containers get up to `most`
// elements.
class Filler {
 public:
  Filler(uint64_t seed, uint32_t most) : state_(seed), most_(most) {}
  template <class... Ts>
  void operator()(Ts&... values) {
    (fill(values), ...);
  }

 private:
  uint64_t count() { return splitmix64(state_) % (most_ + 1); }
  template <class T>
  requires std::is_integral_v<T>
  void fill(T& v) {
    if constexpr (std::is_same_v<T, bool>)
      v = splitmix64(state_) & 1;
    else
      v = static_cast<T>(splitmix64(state_));
  }
  template <class T>
  requires std::is_enum_v<T>
  void fill(T& v) { v = static_cast<T>(splitmix64(state_) % 4); }
  void fill(double& v) { v = static_cast<double>(splitmix64(state_) >> 20) / 16; }
  template <class Tag>
  void fill(Id<Tag>& id) {
    fill(id.hi);
    fill(id.lo);
  }
  void fill(std::string& s) {
    s.resize(count());
    for (char& c : s) c = static_cast<char>('a' + splitmix64(state_) % 26);
  }
  template <class T>
  void fill(std::vector<T>& v) {
    v.resize(count());
    for (T& e : v) fill(e);
  }
  template <class K, class V>
  void fill(std::map<K, V>& m) {
    for (uint64_t n = count(); n > 0; --n) {
      K k{};
      fill(k);
      fill(m[k]);
    }
  }
  template <class A, class B>
  void fill(std::pair<A, B>& p) {
    fill(p.first);
    fill(p.second);
  }
  template <class T>
  void fill(std::optional<T>& o) {
    if (splitmix64(state_) & 1) fill(o.emplace());
  }
  template <class T>
  requires wire::HasFields<T, Filler>
  void fill(T& t) { t.fields(*this); }

  uint64_t state_;
  uint32_t most_;
};

template <class T>
inline constexpr bool kIsWireStruct = wire::HasFields<T, wire::Reader>;

template <class T>
T make_filled(uint64_t seed, uint32_t most) {
  T value{};
  Filler filler(seed, most);
  value.fields(filler);
  return value;
}

// Calls visit.template operator()<T>("space::Name") for every wire struct.
template <class Visit>
void for_each_wire_struct(Visit visit) {
#define SHEAF_VISIT(space, name)            \
  if constexpr (kIsWireStruct<space::name>) \
    visit.template operator()<space::name>(#space "::" #name);
  SHEAF_WIRE_STRUCTS(SHEAF_VISIT)
#undef SHEAF_VISIT
}

}  // namespace sheaf::fuzz
