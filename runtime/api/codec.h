// Codec<T>: which C++ types travel, and as what.
//
// bool; integers; enumerations; float and double; std::string (str); std::vector<std::byte> and vectors of uint8_t (bytes
// for other languages); std::vector, std::array, std::deque, std::set, std::unordered_set (lists; arrays of numbers in
// one piece); std::map, std::unordered_map (dicts); std::pair, std::tuple (tuples); std::optional (None or the value);
// std::monostate (None); ObjectRef<T>, ActorHandle<T>, View<T>; and a struct that lists its members, as a tuple:
//
//   struct Point { double x, y; template <class A> void fields(A& a) { a(x, y); } };
//
// A type that is read must be default-constructible. Numbers are checked against the range of the type they are read as.
#pragma once

#include <array>
#include <deque>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/api/decoder.h"
#include "runtime/api/encoder.h"
#include "runtime/api/error.h"
#include "runtime/api/object_ref.h"
#include "runtime/api/view.h"

namespace sheaf {

template <class T>
struct Codec;

namespace internal {

template <class T>
concept Number = (std::is_integral_v<T> || std::is_floating_point_v<T>) && !std::is_same_v<T, bool> && sizeof(T) <= 8;

struct FieldProbe {
  template <class... Ts>
  void operator()(Ts&...) {}
};
template <class T>
concept Struct = requires(T& t, FieldProbe& probe) { t.fields(probe); };

template <Number T>
constexpr char format_of() {
  if constexpr (std::is_same_v<T, float>) return 'f';
  else if constexpr (std::is_floating_point_v<T>) return 'd';
  else if constexpr (sizeof(T) == 1) return std::is_signed_v<T> ? 'b' : 'B';
  else if constexpr (sizeof(T) == 2) return std::is_signed_v<T> ? 'h' : 'H';
  else if constexpr (sizeof(T) == 4) return std::is_signed_v<T> ? 'i' : 'I';
  else return std::is_signed_v<T> ? 'q' : 'Q';
}

template <class E, class T>
void write(E& e, const T& value) { Codec<T>::write(e, value); }
template <class T>
void read(Decoder& d, T& out);

template <class T>
bool narrow(Decoder& d, int64_t value, uint64_t unsigned_value, bool is_unsigned, T& out) {
  bool fits = is_unsigned ? unsigned_value <= static_cast<uint64_t>(std::numeric_limits<T>::max())
              : std::is_signed_v<T> ? value >= static_cast<int64_t>(std::numeric_limits<T>::min()) &&
                                          value <= static_cast<int64_t>(std::numeric_limits<T>::max())
                                    : value >= 0 && static_cast<uint64_t>(value) <=
                                                        static_cast<uint64_t>(std::numeric_limits<T>::max());
  if (!fits) {
    std::string text = is_unsigned ? std::to_string(unsigned_value) : std::to_string(value);
    d.fail("the integer " + text + " does not fit into " + std::to_string(sizeof(T) * 8) +
           (std::is_signed_v<T> ? " bits" : " bits without a sign"));
    return false;
  }
  out = is_unsigned ? static_cast<T>(unsigned_value) : static_cast<T>(value);
  return true;
}

// One number out of an array whose type is S.
template <class S, class T>
bool convert(Decoder& d, const std::byte* from, T& out) {
  S value;
  std::memcpy(&value, from, sizeof value);
  if constexpr (std::is_floating_point_v<T>) {
    out = static_cast<T>(value);
    return true;
  } else if constexpr (std::is_floating_point_v<S>) {
    d.fail("expected integers, found an array of floats");
    return false;
  } else if constexpr (std::is_signed_v<S>) {
    return narrow(d, static_cast<int64_t>(value), 0, false, out);
  } else {
    return narrow(d, 0, static_cast<uint64_t>(value), true, out);
  }
}

template <class T>
void convert_numbers(Decoder& d, const Decoder::Numbers& n, T* out) {
  auto each = [&]<class S>(S) {
    for (uint64_t i = 0; i < n.count; ++i) {
      if (!convert<S>(d, n.data + i * sizeof(S), out[i])) return;
    }
  };
  switch (n.format) {
    case 'b': return each(int8_t{});
    case 'B': return each(uint8_t{});
    case 'h': return each(int16_t{});
    case 'H': return each(uint16_t{});
    case 'i': return each(int32_t{});
    case 'I': return each(uint32_t{});
    case 'q': return each(int64_t{});
    case 'Q': return each(uint64_t{});
    case 'f': return each(float{});
    default: return each(double{});
  }
}

// Numbers for one span: in one piece, or as plain data.
template <class E, Number T>
void write_numbers(E& e, std::span<const T> values) {
  if (!e.plain()) return e.numbers(format_of<T>(), values.data(), sizeof(T), values.size());
  if constexpr (std::is_same_v<T, uint8_t>) {
    e.text(ValueTag::kBytes, values.data(), values.size());
  } else {
    e.counted(ValueTag::kList, values.size());
    for (T v : values) write(e, v);
  }
}

// The head of a list or tuple: how many values follow.
inline uint32_t list_head(Decoder& d) {
  ValueTag t = d.tag();
  if (t != ValueTag::kList && t != ValueTag::kTuple) {
    d.expected("a list", t);
    return 0;
  }
  return d.count();
}

inline bool tuple_head(Decoder& d, size_t n) {
  ValueTag t = d.tag();
  if (t != ValueTag::kTuple && t != ValueTag::kList) d.expected("a tuple", t);
  uint32_t found = d.count();
  if (d.ok() && found != n) {
    d.fail("expected a tuple of " + std::to_string(n) + ", found one of " + std::to_string(found));
  }
  return d.ok();
}

template <Number T>
void read_numbers(Decoder& d, std::vector<T>& out) {
  ValueTag t = d.peek();
  out.clear();
  if (t == ValueTag::kNumbers) {
    d.tag();
    Decoder::Numbers n = d.numbers();
    if (!d.ok()) return;
    out.resize(n.count);
    if (n.count == 0) return;
    if (n.format == format_of<T>()) std::memcpy(out.data(), n.data, n.count * sizeof(T));
    else convert_numbers(d, n, out.data());
  } else if (sizeof(T) == 1 && t == ValueTag::kBytes) {
    d.tag();
    std::string_view bytes = d.text();
    out.resize(bytes.size());
    if (!bytes.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  } else {
    uint32_t n = list_head(d);
    for (uint32_t i = 0; i < n && d.ok(); ++i) read(d, out.emplace_back());
  }
}

template <class T>
View<T> read_view(Decoder& d) {
  if (d.peek() == ValueTag::kNumbers) {
    Decoder probe = d;
    probe.tag();
    Decoder::Numbers n = probe.numbers();
    bool in_place = probe.ok() && n.format == format_of<T>() &&
                    reinterpret_cast<uintptr_t>(n.data) % alignof(T) == 0;
    std::shared_ptr<const void> keep = in_place ? d.share() : nullptr;
    if (keep) {
      d.tag();
      d.numbers();
      return View<T>({reinterpret_cast<const T*>(n.data), n.count}, std::move(keep));
    }
  }
  std::vector<T> values;
  read_numbers(d, values);
  return View<T>(std::move(values));
}

// Writes a struct's members; counts them first, as fields() may call its archive several times.
struct FieldCounter {
  size_t n = 0;
  template <class... Ts>
  void operator()(Ts&...) { n += sizeof...(Ts); }
};
template <class E>
struct FieldWriter {
  E& encoder;
  template <class... Ts>
  void operator()(Ts&... members) { (write(encoder, std::as_const(members)), ...); }
};
struct FieldReader {
  Decoder& decoder;
  template <class... Ts>
  void operator()(Ts&... members) { (read(decoder, members), ...); }
};

template <class C>
struct ListCodec {
  template <class E>
  static void write(E& e, const C& values) {
    e.counted(ValueTag::kList, values.size());
    for (const auto& v : values) internal::write(e, v);
  }
};
template <class C>
struct SequenceCodec : ListCodec<C> {
  static void read(Decoder& d, C& out) {
    out.clear();
    uint32_t n = list_head(d);
    for (uint32_t i = 0; i < n && d.ok(); ++i) internal::read(d, out.emplace_back());
  }
};
template <class C>
struct SetCodec : ListCodec<C> {
  static void read(Decoder& d, C& out) {
    out.clear();
    uint32_t n = list_head(d);
    for (uint32_t i = 0; i < n && d.ok(); ++i) {
      typename C::value_type v{};
      internal::read(d, v);
      if (d.ok()) out.insert(std::move(v));
    }
  }
};
template <class C>
struct DictCodec {
  template <class E>
  static void write(E& e, const C& values) {
    e.counted(ValueTag::kDict, values.size());
    for (const auto& [k, v] : values) {
      internal::write(e, k);
      internal::write(e, v);
    }
  }
  static void read(Decoder& d, C& out) {
    out.clear();
    ValueTag t = d.tag();
    if (t != ValueTag::kDict) return d.expected("a dict", t);
    uint32_t n = d.count(2);
    for (uint32_t i = 0; i < n && d.ok(); ++i) {
      typename C::key_type k{};
      typename C::mapped_type v{};
      internal::read(d, k);
      internal::read(d, v);
      if (d.ok()) out.insert_or_assign(std::move(k), std::move(v));
    }
  }
};
template <class C>
struct TupleCodec {
  template <class E>
  static void write(E& e, const C& value) {
    e.counted(ValueTag::kTuple, std::tuple_size_v<C>);
    std::apply([&](const auto&... v) { (internal::write(e, v), ...); }, value);
  }
  static void read(Decoder& d, C& out) {
    if (!tuple_head(d, std::tuple_size_v<C>)) return;
    std::apply([&](auto&... v) { (internal::read(d, v), ...); }, out);
  }
};

}  // namespace internal

template <>
struct Codec<bool> {
  template <class E>
  static void write(E& e, bool v) { e.boolean(v); }
  static void read(internal::Decoder& d, bool& out) { out = d.boolean(); }
};

template <internal::Number T>
struct Codec<T> {
  template <class E>
  static void write(E& e, T v) {
    if constexpr (std::is_floating_point_v<T>) e.floating(v);
    else if constexpr (std::is_signed_v<T>) e.integer(v);
    else e.unsigned_integer(v);
  }
  static void read(internal::Decoder& d, T& out) {
    if constexpr (std::is_floating_point_v<T>) {
      out = static_cast<T>(d.floating());
    } else {
      int64_t value = 0;
      uint64_t unsigned_value = 0;
      bool is_unsigned = false;
      if (d.integer(&value, &unsigned_value, &is_unsigned)) {
        internal::narrow(d, value, unsigned_value, is_unsigned, out);
      }
    }
  }
};

template <class T>
  requires std::is_enum_v<T> && (!std::is_same_v<T, std::byte>)
struct Codec<T> {
  using Number = std::underlying_type_t<T>;
  template <class E>
  static void write(E& e, T v) { internal::write(e, static_cast<Number>(v)); }
  static void read(internal::Decoder& d, T& out) {
    Number v{};
    internal::read(d, v);
    out = static_cast<T>(v);
  }
};

template <>
struct Codec<std::monostate> {
  template <class E>
  static void write(E& e, std::monostate) { e.none(); }
  static void read(internal::Decoder& d, std::monostate&) {
    auto t = d.tag();
    if (t != internal::ValueTag::kNone) d.expected("None", t);
  }
};

template <>
struct Codec<std::string_view> {   // written only: what is read needs an owner
  template <class E>
  static void write(E& e, std::string_view v) {
    bool text = !e.plain() || internal::is_utf8(v);
    e.text(text ? internal::ValueTag::kStr : internal::ValueTag::kBytes, v.data(), v.size());
  }
};
template <>
struct Codec<std::string> {
  template <class E>
  static void write(E& e, const std::string& v) { Codec<std::string_view>::write(e, v); }
  static void read(internal::Decoder& d, std::string& out) {
    auto t = d.tag();
    if (t != internal::ValueTag::kStr && t != internal::ValueTag::kBytes) return d.expected("a str", t);
    out = d.text();
  }
};

template <>
struct Codec<std::vector<std::byte>> {
  template <class E>
  static void write(E& e, const std::vector<std::byte>& v) {
    e.text(internal::ValueTag::kBytes, v.data(), v.size());
  }
  static void read(internal::Decoder& d, std::vector<std::byte>& out) {
    std::vector<uint8_t> bytes;
    internal::read_numbers(d, bytes);
    auto from = std::as_bytes(std::span(bytes));
    out.assign(from.begin(), from.end());
  }
};
template <internal::Number T>
struct Codec<std::vector<T>> {
  template <class E>
  static void write(E& e, const std::vector<T>& v) { internal::write_numbers(e, std::span<const T>(v)); }
  static void read(internal::Decoder& d, std::vector<T>& out) { internal::read_numbers(d, out); }
};
template <internal::Number T>
struct Codec<View<T>> {
  template <class E>
  static void write(E& e, const View<T>& v) { internal::write_numbers(e, std::span<const T>(v)); }
  static void read(internal::Decoder& d, View<T>& out) { out = internal::read_view<T>(d); }
};
template <>
struct Codec<std::vector<bool>> {
  template <class E>
  static void write(E& e, const std::vector<bool>& v) {
    e.counted(internal::ValueTag::kList, v.size());
    for (bool b : v) e.boolean(b);
  }
  static void read(internal::Decoder& d, std::vector<bool>& out) {
    uint32_t n = internal::list_head(d);
    out.clear();
    for (uint32_t i = 0; i < n && d.ok(); ++i) out.push_back(d.boolean());
  }
};
template <class T>
struct Codec<std::vector<ObjectRef<T>>> {
  template <class E>
  static void write(E& e, const std::vector<ObjectRef<T>>& v) {
    e.counted(internal::ValueTag::kRefList, v.size());
    for (const auto& ref : v) Codec<ObjectRef<T>>::write_index(e, ref);
  }
  static void read(internal::Decoder& d, std::vector<ObjectRef<T>>& out) {
    out.clear();
    bool list = d.peek() == internal::ValueTag::kRefList;
    uint32_t n = 0;
    if (list) {
      d.tag();
      n = d.count(4);
    } else {
      n = internal::list_head(d);
    }
    for (uint32_t i = 0; i < n && d.ok(); ++i) {
      if (list) Codec<ObjectRef<T>>::read_index(d, out.emplace_back());
      else internal::read(d, out.emplace_back());
    }
  }
};
template <class T>
struct Codec<std::vector<T>> : internal::SequenceCodec<std::vector<T>> {};
template <class T>
struct Codec<std::deque<T>> : internal::SequenceCodec<std::deque<T>> {};
template <class T>
struct Codec<std::set<T>> : internal::SetCodec<std::set<T>> {};
template <class T>
struct Codec<std::unordered_set<T>> : internal::SetCodec<std::unordered_set<T>> {};
template <class K, class V>
struct Codec<std::map<K, V>> : internal::DictCodec<std::map<K, V>> {};
template <class K, class V>
struct Codec<std::unordered_map<K, V>> : internal::DictCodec<std::unordered_map<K, V>> {};
template <class A, class B>
struct Codec<std::pair<A, B>> : internal::TupleCodec<std::pair<A, B>> {};
template <class... Ts>
struct Codec<std::tuple<Ts...>> : internal::TupleCodec<std::tuple<Ts...>> {};

template <class T, size_t N>
struct Codec<std::array<T, N>> : internal::ListCodec<std::array<T, N>> {
  static void read(internal::Decoder& d, std::array<T, N>& out) {
    std::vector<T> values;
    internal::read(d, values);
    if (d.ok() && values.size() != N) {
      return d.fail("expected " + std::to_string(N) + " elements, found " + std::to_string(values.size()));
    }
    for (size_t i = 0; d.ok() && i < N; ++i) out[i] = std::move(values[i]);
  }
};

template <class T>
struct Codec<std::optional<T>> {
  template <class E>
  static void write(E& e, const std::optional<T>& v) {
    if (v) internal::write(e, *v);
    else e.none();
  }
  static void read(internal::Decoder& d, std::optional<T>& out) {
    out.reset();
    if (!d.skip_none() && d.ok()) internal::read(d, out.emplace());
  }
};

template <class T>
struct Codec<ObjectRef<T>> {
  template <class E>
  static void write(E& e, const ObjectRef<T>& ref) {
    e.tag(internal::ValueTag::kRef);
    write_index(e, ref);
  }
  template <class E>
  static void write_index(E& e, const ObjectRef<T>& ref) {
    if (!ref) internal::throw_argument("an ObjectRef that refers to nothing cannot be passed on");
    e.ref_index(ref.slot());
  }
  static void read(internal::Decoder& d, ObjectRef<T>& out) {
    auto t = d.tag();
    if (t != internal::ValueTag::kRef) return d.expected("a reference", t);
    read_index(d, out);
  }
  static void read_index(internal::Decoder& d, ObjectRef<T>& out) {
    ObjectId id = d.ref();
    if (d.ok() && d.runtime()) out = ObjectRef<T>(d.runtime(), d.runtime()->import(id));
  }
};

template <internal::Struct T>
struct Codec<T> {
  template <class E>
  static void write(E& e, const T& value) {
    T& members = const_cast<T&>(value);   // fields() only reads here
    internal::FieldCounter counter;
    members.fields(counter);
    e.counted(internal::ValueTag::kTuple, counter.n);
    internal::FieldWriter<E> writer{e};
    members.fields(writer);
  }
  static void read(internal::Decoder& d, T& out) {
    internal::FieldCounter counter;
    out.fields(counter);
    if (!internal::tuple_head(d, counter.n)) return;
    internal::FieldReader reader{d};
    out.fields(reader);
  }
};

namespace internal {

template <class T>
concept Transferable = requires(Encoder<CountSink>& e, const T& value) { Codec<T>::write(e, value); };

template <class T>
void read(Decoder& d, T& out) {
  if (!d.enter()) return;
  if (d.peek() == ValueTag::kDependency && d.ok()) {
    d.tag();
    DecodeSource source;
    Bytes bytes = d.dependency(&source);
    if (d.ok()) {
      Decoder inner(bytes, source);
      Codec<T>::read(inner, out);
      if (!inner.ok()) d.fail(inner.error());
    }
  } else if (d.ok()) {
    Codec<T>::read(d, out);
  }
  d.leave();
}

}  // namespace internal
}  // namespace sheaf
