#include "core/json.h"

#include <charconv>
#include <cmath>

namespace sheaf {
namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMaxBytes = 64 << 20;

// Length of the valid UTF-8 sequence at the front of `s`, 0 when there is none. Overlong forms,
// surrogates and values above U+10FFFF are invalid.
size_t utf8_length(std::string_view s) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  auto tail = [&](size_t i) { return i < s.size() && (byte(i) & 0xc0) == 0x80; };
  unsigned char c = byte(0);
  if (c < 0x80) return 1;
  if (c >= 0xc2 && c <= 0xdf) return tail(1) ? 2 : 0;
  if (c >= 0xe0 && c <= 0xef) {
    if (!tail(1) || !tail(2)) return 0;
    if ((c == 0xe0 && byte(1) < 0xa0) || (c == 0xed && byte(1) > 0x9f)) return 0;
    return 3;
  }
  if (c >= 0xf0 && c <= 0xf4) {
    if (!tail(1) || !tail(2) || !tail(3)) return 0;
    if ((c == 0xf0 && byte(1) < 0x90) || (c == 0xf4 && byte(1) > 0x8f)) return 0;
    return 4;
  }
  return 0;
}

void append_quoted(std::string& out, std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  while (!text.empty()) {
    unsigned char c = static_cast<unsigned char>(text[0]);
    size_t length = utf8_length(text);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += text[0];
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c < 0x20 || c == 0x7f) {
      out += "\\u00";
      out += kHex[c >> 4];
      out += kHex[c & 15];
    } else if (length == 0) {
      out += "\xef\xbf\xbd";
      length = 1;
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length);
  }
  out += '"';
}

void append_utf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xc0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 63));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xe0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 63));
    out += static_cast<char>(0x80 | (c & 63));
  } else {
    out += static_cast<char>(0xf0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 63));
    out += static_cast<char>(0x80 | (c >> 6 & 63));
    out += static_cast<char>(0x80 | (c & 63));
  }
}

