#include <algorithm>

#include "objstore/copy.h"
#include "python/binding/codec.h"
#include "python/binding/object_ref.h"
#include "python/binding/pickling.h"
#include "runtime/value.h"

namespace sheaf::python {

using runtime::ValueTag;

namespace {

constexpr int kNativeDepthMax = 8;
constexpr int kPlainDepthMax = 200;
constexpr size_t kUnlockedCopyBytes = 1 << 20;
// Of text among a flat container's values: pickle writes an object that comes again only once, we do not.
constexpr Py_ssize_t kFlatTextMax = 64;         // bytes of one
constexpr size_t kFlatTextBytesMax = 1 << 20;   // of all

enum class Native { kDone, kNotNative, kFailed };

void put_tag(Frame& f, ValueTag tag) { f.bytes.put8(static_cast<uint8_t>(tag)); }

void put_int(Frame& f, int64_t v) {
  if (v >= -128 && v < 128) {
    char* p = f.bytes.extend(2);
    p[0] = static_cast<char>(ValueTag::kInt8);
    p[1] = static_cast<char>(v);
  } else {
    char* p = f.bytes.extend(9);
    p[0] = static_cast<char>(ValueTag::kInt64);
    memcpy(p + 1, &v, 8);
  }
}

void put_counted(Frame& f, ValueTag tag, const char* data, size_t size, PyObject* owner) {
  char* p = f.bytes.extend(5);
  p[0] = static_cast<char>(tag);
  uint32_t n = static_cast<uint32_t>(size);
  memcpy(p + 1, &n, 4);
  if (size > kPieceBytes) {
    f.add_piece(data, size, owner);
  } else {
    f.bytes.put(data, size);
  }
}

Native put_ref(Frame& f, PyObject* value) {
  if (as_ref(value)->slot == runtime::kNoSlot) return Native::kNotNative;   // nil: pickled by its id
  if (usable_slot(as_ref(value)) == runtime::kNoSlot) return Native::kFailed;
  uint32_t index = f.add_ref(value);
  put_tag(f, ValueTag::kRef);
  f.bytes.put32(index);
  return Native::kDone;
}

Native put_native(Frame& f, PyObject* value, int depth);

// A tuple or list.
Native put_sequence(Frame& f, PyObject* value, ValueTag tag, int depth) {
  if (depth >= (f.plain ? kPlainDepthMax : kNativeDepthMax) || Py_SIZE(value) > UINT32_MAX) return Native::kNotNative;
  Frame::Mark mark = f.mark();
  put_tag(f, tag);
  f.bytes.put32(static_cast<uint32_t>(PySequence_Fast_GET_SIZE(value)));
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(value); ++i) {
    Native done = put_native(f, PySequence_Fast_GET_ITEM(value, i), depth + 1);
    if (done != Native::kDone) {
      f.cut(mark);
      return done;
    }
  }
  return Native::kDone;
}

Native put_dict(Frame& f, PyObject* dict, int depth) {
  if (depth >= kPlainDepthMax) return Native::kNotNative;
  put_tag(f, ValueTag::kDict);
  f.bytes.put32(static_cast<uint32_t>(PyDict_GET_SIZE(dict)));
  Py_ssize_t at = 0;
  PyObject *key = nullptr, *value = nullptr;
  while (PyDict_Next(dict, &at, &key, &value)) {
    for (PyObject* part : {key, value}) {
      if (Native done = put_native(f, part, depth + 1); done != Native::kDone) return done;
    }
  }
  return Native::kDone;
}

// What only other languages get natively.
Native put_plain(Frame& f, PyObject* value, int depth) {
  PyTypeObject* type = Py_TYPE(value);
  if (type == &PyList_Type) return put_sequence(f, value, ValueTag::kList, depth);
  if (type == &PyDict_Type) return put_dict(f, value, depth);
  if (type != &PyLong_Type) return Native::kNotNative;
  uint64_t v = PyLong_AsUnsignedLongLong(value);
  if (v == static_cast<uint64_t>(-1) && PyErr_Occurred()) {
    PyErr_Clear();
    return Native::kNotNative;
  }
  put_tag(f, ValueTag::kUint64);
  f.bytes.put(&v, sizeof v);
  return Native::kDone;
}

Native put_native(Frame& f, PyObject* value, int depth) {
  PyTypeObject* type = Py_TYPE(value);
  if (value == Py_None) {
    put_tag(f, ValueTag::kNone);
  } else if (type == &PyBool_Type) {
    put_tag(f, value == Py_True ? ValueTag::kTrue : ValueTag::kFalse);
  } else if (type == &PyLong_Type) {
    int overflow = 0;
    int64_t v = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow != 0) return f.plain ? put_plain(f, value, depth) : Native::kNotNative;
    put_int(f, v);
  } else if (type == &PyFloat_Type) {
    double v = PyFloat_AS_DOUBLE(value);
    char* p = f.bytes.extend(9);
    p[0] = static_cast<char>(ValueTag::kFloat64);
    memcpy(p + 1, &v, 8);
  } else if (type == &PyUnicode_Type) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(value, &size);
    if (!data) {   // lone surrogates: pickle knows how
      PyErr_Clear();
      return Native::kNotNative;
    }
    if (size > UINT32_MAX) return Native::kNotNative;
    put_counted(f, ValueTag::kStr, data, static_cast<size_t>(size), value);
  } else if (type == &PyBytes_Type) {
    if (PyBytes_GET_SIZE(value) > UINT32_MAX) return Native::kNotNative;
    put_counted(f, ValueTag::kBytes, PyBytes_AS_STRING(value), static_cast<size_t>(PyBytes_GET_SIZE(value)), value);
  } else if (type == &PyTuple_Type) {
    return put_sequence(f, value, ValueTag::kTuple, depth);
  } else if (type == &ObjectRefType) {
    return put_ref(f, value);
  } else {
    return f.plain ? put_plain(f, value, depth) : Native::kNotNative;
  }
  return Native::kDone;
}

