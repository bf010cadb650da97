#include "python/binding/pickling.h"

#include <cstddef>

#include "python/binding/object_ref.h"
#include "runtime/value.h"

namespace sheaf::python {

using runtime::BufferSpan;
using runtime::PickleBuffersHead;
using runtime::ValueTag;

namespace {

constexpr int kPlainDepthMax = 16;
constexpr int kPlainItemsMax = 100000;

// Whether the value consists of exact builtins only, so that the fastest pickler does it right: no function, class or
// reference can hide inside. `*budget` bounds the look.
bool is_plain(PyObject* value, int depth, int* budget) {
  if (--*budget < 0) return false;
  PyTypeObject* type = Py_TYPE(value);
  if (value == Py_None || type == &PyLong_Type || type == &PyUnicode_Type || type == &PyFloat_Type ||
      type == &PyBool_Type || type == &PyBytes_Type) {
    return true;
  }
  if (depth >= kPlainDepthMax) return false;
  if (type == &PyList_Type || type == &PyTuple_Type) {
    PyObject** items = PySequence_Fast_ITEMS(value);
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(value); ++i) {
      if (!is_plain(items[i], depth + 1, budget)) return false;
    }
    return true;
  }
  if (type == &PyDict_Type) {
    Py_ssize_t at = 0;
    PyObject *key = nullptr, *item = nullptr;
    while (PyDict_Next(value, &at, &key, &item)) {
      if (!is_plain(key, depth + 1, budget) || !is_plain(item, depth + 1, budget)) return false;
    }
    return true;
  }
  return type == &PyByteArray_Type || type == &PyComplex_Type;
}

PyObject* dump_plain(PyObject* value) {
  static PyObject* dumps = nullptr;
  static PyObject* protocol = PyLong_FromLong(5);
  PyObject* function = imported(&dumps, "_pickle", "dumps");
  PyObject* args[] = {value, protocol};
  return function ? PyObject_Vectorcall(function, args, 2, nullptr) : nullptr;
}

// Bytes; large buffers of the value end up in the list `buffers`.
PyObject* dump_any(Frame& frame, PyObject* value, PyObject* buffers) {
  static PyObject* dump = nullptr;
  PyObject* function = imported(&dump, "sheaf._serialization", "dump");
  if (!function) return nullptr;
  PicklingScope scope(&frame);
  PyObject* args[] = {value, buffers};
  return PyObject_Vectorcall(function, args, 2, nullptr);
}

// Takes views of the pickle's buffers into the frame; their number, or -1.
Py_ssize_t hold_buffers(Frame& frame, PyObject* buffers, size_t* total) {
  Py_ssize_t n = PyList_GET_SIZE(buffers);
  for (Py_ssize_t i = 0; i < n; ++i) {
    Py_buffer view;
    if (PyObject_GetBuffer(PyList_GET_ITEM(buffers, i), &view, PyBUF_ANY_CONTIGUOUS) < 0) return -1;
    frame.buffers.push_back(view);
    *total += static_cast<size_t>(view.len);
  }
  return n;
}

size_t aligned(size_t n) { return (n + objstore::kObjectAlignment - 1) & ~(objstore::kObjectAlignment - 1); }

void put_with_buffers(Frame& frame, PyObject* pickle, size_t n, bool has_refs, size_t total) {
  size_t pickle_bytes = static_cast<size_t>(PyBytes_GET_SIZE(pickle));
  std::span<Py_buffer> views(frame.buffers.data() + frame.buffers.size() - n, n);
  PickleBuffersHead head{pickle_bytes, static_cast<uint32_t>(n), has_refs ? 1u : 0u};
  size_t head_bytes = 8 + sizeof head + n * sizeof(BufferSpan);
  bool in_pieces = head_bytes + pickle_bytes + total > kPieceBytes;
  char* p = frame.bytes.extend(head_bytes);
  memset(p, 0, 8);
  p[0] = static_cast<char>(ValueTag::kPickleBuffers);
  memcpy(p + 8, &head, sizeof head);
  size_t offset = head_bytes + pickle_bytes;
  for (size_t i = 0; i < n; ++i) {
    offset = aligned(offset);
    BufferSpan span{offset, static_cast<uint64_t>(views[i].len), views[i].readonly ? 1u : 0u, 0};
    memcpy(p + 8 + sizeof head + i * sizeof span, &span, sizeof span);
    offset += static_cast<size_t>(views[i].len);
  }
  auto append = [&](const char* data, size_t size, PyObject* owner) {
    if (in_pieces && size > 0) frame.add_piece(data, size, owner);
    else frame.bytes.put(data, size);
  };
  append(PyBytes_AS_STRING(pickle), pickle_bytes, pickle);
  offset = head_bytes + pickle_bytes;
  for (size_t i = 0; i < n; ++i) {
    size_t pad = aligned(offset) - offset;
    memset(frame.bytes.extend(pad), 0, pad);
    append(static_cast<const char*>(views[i].buf), static_cast<size_t>(views[i].len), nullptr);
    offset += pad + static_cast<size_t>(views[i].len);
  }
}

void put_pickle(Frame& frame, PyObject* pickle, bool has_refs) {
  size_t size = static_cast<size_t>(PyBytes_GET_SIZE(pickle));
  frame.bytes.put8(static_cast<uint8_t>(has_refs ? ValueTag::kPickleRefs : ValueTag::kPickle));
  frame.bytes.put32(static_cast<uint32_t>(size));
  if (size > kPieceBytes) frame.add_piece(PyBytes_AS_STRING(pickle), size, pickle);
  else frame.bytes.put(PyBytes_AS_STRING(pickle), size);
}

}  // namespace

