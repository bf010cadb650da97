#include "runtime/api/decoder.h"

#include "objstore/copy.h"
#include "objstore/locator.h"
#include "runtime/api/encoder.h"
#include "runtime/api/error.h"

namespace sheaf::internal {

namespace {

std::string tag_name(ValueTag tag) {
  switch (tag) {
    case ValueTag::kNone: return "None";
    case ValueTag::kTrue:
    case ValueTag::kFalse: return "a bool";
    case ValueTag::kInt8:
    case ValueTag::kInt64:
    case ValueTag::kUint64: return "an integer";
    case ValueTag::kFloat64: return "a float";
    case ValueTag::kBytes: return "bytes";
    case ValueTag::kStr: return "a str";
    case ValueTag::kTuple: return "a tuple";
    case ValueTag::kList: return "a list";
    case ValueTag::kDict: return "a dict";
    case ValueTag::kNumbers: return "an array of numbers";
    case ValueTag::kRef:
    case ValueTag::kDependency: return "a reference";
    case ValueTag::kRefList: return "a list of references";
    case ValueTag::kPickle:
    case ValueTag::kPickleRefs:
    case ValueTag::kPickleBuffers:
      return "a pickled Python object (pass plain data: numbers, text, bytes, tuples, lists, dicts)";
    default: return "a value with tag " + std::to_string(static_cast<int>(tag));
  }
}

}  // namespace

void MemorySink::copy_large(std::byte* to, const void* data, size_t n) { objstore::copy_to_arena(to, data, n); }

void throw_too_many(size_t n) {
  throw_argument("a value of " + std::to_string(n) + " elements or bytes is too large to be encoded");
}

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x80) {
      ++i;
      continue;
    }
    size_t more = c >= 0xf0 && c < 0xf5 ? 3 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xc2 && c < 0xe0 ? 1 : 0;
    if (more == 0 || i + more >= text.size()) return false;
    uint32_t point = c & (0x3fu >> more);
    for (size_t k = 1; k <= more; ++k) {
      auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xc0) != 0x80) return false;
      point = point << 6 | (next & 0x3f);
    }
    bool overlong = (more == 2 && point < 0x800) || (more == 3 && point < 0x10000);
    if (overlong || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) return false;
    i += more + 1;
  }
  return true;
}

size_t number_bytes(char format) {
  switch (format) {
    case 'b': case 'B': return 1;
    case 'h': case 'H': return 2;
    case 'i': case 'I': case 'f': return 4;
    case 'q': case 'Q': case 'd': return 8;
    default: return 0;
  }
}

Decoder::Decoder(Bytes bytes, const DecodeSource& source)
    : begin_(bytes.data()), at_(begin_), end_(begin_ + bytes.size()), source_(source), refs_(source.refs) {
  if (!bytes.empty() && static_cast<ValueTag>(*at_) == ValueTag::kRefTable) read_table();
}

void Decoder::read_table() {
  take(4);
  uint32_t n = count(16);
  const std::byte* ids = take(size_t{n} * 16);
  if (!ok()) return;
  table_.resize(n);
  if (n > 0) std::memcpy(table_.data(), ids, size_t{n} * 16);
  size_t used = static_cast<size_t>(at_ - begin_);
  take((objstore::kObjectAlignment - used % objstore::kObjectAlignment) % objstore::kObjectAlignment);
  refs_ = table_;
}

void Decoder::fail(std::string message) {
  if (error_.empty()) error_ = std::move(message);
  at_ = end_;
}

void Decoder::expected(std::string_view what, ValueTag found) {
  if (ok()) fail("expected " + std::string(what) + ", found " + tag_name(found));
}

ValueTag Decoder::peek() {
  if (at_ < end_) return static_cast<ValueTag>(*at_);
  fail("the encoding ends too early");
  return ValueTag::kNone;
}

const std::byte* Decoder::take(size_t n) {
  if (n > remaining()) {
    fail("the encoding ends too early");
    return nullptr;
  }
  const std::byte* p = at_;
  at_ += n;
  return p;
}

uint32_t Decoder::count(size_t least) {
  uint32_t n = scalar<uint32_t>();
  if (uint64_t{n} * least > remaining()) {
    fail("the encoding ends too early");
    return 0;
  }
  return n;
}

std::string_view Decoder::text() {
  uint32_t n = count();
  const std::byte* p = take(n);
  return ok() ? std::string_view(reinterpret_cast<const char*>(p), n) : std::string_view();
}

bool Decoder::skip_none() {
  if (peek() != ValueTag::kNone || !ok()) return false;
  ++at_;
  return true;
}

bool Decoder::integer(int64_t* value, uint64_t* unsigned_value, bool* is_unsigned) {
  *is_unsigned = false;
  ValueTag t = tag();
  switch (t) {
    case ValueTag::kInt8: *value = scalar<int8_t>(); break;
    case ValueTag::kInt64: *value = scalar<int64_t>(); break;
    case ValueTag::kUint64:
      *unsigned_value = scalar<uint64_t>();
      *is_unsigned = true;
      break;
    case ValueTag::kTrue: *value = 1; break;
    case ValueTag::kFalse: *value = 0; break;
    default: expected("an integer", t);
  }
  return ok();
}

double Decoder::floating() {
  ValueTag t = peek();
  if (t == ValueTag::kFloat64) {
    tag();
    return scalar<double>();
  }
  if (t != ValueTag::kInt8 && t != ValueTag::kInt64 && t != ValueTag::kUint64) {
    expected("a number", t);
    return 0;
  }
  int64_t v = 0;
  uint64_t u = 0;
  bool is_unsigned = false;
  if (!integer(&v, &u, &is_unsigned)) return 0;
  return is_unsigned ? static_cast<double>(u) : static_cast<double>(v);
}

bool Decoder::boolean() {
  ValueTag t = tag();
  if (t != ValueTag::kTrue && t != ValueTag::kFalse) expected("a bool", t);
  return t == ValueTag::kTrue;
}

Decoder::Numbers Decoder::numbers() {
  auto head = scalar<runtime::NumbersHead>();
  take(head.padding);
  size_t item = number_bytes(head.format);
  if (ok() && (item == 0 || head.count > remaining() / item)) fail("a malformed array of numbers");
  if (!ok()) return {'B', 0, nullptr};
  return {head.format, head.count, take(head.count * item)};
}

ObjectId Decoder::ref() {
  uint32_t index = scalar<uint32_t>();
  if (ok() && index >= refs_.size()) fail("a reference that the value does not have");
  return ok() ? refs_[index] : ObjectId{};
}

Bytes Decoder::dependency(DecodeSource* source) {
  uint32_t index = scalar<uint32_t>();
  if (!ok()) return {};
  if (!source_.task || index >= source_.task->deps.size()) {
    fail("an argument that the call does not have");
    return {};
  }
  const runtime::ValueView& view = source_.task->deps[index];
  source->runtime = source_.runtime;
  source->task = source_.task;
  source->dependency = view.state == runtime::ValueState::kArena ? index : -1;
  if (view.contained) source->refs = *view.contained;
  return view.bytes;
}

std::shared_ptr<const void> Decoder::share() {
  if (source_.pin) return source_.pin;
  if (source_.dependency < 0 || !source_.task) return nullptr;
  uint64_t pin = source_.runtime->retain_dep(*source_.task, static_cast<uint32_t>(source_.dependency));
  if (pin == 0) return nullptr;
  return std::make_shared<PinHolder>(source_.runtime, pin);
}

}  // namespace sheaf::internal