// A number, a truth value, None, or a short text.
bool is_flat(PyObject* value, size_t* text_bytes) {
  PyTypeObject* type = Py_TYPE(value);
  if (type == &PyFloat_Type || type == &PyLong_Type || type == &PyBool_Type || value == Py_None) return true;
  if (type != &PyUnicode_Type && type != &PyBytes_Type) return false;
  Py_ssize_t size = type == &PyBytes_Type ? PyBytes_GET_SIZE(value) : PyUnicode_GET_LENGTH(value);
  *text_bytes += static_cast<size_t>(size);
  return size <= kFlatTextMax && *text_bytes <= kFlatTextBytesMax;
}

// A list or dict of nothing but such: no part of it is mutable, so that identity is not lost, and reading it back takes
// half of what pickle takes. Only as a whole value: a container inside of another may stand there twice.
Native put_flat(Frame& f, PyObject* value) {
  Frame::Mark mark = f.mark();
  size_t text_bytes = 0;
  Native done = Native::kDone;
  if (PyList_CheckExact(value) && PyList_GET_SIZE(value) <= UINT32_MAX) {
    put_tag(f, ValueTag::kList);
    f.bytes.put32(static_cast<uint32_t>(PyList_GET_SIZE(value)));
    for (Py_ssize_t i = 0; done == Native::kDone && i < PyList_GET_SIZE(value); ++i) {
      PyObject* item = PyList_GET_ITEM(value, i);
      done = is_flat(item, &text_bytes) ? put_native(f, item, 1) : Native::kNotNative;
    }
  } else if (PyDict_CheckExact(value) && PyDict_GET_SIZE(value) <= UINT32_MAX) {
    put_tag(f, ValueTag::kDict);
    f.bytes.put32(static_cast<uint32_t>(PyDict_GET_SIZE(value)));
    Py_ssize_t at = 0;
    PyObject *key = nullptr, *item = nullptr;
    size_t key_bytes = 0;   // keys do not come twice
    while (done == Native::kDone && PyDict_Next(value, &at, &key, &item)) {
      done = is_flat(key, &key_bytes) && is_flat(item, &text_bytes) ? put_native(f, key, 1) : Native::kNotNative;
      if (done == Native::kDone) done = put_native(f, item, 1);
      key_bytes = 0;
    }
  } else {
    return Native::kNotNative;
  }
  if (done != Native::kDone) f.cut(mark);
  return done;
}

bool is_ref_list(PyObject* value) {
  if (!PyList_CheckExact(value) || PyList_GET_SIZE(value) == 0 || PyList_GET_SIZE(value) > UINT32_MAX) return false;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(value); ++i) {
    PyObject* item = PyList_GET_ITEM(value, i);
    if (!is_ref(item) || as_ref(item)->slot == runtime::kNoSlot) return false;
  }
  return true;
}

bool put_ref_list(Frame& f, PyObject* list) {
  uint32_t n = static_cast<uint32_t>(PyList_GET_SIZE(list));
  put_tag(f, ValueTag::kRefList);
  f.bytes.put32(n);
  for (uint32_t i = 0; i < n; ++i) {
    PyObject* ref = PyList_GET_ITEM(list, i);
    if (usable_slot(as_ref(ref)) == runtime::kNoSlot) return false;
    f.bytes.put32(f.add_ref(ref));
  }
  return true;
}

