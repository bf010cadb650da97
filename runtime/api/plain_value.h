// sheaf::Value: any plain data, for values whose types are known only when they are there (what Python returns, JSON).
//
//   sheaf::Value config = sheaf::get(sheaf::py_function<sheaf::Value>("settings", "load").remote());
//   int64_t n = config["layers"][0]["width"].as<int64_t>();
//
// A value type. Reads tuples and lists as List; writes List as a list. as<T>() and the accessors throw DecodeError when
// the value is of another kind.
#pragma once

#include <concepts>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "runtime/api/codec.h"

namespace sheaf {

class Value {
 public:
  using List = std::vector<Value>;
  using Bytes = std::vector<std::byte>;
  // Keys are any plain data, ordered by kind, then value.
  using Dict = std::map<Value, Value>;
  // uint64_t holds only what int64_t cannot.
  using Data = std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, Bytes, List, Dict>;

  Value() = default;   // None
  template <class T>
    requires(!std::is_same_v<std::remove_cvref_t<T>, Value> && std::is_constructible_v<Data, T &&>)
  Value(T&& value) {   // NOLINT: values are written where plain data are expected
    using Plain = std::remove_cvref_t<T>;
    if constexpr (internal::Number<Plain> && !std::is_floating_point_v<Plain>) set_integer(value);
    else data_ = std::forward<T>(value);
  }

  const Data& data() const { return data_; }
  bool is_none() const { return std::holds_alternative<std::monostate>(data_); }
  size_t size() const { return is<List>() ? get<List>().size() : get<Dict>().size(); }
  template <class T>
  bool is() const { return std::holds_alternative<T>(data_); }
  // Exactly this alternative.
  template <class T>
  const T& get() const {
    const T* found = std::get_if<T>(&data_);
    if (!found) internal::throw_decode(std::string("the value is ") + kind());
    return *found;
  }
  // As any type that travels; numbers are converted as arguments are.
  template <class T>
  T as() const;
  const Value& operator[](std::integral auto index) const {
    size_t i = static_cast<size_t>(index);
    const List& list = get<List>();
    if (i >= list.size()) internal::throw_decode("the list has " + std::to_string(list.size()) + " elements");
    return list[i];
  }
  // Of a dict with text for keys. Throws DecodeError when there is no such key.
  const Value& operator[](std::string_view key) const {
    auto found = get<Dict>().find(Value(std::string(key)));
    if (found == get<Dict>().end()) internal::throw_decode("the dict has no key " + std::string(key));
    return found->second;
  }
  bool operator==(const Value& other) const { return data_ == other.data_; }
  bool operator<(const Value& other) const { return data_ < other.data_; }

 private:
  template <class T>
  void set_integer(T value) {
    if constexpr (std::is_unsigned_v<T>) {
      if (value > static_cast<uint64_t>(INT64_MAX)) {
        data_ = static_cast<uint64_t>(value);
        return;
      }
    }
    data_ = static_cast<int64_t>(value);
  }
  const char* kind() const {
    static constexpr const char* kNames[] = {"None", "a bool", "an integer", "an integer", "a float",
                                             "text", "bytes", "a list", "a dict"};
    return kNames[data_.index()];
  }
  Data data_;
};

template <>
struct Codec<Value> {
  template <class E>
  static void write(E& e, const Value& v) {
    std::visit([&](const auto& data) { internal::write(e, data); }, v.data());
  }
  static void read(internal::Decoder& d, Value& out);
};

namespace internal {

template <class T>
Value read_as(Decoder& d) {
  T value{};
  Codec<T>::read(d, value);
  return Value(std::move(value));
}
template <class T>
std::vector<T> read_as_vector(Decoder& d) {
  std::vector<T> values;
  read_numbers(d, values);
  return values;
}

}  // namespace internal

inline void Codec<Value>::read(internal::Decoder& d, Value& out) {
  using internal::ValueTag;
  ValueTag t = d.peek();
  switch (t) {
    case ValueTag::kNone: d.tag(); out = Value(); return;
    case ValueTag::kTrue:
    case ValueTag::kFalse: out = internal::read_as<bool>(d); return;
    case ValueTag::kInt8:
    case ValueTag::kInt64: out = internal::read_as<int64_t>(d); return;
    case ValueTag::kUint64: out = internal::read_as<uint64_t>(d); return;
    case ValueTag::kFloat64: out = internal::read_as<double>(d); return;
    case ValueTag::kStr: out = internal::read_as<std::string>(d); return;
    case ValueTag::kBytes: out = internal::read_as<Value::Bytes>(d); return;
    case ValueTag::kTuple:
    case ValueTag::kList: out = internal::read_as<Value::List>(d); return;
    case ValueTag::kDict: out = internal::read_as<Value::Dict>(d); return;
    case ValueTag::kNumbers: {
      internal::Decoder probe = d;
      probe.tag();
      char format = probe.numbers().format;
      Value::List list;
      if (format == 'f' || format == 'd') {
        for (double v : internal::read_as_vector<double>(d)) list.emplace_back(v);
      } else if (format == 'Q') {
        for (uint64_t v : internal::read_as_vector<uint64_t>(d)) list.emplace_back(v);
      } else {
        for (int64_t v : internal::read_as_vector<int64_t>(d)) list.emplace_back(v);
      }
      out = Value(std::move(list));
      return;
    }
    default: d.tag(); d.expected("plain data", t);
  }
}

template <class T>
T Value::as() const {
  if constexpr (internal::Number<T>) {
    if (is<bool>()) return static_cast<T>(std::get<bool>(data_));
  }
  internal::Encoder<internal::CountSink> counter(internal::CountSink(), true);
  internal::write(counter, *this);
  std::vector<std::byte> bytes(counter.sink().position());
  std::vector<internal::Slot> refs;
  internal::Encoder<internal::MemorySink> writer(internal::MemorySink(bytes.data(), 0, bytes.size(), &refs), true);
  internal::write(writer, *this);
  internal::DecodeSource source;
  internal::Decoder d(bytes, source);
  T out{};
  internal::read(d, out);
  if (!d.ok()) internal::throw_decode(d.error());
  return out;
}

}  // namespace sheaf
