// How values look as bytes, in every language: a tag and its data. Arguments, results and stored objects are all such
// encodings, so a C++ program reads what Python wrote as long as it is plain data.
//
// Python writes exact immutable builtins, and flat lists and dicts of them, natively and anything else as pickle; it
// reads every tag. C++ writes plain data and containers and reads everything but pickle. Lengths and counts are u32
// little-endian unless said.
#pragma once

#include <cstdint>

namespace sheaf::runtime {

enum class ValueTag : uint8_t {
  kNone = 0,
  kTrue = 1,
  kFalse = 2,
  kInt8 = 3,         // 1 byte, signed
  kInt64 = 4,        // 8 bytes
  kFloat64 = 5,      // 8 bytes
  kBytes = 6,        // count, bytes
  kStr = 7,          // count, UTF-8
  kTuple = 8,        // count, values
  kList = 9,         // count, values
  kDict = 10,        // count, key and value in turn
  kDependency = 11,  // u32 index: the value of that dependency stands here (top-level ObjectRef arguments)
  kPickle = 12,      // count, pickle protocol 5, no out-of-band buffers
  kPickleBuffers = 13,  // see PickleBuffersHead
  kRefList = 14,     // count n, then n u32 indices into the value's contained references: a list of ObjectRefs
  kRef = 15,         // u32 index into the value's contained references: one bare ObjectRef
  kArguments = 16,   // a call: u32 positional count, u32 keyword count, positional values, then (kStr, value) pairs
  kPickleRefs = 17,  // like kPickle; contains references, which it names by index
  kRefTable = 19,    // 3 zero bytes, u32 n, n 16-byte ObjectIds, then zeros up to a multiple of 64 from this
                     // tag, then a value: what its reference indices stand for. First tag of every stored object and
                     // result that contains references; calls carry their references beside the arguments.
  kArrow = 18,       // block codec for Arrow tables (u32 head length, head, 64-byte aligned buffers)
  kNumbers = 20,     // see NumbersHead: numbers of one type, contiguous (a C++ vector of numbers)
  kUint64 = 21,      // 8 bytes: an integer above the range of kInt64
};

// After the tag byte, 7 bytes of zero; then this head; then `buffer_count` BufferSpan; then the pickle; then the buffers,
// each aligned to 64 bytes relative to the tag byte. In the arena the tag itself stands at a multiple of 64, so buffers
// are read in place; elsewhere they are copied.
struct PickleBuffersHead {
  uint64_t pickle_bytes;
  uint32_t buffer_count;
  uint32_t flags;          // bit 0: the pickle names contained references by index
};
struct BufferSpan {
  uint64_t offset;         // from the tag byte
  uint64_t length;
  uint32_t readonly;       // the buffer's own flag; views of stored objects are read-only in any case
  uint32_t reserved;
};

// Right after the tag byte; then `padding` zero bytes; then `count` numbers, little-endian, without gaps. The writer
// chooses the padding so that large arrays start at a multiple of 64 from the payload's start and are read in place.
struct NumbersHead {
  char format;             // as in Python's struct module: b B h H i I q Q f d
  uint8_t padding;
  char zero[5];
  uint64_t count;
} __attribute__((packed));
static_assert(sizeof(NumbersHead) == 15);

}  // namespace sheaf::runtime
