// The wire archive: how structs become bytes between processes, in the journal and on disk.
//
// A struct lists its members once: `template <class A> void fields(A& a) { a(x, y, z); }`. Integers are little-endian
// fixed width, strings and vectors are a u32 count and their elements, optionals one byte and the value. A Reader
// never reads past its span and never allocates more than the span could fill: any input ends in a value or in
// `ok() == false`. Readers hold views into the input, so it must outlive them. Values only; no thread affinity.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/ids.h"
#include "core/status.h"

namespace sheaf::wire {

using Bytes = std::span<const std::byte>;

inline Bytes as_bytes(std::string_view s) { return std::as_bytes(std::span(s.data(), s.size())); }
inline std::string_view as_text(Bytes b) {
  return {reinterpret_cast<const char*>(b.data()), b.size()};
}

template <class T, class A>
concept HasFields = requires(T& t, A& a) { t.fields(a); };

// Appends to a std::string it does not own.
class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}

  template <class... Ts>
  void operator()(const Ts&... values) { (write(values), ...); }
  void raw(const void* data, size_t size) { out_.append(static_cast<const char*>(data), size); }

 private:
  template <class T>
    requires std::is_arithmetic_v<T> || std::is_enum_v<T>
  void write(const T& v) { raw(&v, sizeof v); }
  template <class Tag>
  void write(const Id<Tag>& id) { raw(&id, sizeof id); }
  void write(const std::string& s) { write(static_cast<uint32_t>(s.size())); raw(s.data(), s.size()); }
  void write(std::string_view s) { write(static_cast<uint32_t>(s.size())); raw(s.data(), s.size()); }
  template <class T>
  void write(const std::vector<T>& v) {
    write(static_cast<uint32_t>(v.size()));
    for (const auto& e : v) write(e);
  }
  template <class K, class V>
  void write(const std::map<K, V>& m) {
    write(static_cast<uint32_t>(m.size()));
    for (const auto& [k, v] : m) { write(k); write(v); }
  }
  template <class A, class B>
  void write(const std::pair<A, B>& p) { write(p.first); write(p.second); }
  template <class T>
  void write(const std::optional<T>& o) {
    write(static_cast<uint8_t>(o.has_value()));
    if (o) write(*o);
  }
  template <class T>
    requires HasFields<T, Writer>
  void write(const T& t) { const_cast<T&>(t).fields(*this); }  // fields() only reads here

  std::string& out_;
};

class Reader {
 public:
  explicit Reader(Bytes in) : in_(in) {}
  explicit Reader(std::string_view in) : in_(as_bytes(in)) {}

  template <class... Ts>
  void operator()(Ts&... values) { (read(values), ...); }
  bool ok() const { return ok_; }
  size_t remaining() const { return in_.size(); }
  // The next `size` bytes as a view into the input; empty, and !ok(), when there are fewer.
  Bytes take(size_t size) {
    if (!ok_ || size > in_.size()) { ok_ = false; return {}; }
    Bytes out = in_.first(size);
    in_ = in_.subspan(size);
    return out;
  }

 private:
  template <class T>
    requires std::is_arithmetic_v<T> || std::is_enum_v<T>
  void read(T& v) {
    Bytes b = take(sizeof v);
    if (!ok_) { v = T{}; return; }
    if constexpr (std::is_same_v<T, bool>) v = b[0] != std::byte{0};
    else std::memcpy(&v, b.data(), sizeof v);
  }
  template <class Tag>
  void read(Id<Tag>& id) { read(id.hi); read(id.lo); }
  void read(std::string& s) { uint32_t n = 0; read(n); s = std::string(as_text(take(n))); }
  void read(std::string_view& s) { uint32_t n = 0; read(n); s = as_text(take(n)); }
  template <class T>
  void read(std::vector<T>& v) {
    uint32_t n = 0;
    read(n);
    v.clear();
    if (n > in_.size()) ok_ = false;  // every element takes at least one byte
    for (uint32_t i = 0; ok_ && i < n; ++i) read(v.emplace_back());
    if (!ok_) v.clear();
  }
  template <class K, class V>
  void read(std::map<K, V>& m) {
    uint32_t n = 0;
    read(n);
    m.clear();
    for (uint32_t i = 0; ok_ && i < n; ++i) { K k{}; V v{}; read(k); read(v); m.emplace(std::move(k), std::move(v)); }
    if (!ok_) m.clear();
  }
  template <class A, class B>
  void read(std::pair<A, B>& p) { read(p.first); read(p.second); }
  template <class T>
  void read(std::optional<T>& o) {
    uint8_t has = 0;
    read(has);
    o.reset();
    if (ok_ && has) { o.emplace(); read(*o); }
  }
  template <class T>
    requires HasFields<T, Reader>
  void read(T& t) { t.fields(*this); }

  Bytes in_;
  bool ok_ = true;
};

template <class T>
std::string encode(const T& value) {
  std::string out;
  Writer w(out);
  w(value);
  return out;
}

// Trailing bytes are allowed: a newer peer may append members.
template <class T>
Result<T> decode(Bytes in) {
  T value{};
  Reader r(in);
  r(value);
  if (!r.ok()) return Status(StatusCode::kCorrupt, "truncated or malformed message");
  return value;
}
template <class T>
Result<T> decode(std::string_view in) { return decode<T>(as_bytes(in)); }

}  // namespace sheaf::wire
