#include "python/binding/frame.h"

#include <algorithm>
#include <memory>

#include "python/binding/object_ref.h"

namespace sheaf::python {

namespace {

struct FrameStack {
  std::vector<std::unique_ptr<Frame>> frames;
  size_t depth = 0;
  Frame* pickling = nullptr;
};
thread_local FrameStack t_stack;

}  // namespace

void Scratch::grow(size_t n) {
  size_t wanted = std::max({capacity_ * 2, size_ + n, size_t{1024}});
  data_ = static_cast<char*>(realloc(data_, wanted));
  SHEAF_CHECK(data_ != nullptr);
  capacity_ = wanted;
}

void Scratch::reset() {
  size_ = 0;
  if (capacity_ > kKeepBytes) {
    free(data_);
    data_ = nullptr;
    capacity_ = 0;
  }
}

void Frame::add_piece(const char* data, size_t size, PyObject* owner) {
  pieces.push_back({bytes.size(), data, size});
  piece_bytes += size;
  if (owner) keep.push_back(Py_NewRef(owner));
}

void Frame::cut(const Mark& m) {
  bytes.cut(m.bytes);
  pieces.resize(m.pieces);
  piece_bytes = m.piece_bytes;
  while (refs.size() > m.refs) {
    PyObject* ref = refs.back();
    refs.pop_back();
    Py_XDECREF(ref);
  }
}

std::span<const Slot> Frame::nested_slots(size_t first) {
  nested.clear();
  for (size_t i = first; i < refs.size(); ++i) nested.push_back(as_ref(refs[i])->slot);
  return nested;
}

void Frame::clear() {
  bytes.reset();
  plain = false;
  pieces.clear();
  piece_bytes = 0;
  deps.clear();
  if (Runtime* rt = runtime_of_epoch(epoch)) {
    for (Slot slot : owned) rt->release(slot);
  }
  owned.clear();
  for (Py_buffer& b : buffers) PyBuffer_Release(&b);
  buffers.clear();
  for (PyObject* o : keep) Py_DECREF(o);
  keep.clear();
  for (PyObject* o : refs) Py_XDECREF(o);
  refs.clear();
}

Frame* Frame::pickling() { return t_stack.pickling; }

Runtime* runtime_of_frame(const Frame& frame) {
  Runtime* rt = runtime_or_raise();
  if (!rt || frame.epoch == g_engine.epoch) [[likely]] return rt;
  PyErr_SetString(PyExc_RuntimeError, "The cluster was left while a value for it was being serialized.");
  return nullptr;
}

FrameScope::FrameScope() {
  FrameStack& s = t_stack;
  if (s.depth == s.frames.size()) s.frames.push_back(std::make_unique<Frame>());
  frame_ = s.frames[s.depth++].get();
  frame_->epoch = g_engine.epoch;
}

FrameScope::~FrameScope() {
  // Dropping references runs arbitrary destructors, which may open frames: above this one, which is still ours.
  frame_->clear();
  FrameStack& s = t_stack;
  --s.depth;
}

PicklingScope::PicklingScope(Frame* frame) : outer_(t_stack.pickling) { t_stack.pickling = frame; }
PicklingScope::~PicklingScope() { t_stack.pickling = outer_; }

}  // namespace sheaf::python
