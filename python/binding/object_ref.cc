#include "python/binding/object_ref.h"

#include <string>

#include "python/binding/async.h"

namespace sheaf::python {

namespace {

constexpr size_t kFreeListMax = 16384;
ObjectRefObject* g_free[kFreeListMax];
size_t g_free_count = 0;

ObjectRefObject* allocate() {
  if (g_free_count > 0) [[likely]] {
    ObjectRefObject* ref = g_free[--g_free_count];
    PyObject_Init(reinterpret_cast<PyObject*>(ref), &ObjectRefType);
    return ref;
  }
  return PyObject_New(ObjectRefObject, &ObjectRefType);
}

void ref_dealloc(PyObject* self) {
  ObjectRefObject* ref = as_ref(self);
  if (ref->slot != runtime::kNoSlot) {
    if (Runtime* rt = runtime_of_epoch(ref->epoch)) rt->release(ref->slot);
  }
  if (g_free_count < kFreeListMax) {
    g_free[g_free_count++] = ref;
  } else {
    PyObject_Free(self);
  }
}

PyObject* ref_new(PyTypeObject*, PyObject* args, PyObject* kwargs) {
  PyObject* binary = nullptr;
  static const char* const names[] = {"id", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O", const_cast<char**>(names), &binary)) return nullptr;
  return rebuild_ref(nullptr, binary);
}

PyObject* ref_repr(PyObject* self) {
  std::string text = "ObjectRef(" + to_hex(ref_id(as_ref(self))) + ")";
  return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
}

Py_hash_t ref_hash(PyObject* self) {
  uint64_t x = (uint64_t{as_ref(self)->epoch} << 32 | as_ref(self)->slot) * 0x9e3779b97f4a7c15ull;
  Py_hash_t h = static_cast<Py_hash_t>(x >> 3);
  return h == -1 ? -2 : h;
}

PyObject* ref_compare(PyObject* a, PyObject* b, int op) {
  if ((op != Py_EQ && op != Py_NE) || !is_ref(a) || !is_ref(b)) Py_RETURN_NOTIMPLEMENTED;
  bool same = as_ref(a)->slot == as_ref(b)->slot && (as_ref(a)->epoch == as_ref(b)->epoch ||
                                                      as_ref(a)->slot == runtime::kNoSlot);
  return PyBool_FromLong(same == (op == Py_EQ));
}

PyObject* ref_hex(PyObject* self, PyObject*) {
  std::string text = to_hex(ref_id(as_ref(self)));
  return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
}

PyObject* ref_binary(PyObject* self, PyObject*) { return id_bytes(ref_id(as_ref(self))); }

PyObject* ref_task_id(PyObject* self, PyObject*) {
  static PyObject* task_id = nullptr;
  PyObject* make = imported(&task_id, "sheaf.ids", "TaskID");
  Ref binary(ref_binary(self, nullptr));
  return make && binary ? PyObject_CallOneArg(make, binary.get()) : nullptr;
}

PyObject* ref_job_id(PyObject* self, PyObject*) {
  static PyObject* job_id = nullptr;
  PyObject* make = imported(&job_id, "sheaf.ids", "JobID");
  if (!make) return nullptr;
  uint32_t job = 0;
  if (Runtime* rt = past_runtime(as_ref(self)->epoch)) job = rt->session().job;
  return PyObject_CallMethod(make, "from_int", "I", job);
}

PyObject* ref_is_nil(PyObject* self, PyObject*) { return PyBool_FromLong(ref_id(as_ref(self)).is_nil()); }

PyObject* ref_size(PyObject*, PyObject*) { return PyLong_FromLong(16); }

PyObject* ref_nil(PyObject*, PyObject*) { return new_ref(runtime::kNoSlot); }

PyObject* ref_from_hex(PyObject*, PyObject* text) {
  if (!PyUnicode_Check(text)) {
    return PyErr_Format(PyExc_TypeError, "from_hex takes a str, not %.100s", Py_TYPE(text)->tp_name);
  }
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(text, &size);
  if (!data) return nullptr;
  auto halves = id_from_hex(std::string_view(data, static_cast<size_t>(size)));
  if (!halves) return PyErr_Format(PyExc_ValueError, "%R is not an object id: 32 hexadecimal digits are needed", text);
  return ref_from_id({(*halves)[0], (*halves)[1]});
}

// Pickled by the user, not as part of a value: nobody sees where the copy goes, so the object stays for the job's
// lifetime.
PyObject* ref_reduce(PyObject* self, PyObject*) {
  static PyObject* rebuild = nullptr;
  PyObject* function = imported(&rebuild, "sheaf._core", "_rebuild_ref");
  if (!function) return nullptr;
  Slot slot = as_ref(self)->slot;
  if (slot != runtime::kNoSlot) {
    if (Runtime* rt = runtime_of_epoch(as_ref(self)->epoch)) {
      rt->retain(slot);
      rt->publish(slot);
    }
  }
  Ref binary(ref_binary(self, nullptr));
  return binary ? Py_BuildValue("O(O)", function, binary.get()) : nullptr;
}

PyObject* ref_copy(PyObject* self, PyObject*) { return Py_NewRef(self); }

PyMethodDef ref_methods[] = {
    {"hex", ref_hex, METH_NOARGS, "The id as 32 hexadecimal digits."},
    {"binary", ref_binary, METH_NOARGS, "The id as 16 bytes."},
    {"task_id", ref_task_id, METH_NOARGS, "The task that makes the object (its first result's id)."},
    {"job_id", ref_job_id, METH_NOARGS, "The job of this process."},
    {"is_nil", ref_is_nil, METH_NOARGS, "Whether this refers to nothing."},
    {"future", make_future, METH_NOARGS, "A concurrent.futures.Future of the value."},
    {"as_future", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(make_loop_future)),
     METH_VARARGS | METH_KEYWORDS,
     "An asyncio.Future of the value, in the running loop."},
    {"size", ref_size, METH_NOARGS | METH_STATIC, "Bytes of an id."},
    {"nil", ref_nil, METH_NOARGS | METH_STATIC, "A reference to nothing."},
    {"from_hex", ref_from_hex, METH_O | METH_STATIC, "The reference whose hex() is given."},
    {"from_binary", rebuild_ref, METH_O | METH_STATIC, "The reference whose binary() is given."},
    {"__reduce__", ref_reduce, METH_NOARGS, nullptr},
    {"__copy__", ref_copy, METH_NOARGS, nullptr},
    {"__deepcopy__", ref_copy, METH_O, nullptr},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyAsyncMethods ref_async = {make_awaitable, nullptr, nullptr, nullptr};

}  // namespace

PyTypeObject ObjectRefType = {PyVarObject_HEAD_INIT(nullptr, 0)};

PyObject* new_ref(Slot slot) {
  ObjectRefObject* ref = allocate();
  if (!ref) return nullptr;
  ref->slot = slot;
  ref->epoch = g_engine.epoch;
  return reinterpret_cast<PyObject*>(ref);
}

PyObject* ref_from_id(const ObjectId& id) {
  if (id.is_nil()) return new_ref(runtime::kNoSlot);
  Runtime* rt = runtime_or_raise();
  return rt ? new_ref(rt->import(id)) : nullptr;
}

ObjectId ref_id(const ObjectRefObject* ref) {
  if (ref->slot == runtime::kNoSlot) return {};
  Runtime* rt = g_engine.forked ? nullptr : past_runtime(ref->epoch);
  return rt ? rt->id(ref->slot) : ObjectId{};
}

Slot usable_slot(ObjectRefObject* ref) {
  if (ref->slot == runtime::kNoSlot) {
    PyErr_SetString(PyExc_ValueError, "A nil ObjectRef has no value.");
    return runtime::kNoSlot;
  }
  if (ref->epoch != g_engine.epoch) {
    if (runtime_or_raise()) {
      PyErr_SetString(PyExc_ValueError, "This ObjectRef belongs to a cluster that this process has left: "
                      "to the present one it names a Ray object whose owner is unknown.");
    }
    return runtime::kNoSlot;
  }
  return ref->slot;
}

PyObject* rebuild_ref(PyObject*, PyObject* binary) {
  ObjectId id;
  return id_from_object(binary, "ObjectRef", &id.hi, &id.lo) ? ref_from_id(id) : nullptr;
}

bool ready_object_ref_type() {
  PyTypeObject& t = ObjectRefType;
  t.tp_name = "sheaf._core.ObjectRef";
  t.tp_doc = "A reference to a value that exists or will exist somewhere in the cluster.";
  t.tp_basicsize = sizeof(ObjectRefObject);
  t.tp_flags = Py_TPFLAGS_DEFAULT;
  t.tp_new = ref_new;
  t.tp_dealloc = ref_dealloc;
  t.tp_repr = ref_repr;
  t.tp_hash = ref_hash;
  t.tp_richcompare = ref_compare;
  t.tp_methods = ref_methods;
  t.tp_as_async = &ref_async;
  return PyType_Ready(&t) == 0;
}

}  // namespace sheaf::python