bool pickle_value(Frame& frame, PyObject* value) {
  int budget = kPlainItemsMax;
  if (is_plain(value, 0, &budget)) {
    Ref pickle(dump_plain(value));
    if (!pickle) return false;
    if (PyBytes_GET_SIZE(pickle.get()) <= UINT32_MAX) put_pickle(frame, pickle.get(), false);
    else put_with_buffers(frame, pickle.get(), 0, false, 0);
    return true;
  }
  size_t refs_before = frame.refs.size();
  Ref buffers(PyList_New(0));
  if (!buffers) return false;
  Ref pickle(dump_any(frame, value, buffers.get()));
  if (!pickle) return false;
  if (!PyBytes_CheckExact(pickle.get())) {
    PyErr_SetString(PyExc_TypeError, "the serializer did not return bytes");
    return false;
  }
  size_t total = 0;
  Py_ssize_t n = hold_buffers(frame, buffers.get(), &total);
  if (n < 0) return false;
  bool has_refs = frame.refs.size() > refs_before;
  if (n == 0 && PyBytes_GET_SIZE(pickle.get()) <= UINT32_MAX) put_pickle(frame, pickle.get(), has_refs);
  else put_with_buffers(frame, pickle.get(), static_cast<size_t>(n), has_refs, total);
  return true;
}

PyObject* unpickle(PyObject* data, PyObject* buffers) {
  static PyObject* loads = nullptr;
  static PyObject* names = Py_BuildValue("(s)", "buffers");
  PyObject* function = imported(&loads, "_pickle", "loads");
  PyObject* args[] = {data, buffers};
  return function ? PyObject_Vectorcall(function, args, 1, buffers ? names : nullptr) : nullptr;
}

PyObject* note_ref(PyObject*, PyObject* ref) {
  Frame* frame = Frame::pickling();
  if (!frame || !is_ref(ref)) {
    PyErr_SetString(PyExc_RuntimeError, "no value is being pickled");
    return nullptr;
  }
  if (as_ref(ref)->slot == runtime::kNoSlot) Py_RETURN_NONE;
  if (usable_slot(as_ref(ref)) == runtime::kNoSlot) return nullptr;
  return PyLong_FromUnsignedLong(frame->add_ref(ref));
}

}  // namespace sheaf::python