// Recursive descent; the first error is kept in error_ and ends everything.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<JsonValue> parse() {
    JsonValue value;
    if (text_.size() > kMaxBytes)
      return Status(StatusCode::kInvalidArgument, "JSON text exceeds 64 MiB");
    if (parse_value(&value, 0)) {
      skip_space();
      if (at_ == text_.size()) return value;
      fail("unexpected text after the value");
    }
    return error_status();
  }

 private:
  bool fail(const char* what) {
    if (error_ == nullptr) error_ = what;
    return false;
  }
  Status error_status() const {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at_ && i < text_.size(); ++i) {
      column = text_[i] == '\n' ? 1 : column + 1;
      line += text_[i] == '\n';
    }
    return Status(StatusCode::kInvalidArgument, "JSON line " + std::to_string(line) + " column " +
                                                    std::to_string(column) + ": " + error_);
  }
  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }
  bool accept(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  bool parse_value(JsonValue* out, int depth) {
    if (depth > kMaxDepth) return fail("nested too deeply");
    skip_space();
    if (at_ >= text_.size()) return fail("unexpected end");
    switch (text_[at_]) {
      case '{': return parse_object(out, depth);
      case '[': return parse_array(out, depth);
      case '"': {
        std::string text;
        if (!parse_string(&text)) return false;
        *out = JsonValue(std::move(text));
        return true;
      }
      case 't': return parse_word("true", JsonValue(true), out);
      case 'f': return parse_word("false", JsonValue(false), out);
      case 'n': return parse_word("null", JsonValue(), out);
      default: return parse_number(out);
    }
  }
  bool parse_word(std::string_view word, JsonValue value, JsonValue* out) {
    if (text_.substr(at_, word.size()) != word) return fail("unexpected character");
    at_ += word.size();
    *out = std::move(value);
    return true;
  }
  bool parse_object(JsonValue* out, int depth) {
    ++at_;
    JsonValue::Object object;
    if (!accept('}')) {
      do {
        skip_space();
        std::string name;
        if (at_ >= text_.size() || text_[at_] != '"') return fail("expected a member name");
        if (!parse_string(&name)) return false;
        if (!accept(':')) return fail("expected ':'");
        auto [it, added] = object.try_emplace(std::move(name));
        if (!added) return fail("duplicate member name");
        if (!parse_value(&it->second, depth + 1)) return false;
      } while (accept(','));
      if (!accept('}')) return fail("expected ',' or '}'");
    }
    *out = JsonValue(std::move(object));
    return true;
  }
  bool parse_array(JsonValue* out, int depth) {
    ++at_;
    JsonValue::Array array;
    if (!accept(']')) {
      do {
        if (!parse_value(&array.emplace_back(), depth + 1)) return false;
      } while (accept(','));
      if (!accept(']')) return fail("expected ',' or ']'");
    }
    *out = JsonValue(std::move(array));
    return true;
  }
  bool parse_string(std::string* out) {
    ++at_;
    while (at_ < text_.size()) {
      unsigned char c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') {
        ++at_;
        return true;
      }
      if (c < 0x20) return fail("control character in a string");
      if (c == '\\') {
        if (!parse_escape(out)) return false;
        continue;
      }
      size_t length = utf8_length(text_.substr(at_));
      if (length == 0) return fail("invalid UTF-8");
      out->append(text_.substr(at_, length));
      at_ += length;
    }
    return fail("unterminated string");
  }
  bool parse_escape(std::string* out) {
    static constexpr std::string_view kFrom = "\"\\/bfnrt";
    static constexpr std::string_view kTo = "\"\\/\b\f\n\r\t";
    if (at_ + 1 >= text_.size()) return fail("unterminated string");
    char c = text_[at_ + 1];
    if (c != 'u') {
      size_t index = kFrom.find(c);
      if (index == std::string_view::npos) return fail("unknown escape");
      *out += kTo[index];
      at_ += 2;
      return true;
    }
    uint32_t unit = 0, low = 0;
    if (!parse_unit(&unit)) return false;
    if (unit >= 0xdc00 && unit <= 0xdfff) return fail("lone surrogate");
    if (unit >= 0xd800 && unit <= 0xdbff) {
      if (!parse_unit(&low) || low < 0xdc00 || low > 0xdfff) return fail("lone surrogate");
      unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
    }
    append_utf8(*out, unit);
    return true;
  }
  bool parse_unit(uint32_t* out) {
    std::string_view digits = text_.substr(at_, 6);
    if (digits.size() < 6 || digits[0] != '\\' || digits[1] != 'u') return fail("expected \\uXXXX");
    auto [end, error] = std::from_chars(digits.data() + 2, digits.data() + 6, *out, 16);
    if (error != std::errc() || end != digits.data() + 6) return fail("expected \\uXXXX");
    at_ += 6;
    return true;
  }
  bool digits() {
    size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    return at_ > begin;
  }
  bool parse_number(JsonValue* out) {
    size_t begin = at_;
    bool whole = true;
    if (text_[at_] == '-') ++at_;
    bool zero = at_ < text_.size() && text_[at_] == '0';
    size_t first = at_;
    if (!digits()) return fail("unexpected character");
    if (zero && at_ - first > 1) return fail("number with a leading zero");
    if (at_ < text_.size() && text_[at_] == '.') {
      whole = false;
      ++at_;
      if (!digits()) return fail("malformed number");
    }
    if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
      whole = false;
      ++at_;
      if (at_ < text_.size() && (text_[at_] == '+' || text_[at_] == '-')) ++at_;
      if (!digits()) return fail("malformed number");
    }
    const char* from = text_.data() + begin;
    const char* to = text_.data() + at_;
    int64_t integer = 0;
    if (whole && std::from_chars(from, to, integer).ec == std::errc()) {
      *out = JsonValue(integer);
      return true;
    }
    double number = 0;
    if (std::from_chars(from, to, number).ec != std::errc()) return fail("number out of range");
    *out = JsonValue(number);
    return true;
  }

  std::string_view text_;
  size_t at_ = 0;
  const char* error_ = nullptr;
};

}  // namespace

void JsonWriter::separate() {
  if (comma_) out_ += ',';
  comma_ = true;
}

JsonWriter& JsonWriter::open(char c) {
  separate();
  out_ += c;
  comma_ = false;
  ++depth_;
  return *this;
}

JsonWriter& JsonWriter::close(char c) {
  out_ += c;
  comma_ = true;
  --depth_;
  return *this;
}

JsonWriter& JsonWriter::key(std::string_view name) {
  separate();
  append_quoted(out_, name);
  out_ += ':';
  comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::value(std::string_view text) {
  separate();
  append_quoted(out_, text);
  return *this;
}

JsonWriter& JsonWriter::value(double v) {
  if (!std::isfinite(v)) return null();
  char buffer[40];
  auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, v);
  return raw(std::string_view(buffer, static_cast<size_t>(end - buffer)));
}

JsonWriter& JsonWriter::raw(std::string_view json) {
  separate();
  out_ += json;
  return *this;
}

std::string JsonWriter::take() && {
  SHEAF_CHECK(depth_ == 0);
  return std::move(out_);
}

std::string json_quote(std::string_view text) {
  std::string out;
  append_quoted(out, text);
  return out;
}

bool JsonValue::as_number(double* out) const {
  if (const int64_t* i = as_int()) {
    *out = static_cast<double>(*i);
    return true;
  }
  const double* d = std::get_if<double>(&data_);
  if (d != nullptr) *out = *d;
  return d != nullptr;
}

const JsonValue* JsonValue::find(const std::string& name) const {
  const Object* object = as_object();
  if (object == nullptr) return nullptr;
  auto it = object->find(name);
  return it == object->end() ? nullptr : &it->second;
}

Result<JsonValue> parse_json(std::string_view text) { return Parser(text).parse(); }

}  // namespace sheaf
