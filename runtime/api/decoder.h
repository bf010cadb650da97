// The bytes of runtime/value.h to C++ values.
//
// A Decoder never reads past its bytes and never throws: the first failure is kept as a sentence and everything after it
// reads as zero. Codec<T> (codec.h) says how a type is read. The bytes must stay in place while it reads; share() gives
// a handle that keeps bytes in the arena in place for longer. For one thread.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/runtime.h"
#include "runtime/value.h"

namespace sheaf::internal {

using runtime::Bytes;
using runtime::Runtime;
using runtime::ValueTag;

// Keeps an object's bytes in the arena in place.
struct PinHolder {
  PinHolder(Runtime* rt, uint64_t handle) : runtime(rt), pin(handle) {}
  PinHolder(const PinHolder&) = delete;
  ~PinHolder() { runtime->unpin(pin); }
  Runtime* runtime;
  uint64_t pin;
};

// Where the bytes come from.
struct DecodeSource {
  Runtime* runtime = nullptr;
  std::span<const ObjectId> refs;              // what reference indices stand for, unless a table comes first
  std::shared_ptr<const void> pin;             // of the object that the bytes belong to, null when not in the arena
  const runtime::IncomingTask* task = nullptr; // for dependencies
  int64_t dependency = -1;                     // the bytes are this dependency of `task`
};

class Decoder {
 public:
  // `source` must outlive the decoder.
  Decoder(Bytes bytes, const DecodeSource& source);

  bool ok() const { return error_.empty(); }
  const std::string& error() const { return error_; }
  // Keeps the first failure. Nothing can be read afterwards.
  void fail(std::string message);
  // "expected <what>, found <tag>"
  void expected(std::string_view what, ValueTag found);

  size_t remaining() const { return static_cast<size_t>(end_ - at_); }
  ValueTag peek();
  ValueTag tag() {
    ValueTag t = peek();
    if (ok()) ++at_;
    return t;
  }
  template <class T>
  T scalar() {
    T v{};
    if (const std::byte* p = take(sizeof v)) std::memcpy(&v, p, sizeof v);
    return v;
  }
  // A count of things that take at least `least` bytes each.
  uint32_t count(size_t least = 1);
  std::string_view text();
  const std::byte* take(size_t n);
  bool skip_none();   // true when the next value is None, which is then consumed

  // Integers of any width, True and False; the value is `*out`, or has the sign bit of an unsigned one set.
  bool integer(int64_t* value, uint64_t* unsigned_value, bool* is_unsigned);
  double floating();
  bool boolean();
  struct Numbers {
    char format;
    uint64_t count;
    const std::byte* data;
  };
  Numbers numbers();    // after the tag
  ObjectId ref();       // the next index, after the tag

  // Bytes of the dependency that stands here, after the tag; `*source` is what its Decoder needs. Empty on failure.
  Bytes dependency(DecodeSource* source);
  // Keeps the arena bytes alive; null when there is nothing to keep (copy them).
  std::shared_ptr<const void> share();
  Runtime* runtime() const { return source_.runtime; }

  // Nested values: false, and a failure, beyond 200 levels.
  bool enter() {
    if (++depth_ > kDepthMax) fail("nested too deeply");
    return ok();
  }
  void leave() { --depth_; }

 private:
  static constexpr int kDepthMax = 200;
  void read_table();

  const std::byte* begin_;
  const std::byte* at_;
  const std::byte* end_;
  const DecodeSource& source_;
  std::vector<ObjectId> table_;
  std::span<const ObjectId> refs_;
  std::string error_;
  int depth_ = 0;
};

// sizeof one number of a format of kNumbers, 0 for an unknown one.
size_t number_bytes(char format);

}  // namespace sheaf::internal
