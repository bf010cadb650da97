// C++ values to the bytes of runtime/value.h.
//
// Two passes over the same code: Encoder<CountSink> finds how many bytes and references a value has, Encoder<MemorySink>
// writes them, so that a large value goes straight into the arena. Codec<T> (codec.h) says how a type is written.
// References inside a value get indices in the order in which they are met. For one thread.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "core/status.h"
#include "runtime/runtime.h"
#include "runtime/value.h"

namespace sheaf::internal {

using runtime::Slot;
using runtime::ValueTag;

class CountSink {
 public:
  void raw(const void*, size_t n) { position_ += n; }
  void zeros(size_t n) { position_ += n; }
  void ref(Slot) { ++refs_; }
  size_t position() const { return position_; }
  uint32_t refs() const { return refs_; }

 private:
  size_t position_ = 0;
  uint32_t refs_ = 0;
};

class MemorySink {
 public:
  // `base`: where the payload starts; positions are relative to it.
  MemorySink(std::byte* base, size_t from, size_t size, std::vector<Slot>* refs)
      : base_(base), position_(from), end_(size), refs_(refs) {}
  void raw(const void* data, size_t n) {
    SHEAF_CHECK(n <= end_ - position_);   // a value that was changed between the passes must not overrun the arena
    copy(base_ + position_, data, n);
    position_ += n;
  }
  void zeros(size_t n) {
    SHEAF_CHECK(n <= end_ - position_);
    std::memset(base_ + position_, 0, n);
    position_ += n;
  }
  void ref(Slot slot) { refs_->push_back(slot); }
  size_t position() const { return position_; }
  uint32_t refs() const { return static_cast<uint32_t>(refs_->size()); }

 private:
  static constexpr size_t kLargeBytes = 1 << 20;
  static void copy(std::byte* to, const void* data, size_t n) {
    if (n >= kLargeBytes) copy_large(to, data, n);
    else if (n > 0) std::memcpy(to, data, n);
  }
  static void copy_large(std::byte* to, const void* data, size_t n);

  std::byte* base_;
  size_t position_;
  size_t end_;
  std::vector<Slot>* refs_;
};

template <class Sink>
class Encoder {
 public:
  // `plain`: for a reader in another language (docs/wire.md).
  Encoder(Sink sink, bool plain) : sink_(sink), plain_(plain) {}

  bool plain() const { return plain_; }
  const Sink& sink() const { return sink_; }
  void raw(const void* data, size_t n) { sink_.raw(data, n); }
  void tag(ValueTag t) { sink_.raw(&t, 1); }
  template <class T>
  void tagged(ValueTag t, T v) {
    char bytes[1 + sizeof(T)];
    bytes[0] = static_cast<char>(t);
    std::memcpy(bytes + 1, &v, sizeof v);
    sink_.raw(bytes, sizeof bytes);
  }
  void none() { tag(ValueTag::kNone); }
  void boolean(bool v) { tag(v ? ValueTag::kTrue : ValueTag::kFalse); }
  void integer(int64_t v) {
    if (v >= -128 && v < 128) tagged(ValueTag::kInt8, static_cast<int8_t>(v));
    else tagged(ValueTag::kInt64, v);
  }
  void unsigned_integer(uint64_t v) {
    if (v > INT64_MAX) tagged(ValueTag::kUint64, v);
    else integer(static_cast<int64_t>(v));
  }
  void floating(double v) { tagged(ValueTag::kFloat64, v); }
  // A container's or text's head; throws ArgumentError above 4 G.
  void counted(ValueTag t, size_t n) { tagged(t, checked_count(n)); }
  void count(size_t n) {
    uint32_t v = checked_count(n);
    sink_.raw(&v, sizeof v);
  }
  void text(ValueTag t, const void* data, size_t n) {
    counted(t, n);
    sink_.raw(data, n);
  }
  // The index of a reference, without its tag.
  void ref_index(Slot slot) {
    uint32_t index = sink_.refs();
    sink_.raw(&index, sizeof index);
    sink_.ref(slot);
  }
  void numbers(char format, const void* data, size_t item_bytes, size_t n) {
    runtime::NumbersHead head{};
    size_t start = sink_.position() + 1 + sizeof head;
    size_t alignment = item_bytes * n >= kPaddedBytes ? 64 : 8;
    head.format = format;
    head.padding = static_cast<uint8_t>((alignment - start % alignment) % alignment);
    head.count = n;
    tag(ValueTag::kNumbers);
    sink_.raw(&head, sizeof head);
    sink_.zeros(head.padding);
    sink_.raw(data, item_bytes * n);
  }

 private:
  static constexpr size_t kPaddedBytes = 4096;
  static uint32_t checked_count(size_t n);

  Sink sink_;
  bool plain_;
};

[[noreturn]] void throw_too_many(size_t n);

template <class Sink>
uint32_t Encoder<Sink>::checked_count(size_t n) {
  if (n > UINT32_MAX) [[unlikely]] throw_too_many(n);
  return static_cast<uint32_t>(n);
}

// UTF-8 without surrogates.
bool is_utf8(std::string_view text);

}  // namespace sheaf::internal