size_t aligned(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Room for the reference table in front of a stored value.
size_t table_bytes(size_t refs) { return refs == 0 ? 0 : aligned(8 + 16 * refs, objstore::kObjectAlignment); }

void write_table(Frame& f, size_t used_from, char* out) {
  size_t refs = f.refs.size();
  memset(out, 0, table_bytes(refs));
  out[0] = static_cast<char>(ValueTag::kRefTable);
  uint32_t n = static_cast<uint32_t>(refs);
  memcpy(out + 4, &n, 4);
  for (size_t i = used_from; i < refs; ++i) {
    ObjectId id = ref_id(as_ref(f.refs[i]));
    memcpy(out + 8 + 16 * i, &id, 16);
  }
}

// Scratch bytes and pieces behind `mark`, in order.
void write_out(Frame& f, const Frame::Mark& mark, char* out) {
  size_t at = mark.bytes;
  for (size_t i = mark.pieces; i < f.pieces.size(); ++i) {
    const Piece& piece = f.pieces[i];
    memcpy(out, f.bytes.data() + at, piece.at - at);
    out += piece.at - at;
    at = piece.at;
    objstore::copy_to_arena(out, piece.data, piece.size);
    out += piece.size;
  }
  memcpy(out, f.bytes.data() + at, f.bytes.size() - at);
}

}  // namespace

bool encode_value(Frame& frame, PyObject* value) {
  Native done = put_native(frame, value, 0);
  if (done == Native::kNotNative && !frame.plain) done = put_flat(frame, value);
  if (done != Native::kNotNative) return done == Native::kDone;
  if (frame.plain) {
    PyErr_Format(PyExc_TypeError, "%.100s is no plain data, which is all that another language can read: None, bool, "
                 "int, float, str, bytes, tuples, lists, dicts and references of these.", Py_TYPE(value)->tp_name);
    return false;
  }
  if (is_ref_list(value)) return put_ref_list(frame, value);
  return pickle_value(frame, value);
}

bool encode_argument(Frame& frame, PyObject* value) {
  Slot slot = runtime::kNoSlot;
  if (is_ref(value)) {
    slot = usable_slot(as_ref(value));
    if (slot == runtime::kNoSlot) return false;
  } else {
    Frame::Mark mark = frame.mark();
    if (!encode_value(frame, value)) return false;
    if (frame.size_since(mark) <= objstore::kInlineBytes) return true;
    slot = put_value(frame, mark);
    frame.cut(mark);
    if (slot == runtime::kNoSlot) return false;
    frame.owned.push_back(slot);
  }
  put_tag(frame, ValueTag::kDependency);
  frame.bytes.put32(static_cast<uint32_t>(frame.deps.size()));
  frame.deps.push_back(slot);
  return true;
}

bool store_value(Frame& frame, const Frame::Mark& mark, const BeginPut& begin, StoredValue* out) {
  bool has_refs = frame.refs.size() > mark.refs;
  size_t table = has_refs ? table_bytes(frame.refs.size()) : 0;
  size_t value_bytes = frame.size_since(mark);
  if (has_refs) out->nested = frame.nested_slots(mark.refs);
  if (table + value_bytes <= objstore::kInlineBytes) {
    if (has_refs) {
      // The table goes in front: move the value up.
      frame.bytes.extend(table);
      char* start = frame.bytes.data() + mark.bytes;
      memmove(start + table, start, value_bytes);
      write_table(frame, mark.refs, start);
    }
    out->bytes = std::as_bytes(std::span(frame.bytes.data() + mark.bytes, table + value_bytes));
    return true;
  }
  PyThreadState* state = release_gil();
  auto buffer = begin(table + value_bytes);
  retake_gil(state);
  if (!buffer) return raise_status(buffer.status()), false;
  char* to = reinterpret_cast<char*>(buffer->bytes.data());
  if (has_refs) write_table(frame, mark.refs, to);
  if (value_bytes >= kUnlockedCopyBytes) {
    state = release_gil();
    write_out(frame, mark, to + table);
    retake_gil(state);
  } else {
    write_out(frame, mark, to + table);
  }
  out->buffer = *buffer;
  return true;
}

Slot put_value(Frame& frame, const Frame::Mark& mark) {
  Runtime* rt = runtime_of_frame(frame);
  if (!rt) return runtime::kNoSlot;
  StoredValue stored;
  if (!store_value(frame, mark, [rt](size_t size) { return rt->put_begin(size); }, &stored)) return runtime::kNoSlot;
  auto slot = stored.buffer ? rt->put_seal(*stored.buffer, stored.nested)
                            : rt->put_inline(stored.bytes, stored.nested);
  if (!slot) {
    raise_status(slot.status());
    return runtime::kNoSlot;
  }
  return *slot;
}

}  // namespace sheaf::python
