#include "python/binding/arena_buffer.h"
#include "python/binding/codec.h"
#include "python/binding/object_ref.h"
#include "python/binding/pickling.h"
#include "runtime/value.h"

namespace sheaf::python {

using runtime::BufferSpan;
using runtime::PickleBuffersHead;
using runtime::ValueTag;

namespace {

constexpr size_t kUnlockedCopyBytes = 1 << 20;

// References of the value that this thread is unpickling.
thread_local std::span<const ObjectId> t_refs;

class RefsScope {
 public:
  explicit RefsScope(std::span<const ObjectId> refs) : outer_(t_refs) { t_refs = refs; }
  ~RefsScope() { t_refs = outer_; }
  RefsScope(const RefsScope&) = delete;

 private:
  std::span<const ObjectId> outer_;
};

struct Decoder {
  const char* at;
  const char* end;
  PyObject* pin;
  std::span<const ObjectId> refs;
  std::span<PyObject* const> dependencies;
  std::vector<ObjectId> table = {};   // backs `refs` once a table was read

  bool has(uint64_t n) const { return static_cast<uint64_t>(end - at) >= n; }
  PyObject* corrupt() {
    if (!PyErr_Occurred()) raise_named("RaySystemError", "a value's encoding is malformed");
    return nullptr;
  }
  bool get32(uint32_t* v) {
    if (!has(4)) return false;
    memcpy(v, at, 4);
    at += 4;
    return true;
  }
  bool counted(uint32_t* n) { return get32(n) && has(*n); }

