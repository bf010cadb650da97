// The scratch of one encoding: bytes, pieces that stay where they are until they are copied, and references met.
//
// Encoding may run user code (__reduce__), which may encode in turn, so frames form a stack per thread and keep their
// memory for the next use. A frame belongs to the thread that opened it and needs the interpreter lock.
#pragma once

#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "objstore/locator.h"
#include "python/binding/engine.h"

namespace sheaf::python {

// Bytes that grow. Contents beyond size() are not initialised.
class Scratch {
 public:
  ~Scratch() { free(data_); }
  char* data() { return data_; }
  size_t size() const { return size_; }
  // `n` more bytes, to be filled by the caller.
  char* extend(size_t n) {
    if (size_ + n > capacity_) [[unlikely]] grow(n);
    char* p = data_ + size_;
    size_ += n;
    return p;
  }
  void put8(uint8_t v) { *extend(1) = static_cast<char>(v); }
  void put32(uint32_t v) { memcpy(extend(4), &v, 4); }
  void put(const void* p, size_t n) { memcpy(extend(n), p, n); }
  void cut(size_t size) { size_ = size; }
  // Empty; gives large memory back.
  void reset();

 private:
  static constexpr size_t kKeepBytes = 1 << 20;
  void grow(size_t n);
  char* data_ = nullptr;
  size_t size_ = 0, capacity_ = 0;
};

// Larger pieces are not copied into the scratch but named; a value that has one always goes to the arena.
inline constexpr size_t kPieceBytes = objstore::kInlineBytes;

struct Piece {
  size_t at;          // position in the scratch that it stands before
  const char* data;
  size_t size;
};

class Frame {
 public:
  // A position, to measure from and to return to.
  struct Mark {
    size_t bytes, pieces, piece_bytes, refs;
  };

  Scratch bytes;
  std::vector<Piece> pieces;
  size_t piece_bytes = 0;
  std::vector<Py_buffer> buffers;    // what pieces point into
  std::vector<PyObject*> keep;       // likewise, owned
  std::vector<PyObject*> refs;       // ObjectRefs by index, owned
  std::vector<Slot> deps;            // counts belong to the caller's objects or to `owned`
  std::vector<Slot> owned;           // one count each
  std::vector<Slot> nested;          // scratch of nested_slots()
  uint32_t epoch = 0;                // connection that all slots belong to
  bool plain = false;                // for another language: nothing is pickled, lists and dicts are written natively

  Mark mark() const { return {bytes.size(), pieces.size(), piece_bytes, refs.size()}; }
  size_t size_since(const Mark& m) const { return bytes.size() - m.bytes + (piece_bytes - m.piece_bytes); }
  void cut(const Mark& m);
  // A piece after what is there; `owner` is kept until the frame closes.
  void add_piece(const char* data, size_t size, PyObject* owner);
  uint32_t add_ref(PyObject* ref) {
    refs.push_back(Py_NewRef(ref));
    return static_cast<uint32_t>(refs.size() - 1);
  }
  // Slots of the references from index `first` on.
  std::span<const Slot> nested_slots(size_t first);
  void clear();

  // The innermost frame of this thread that is pickling; null outside.
  static Frame* pickling();
};

// The runtime that the frame's slots belong to, or null with RuntimeError set: user code that ran while the frame was
// filled may have left the cluster, or joined another one.
Runtime* runtime_of_frame(const Frame& frame);

// Opens a frame for a scope.
class FrameScope {
 public:
  FrameScope();
  ~FrameScope();
  FrameScope(const FrameScope&) = delete;
  Frame& operator*() { return *frame_; }
  Frame* operator->() { return frame_; }

 private:
  Frame* frame_;
};

// While it lives, references met by our pickler go to `frame`.
class PicklingScope {
 public:
  explicit PicklingScope(Frame* frame);
  ~PicklingScope();
  PicklingScope(const PicklingScope&) = delete;

 private:
  Frame* outer_;
};

}  // namespace sheaf::python
