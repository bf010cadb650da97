// JSON, as much as Sheaf itself needs: an appending writer and a strict, bounded parser.
//
// The parser takes RFC 8259 text only: no comments, no trailing commas, valid UTF-8, no duplicate keys, at most 64
// levels and 64 MiB. Integers keep 64 bits; other numbers are doubles. Strings written are always valid UTF-8: bytes
// that are not are replaced by U+FFFD. Values; no thread affinity.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/status.h"

namespace sheaf {

// json.begin_object().key("pid").value(12).end_object(). Commas are put where they belong; balance is the caller's
// duty and checked by take().
class JsonWriter {
 public:
  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }
  JsonWriter& key(std::string_view name);
  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(const std::string& text) { return value(std::string_view(text)); }
  JsonWriter& value(bool v) { return raw(v ? "true" : "false"); }
  JsonWriter& value(double v);  // NaN and infinities become null
  template <std::integral T>
  JsonWriter& value(T v) { return raw(std::to_string(v)); }
  JsonWriter& null() { return raw("null"); }
  // Text that is JSON already.
  JsonWriter& raw(std::string_view json);
  std::string take() &&;

 private:
  JsonWriter& open(char c);
  JsonWriter& close(char c);
  void separate();

  std::string out_;
  int depth_ = 0;
  bool comma_ = false;
};

// Quoted and escaped.
std::string json_quote(std::string_view text);

class JsonValue {
 public:
  using Array = std::vector<JsonValue>;
  using Object = std::map<std::string, JsonValue>;

  JsonValue() = default;
  template <class T>
  explicit JsonValue(T v) : data_(std::move(v)) {}

  bool is_null() const { return std::holds_alternative<std::monostate>(data_); }
  // Null when the value is of another kind.
  const bool* as_bool() const { return std::get_if<bool>(&data_); }
  const int64_t* as_int() const { return std::get_if<int64_t>(&data_); }
  const std::string* as_string() const { return std::get_if<std::string>(&data_); }
  const Array* as_array() const { return std::get_if<Array>(&data_); }
  const Object* as_object() const { return std::get_if<Object>(&data_); }
  // Integers too. False when it is no number.
  bool as_number(double* out) const;
  // Member of an object; null when this is no object or has none of that name.
  const JsonValue* find(const std::string& name) const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> data_;
};

// kInvalidArgument with line and column.
Result<JsonValue> parse_json(std::string_view text);

}  // namespace sheaf
