// Python values to and from runtime/value.h.
//
// Exact immutable builtins, ObjectRefs, lists of ObjectRefs, and lists and dicts of numbers and short texts are written
// natively; everything else is pickled with protocol 5, its large buffers kept apart so that they are copied once, into
// the arena. All functions need the interpreter lock; they give it up for copies of a megabyte and more and while they
// wait for space.
#pragma once

#include <functional>
#include <optional>

#include "python/binding/frame.h"
#include "runtime/runtime.h"

namespace sheaf::python {

// ---- Encode. False or null: a Python exception is set.

// Appends one value. References inside get indices of `frame.refs`.
bool encode_value(Frame& frame, PyObject* value);
// Appends one argument of a call: a reference becomes a dependency, a large value an object of its own and then a
// dependency.
bool encode_argument(Frame& frame, PyObject* value);

// The value behind `mark`, complete as a stored object. Small: `bytes` (in the frame). Large: written to the arena
// memory that `begin` gives, which the caller then seals.
struct StoredValue {
  Bytes bytes;
  std::optional<runtime::PutBuffer> buffer;
  std::span<const Slot> nested;
};
using BeginPut = std::function<Result<runtime::PutBuffer>(size_t)>;
bool store_value(Frame& frame, const Frame::Mark& mark, const BeginPut& begin, StoredValue* out);

// A new object that holds the value behind `mark`. kNoSlot with an exception set on failure.
Slot put_value(Frame& frame, const Frame::Mark& mark);

// ---- Decode. Null: a Python exception is set.

struct Source {
  Bytes bytes;
  PyObject* pin = nullptr;               // keeps `bytes` in place for ever; null: they are gone when decode returns
  std::span<const ObjectId> refs = {};   // what reference indices stand for, unless a table comes first
};
PyObject* decode_value(const Source& source);

// A call's arguments: positional values, then values of the keywords.
class Call {
 public:
  Call() = default;
  Call(const Call&) = delete;
  ~Call() { clear(); }
  void add(PyObject* owned) {
    if (count_ < kFew) [[likely]] {
      few_[count_++] = owned;
      return;
    }
    if (many_.empty()) many_.assign(few_, few_ + kFew);
    many_.push_back(owned);
    ++count_;
  }
  size_t count() const { return count_; }
  PyObject* const* values() const { return count_ <= kFew ? few_ : many_.data(); }
  void clear();

  Ref names;               // tuple of keywords, null when there are none
  size_t positional = 0;   // the others are the keywords'

 private:
  static constexpr size_t kFew = 8;
  PyObject* few_[kFew];    // owned; all of them lie in many_ once there are more
  std::vector<PyObject*> many_;
  size_t count_ = 0;
};
bool decode_call(const Source& source, std::span<PyObject* const> dependencies, Call* out);

// Module functions: what references inside our pickles turn into, and how the pickler hands them over.
PyObject* ref_at(PyObject* module, PyObject* index);
PyObject* note_ref(PyObject* module, PyObject* ref);

}  // namespace sheaf::python