  PyObject* value();
  PyObject* bytes(uint32_t n);
  PyObject* sequence(bool tuple);
  PyObject* dict();
  PyObject* reference();
  PyObject* ref_list();
  PyObject* dependency();
  PyObject* pickle(const char* data, size_t size, bool has_refs, PyObject* buffers);
  PyObject* pickle_with_buffers();
  PyObject* numbers();
  bool read_table();
};

PyObject* Decoder::bytes(uint32_t n) {
  PyObject* out = PyBytes_FromStringAndSize(nullptr, n);
  if (!out) return nullptr;
  if (n >= kUnlockedCopyBytes && pin) {
    PyThreadState* state = release_gil();
    memcpy(PyBytes_AS_STRING(out), at, n);
    retake_gil(state);
  } else {
    memcpy(PyBytes_AS_STRING(out), at, n);
  }
  at += n;
  return out;
}

PyObject* Decoder::sequence(bool tuple) {
  uint32_t n = 0;
  if (!counted(&n)) return corrupt();   // each element takes a byte at least
  if (Py_EnterRecursiveCall(" while reading a value")) return nullptr;
  PyObject* out = tuple ? PyTuple_New(n) : PyList_New(n);
  for (uint32_t i = 0; out && i < n; ++i) {
    PyObject* item = value();
    if (!item) {
      Py_CLEAR(out);
    } else if (tuple) {
      PyTuple_SET_ITEM(out, i, item);
    } else {
      PyList_SET_ITEM(out, i, item);
    }
  }
  Py_LeaveRecursiveCall();
  return out;
}

PyObject* Decoder::dict() {
  uint32_t n = 0;
  if (!counted(&n)) return corrupt();
  if (Py_EnterRecursiveCall(" while reading a value")) return nullptr;
#if PY_VERSION_HEX < 0x030D0000
  Ref out(_PyDict_NewPresized(n));
#else
  Ref out(PyDict_New());
#endif
  bool ok = static_cast<bool>(out);
  for (uint32_t i = 0; ok && i < n; ++i) {
    Ref key(value());
    Ref item(key ? value() : nullptr);
    ok = item && PyDict_SetItem(out.get(), key.get(), item.get()) == 0;
  }
  Py_LeaveRecursiveCall();
  return ok ? out.release() : nullptr;
}

PyObject* Decoder::reference() {
  uint32_t index = 0;
  if (!get32(&index) || index >= refs.size()) return corrupt();
  return ref_from_id(refs[index]);
}

PyObject* Decoder::ref_list() {
  uint32_t n = 0;
  if (!get32(&n) || !has(uint64_t{n} * 4)) return corrupt();
  Ref out(PyList_New(n));
  for (uint32_t i = 0; out && i < n; ++i) {
    PyObject* item = reference();
    if (!item) return nullptr;
    PyList_SET_ITEM(out.get(), i, item);
  }
  return out.release();
}

PyObject* Decoder::dependency() {
  uint32_t index = 0;
  if (!get32(&index) || index >= dependencies.size()) return corrupt();
  return Py_NewRef(dependencies[index]);
}

PyObject* Decoder::pickle(const char* data, size_t size, bool has_refs, PyObject* buffers) {
  Ref view(PyMemoryView_FromMemory(const_cast<char*>(data), static_cast<Py_ssize_t>(size), PyBUF_READ));
  if (!view) return nullptr;
  if (!has_refs) return unpickle(view.get(), buffers);
  RefsScope scope(refs);
  return unpickle(view.get(), buffers);
}

PyObject* Decoder::pickle_with_buffers() {
  const char* tag = at - 1;
  PickleBuffersHead head;
  if (!has(7 + sizeof head)) return corrupt();
  memcpy(&head, at + 7, sizeof head);
  at += 7 + sizeof head;
  if (!has(uint64_t{head.buffer_count} * sizeof(BufferSpan))) return corrupt();
  const char* spans = at;
  at += head.buffer_count * sizeof(BufferSpan);
  if (!has(head.pickle_bytes)) return corrupt();
  const char* pickled = at;
  at += head.pickle_bytes;
  const char* last = at;
  Ref list(PyList_New(head.buffer_count));
  if (!list) return nullptr;
  for (uint32_t i = 0; i < head.buffer_count; ++i) {
    BufferSpan span;
    memcpy(&span, spans + i * sizeof span, sizeof span);
    uint64_t room = static_cast<uint64_t>(end - tag);
    if (span.offset > room || span.length > room - span.offset) return corrupt();
    const char* data = tag + span.offset;
    PyObject* buffer = pin ? new_arena_buffer(pin, data, span.length)
                           : PyBytes_FromStringAndSize(data, static_cast<Py_ssize_t>(span.length));
    if (!buffer) return nullptr;
    PyList_SET_ITEM(list.get(), i, buffer);
    if (data + span.length > last) last = data + span.length;
  }
  at = last;
  return pickle(pickled, head.pickle_bytes, head.flags & 1, list.get());
}

PyObject* Decoder::numbers() {
  runtime::NumbersHead head;
  if (!has(sizeof head)) return corrupt();
  memcpy(&head, at, sizeof head);
  at += sizeof head;
  size_t width = 0;
  switch (head.format) {
    case 'b': case 'B': width = 1; break;
    case 'h': case 'H': width = 2; break;
    case 'i': case 'I': case 'f': width = 4; break;
    case 'q': case 'Q': case 'd': width = 8; break;
    default: return corrupt();
  }
  if (!has(head.padding) || head.count > static_cast<uint64_t>(end - at - head.padding) / width) return corrupt();
  const char* data = at + head.padding;
  size_t size = head.count * width;
  at = data + size;
  Ref owner(pin ? new_arena_buffer(pin, data, size) : PyBytes_FromStringAndSize(data, static_cast<Py_ssize_t>(size)));
  Ref view(owner ? PyMemoryView_FromObject(owner.get()) : nullptr);
  const char format[2] = {head.format, 0};
  return view ? PyObject_CallMethod(view.get(), "cast", "s", format) : nullptr;
}

bool Decoder::read_table() {
  const char* tag = at - 1;
  uint32_t n = 0;
  at += 3;
  if (at > end || !get32(&n) || !has(uint64_t{n} * 16)) return false;
  table.resize(n);
  if (n > 0) memcpy(table.data(), at, n * size_t{16});
  size_t used = 8 + n * size_t{16};
  used = (used + objstore::kObjectAlignment - 1) / objstore::kObjectAlignment * objstore::kObjectAlignment;
  if (static_cast<size_t>(end - tag) < used) return false;
  at = tag + used;
  refs = table;
  return true;
}

PyObject* Decoder::value() {
  if (!has(1)) return corrupt();
  uint32_t n = 0;
  switch (static_cast<ValueTag>(*at++)) {
    case ValueTag::kNone: Py_RETURN_NONE;
    case ValueTag::kTrue: Py_RETURN_TRUE;
    case ValueTag::kFalse: Py_RETURN_FALSE;
    case ValueTag::kInt8: return has(1) ? PyLong_FromLong(static_cast<signed char>(*at++)) : corrupt();
    case ValueTag::kInt64: {
      int64_t v = 0;
      if (!has(8)) return corrupt();
      memcpy(&v, at, 8);
      at += 8;
      return PyLong_FromLongLong(v);
    }
    case ValueTag::kUint64: {
      uint64_t v = 0;
      if (!has(8)) return corrupt();
      memcpy(&v, at, 8);
      at += 8;
      return PyLong_FromUnsignedLongLong(v);
    }
    case ValueTag::kNumbers: return numbers();
    case ValueTag::kFloat64: {
      double v = 0;
      if (!has(8)) return corrupt();
      memcpy(&v, at, 8);
      at += 8;
      return PyFloat_FromDouble(v);
    }
    case ValueTag::kBytes: return counted(&n) ? bytes(n) : corrupt();
    case ValueTag::kStr:
      if (!counted(&n)) return corrupt();
      at += n;
      return PyUnicode_DecodeUTF8(at - n, n, nullptr);
    case ValueTag::kTuple: return sequence(true);
    case ValueTag::kList: return sequence(false);
    case ValueTag::kDict: return dict();
    case ValueTag::kDependency: return dependency();
    case ValueTag::kRef: return reference();
    case ValueTag::kRefList: return ref_list();
    case ValueTag::kPickle:
    case ValueTag::kPickleRefs: {
      bool has_refs = static_cast<ValueTag>(at[-1]) == ValueTag::kPickleRefs;
      if (!counted(&n)) return corrupt();
      at += n;
      return pickle(at - n, n, has_refs, nullptr);
    }
    case ValueTag::kPickleBuffers: return pickle_with_buffers();
    case ValueTag::kRefTable: return read_table() ? value() : corrupt();
    default: return corrupt();
  }
}

Decoder make_decoder(const Source& source, std::span<PyObject* const> dependencies) {
  const char* data = reinterpret_cast<const char*>(source.bytes.data());
  return Decoder{data, data + source.bytes.size(), source.pin, source.refs, dependencies};
}

}  // namespace

PyObject* decode_value(const Source& source) { return make_decoder(source, {}).value(); }

void Call::clear() {
  PyObject* const* held = values();
  for (size_t i = 0, n = std::exchange(count_, 0); i < n; ++i) Py_DECREF(held[i]);
  many_.clear();
}

bool decode_call(const Source& source, std::span<PyObject* const> dependencies, Call* out) {
  Decoder d = make_decoder(source, dependencies);
  uint32_t positional = 0, keywords = 0;
  if (!d.has(1) || static_cast<ValueTag>(*d.at++) != ValueTag::kArguments || !d.get32(&positional) ||
      !d.get32(&keywords) || !d.has(uint64_t{positional} + keywords)) {
    d.corrupt();
    return false;
  }
  out->positional = out->count() + positional;   // behind an instance, if there is one
  for (uint32_t i = 0; i < positional; ++i) {
    PyObject* v = d.value();
    if (!v) return false;
    out->add(v);
  }
  if (keywords == 0) return true;
  Ref names(PyTuple_New(keywords));
  for (uint32_t i = 0; names && i < keywords; ++i) {
    PyObject* name = d.value();
    if (!name) return false;
    if (!PyUnicode_CheckExact(name)) {
      Py_DECREF(name);
      d.corrupt();
      return false;
    }
    PyUnicode_InternInPlace(&name);
    PyTuple_SET_ITEM(names.get(), i, name);
    PyObject* v = d.value();
    if (!v) return false;
    out->add(v);
  }
  out->names = std::move(names);
  return static_cast<bool>(out->names);
}

PyObject* ref_at(PyObject*, PyObject* index) {
  size_t i = PyLong_AsSize_t(index);
  if (i == static_cast<size_t>(-1) && PyErr_Occurred()) return nullptr;
  if (i >= t_refs.size()) {
    PyErr_SetString(PyExc_RuntimeError, "a reference was unpickled outside of the value that contains it");
    return nullptr;
  }
  return ref_from_id(t_refs[i]);
}

}  // namespace sheaf::python
