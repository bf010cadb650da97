#include "python/binding/async.h"

#include <unistd.h>

#include "python/binding/generator.h"
#include "python/binding/get_put_wait.h"
#include "python/binding/object_ref.h"

namespace sheaf::python {

namespace {

// An iterator that ends at once with a value: what awaiting a ready reference gives.
struct ImmediateObject {
  PyObject_HEAD
  PyObject* value;
};

PyTypeObject ImmediateType = {PyVarObject_HEAD_INIT(nullptr, 0)};

void immediate_dealloc(PyObject* self) {
  Py_XDECREF(reinterpret_cast<ImmediateObject*>(self)->value);
  PyObject_Free(self);
}

PyObject* immediate_next(PyObject* self) {
  PyObject* value = reinterpret_cast<ImmediateObject*>(self)->value;
  // Made by hand: a tuple or an exception as the value must not be taken for the arguments.
  Ref stop(PyObject_CallOneArg(PyExc_StopIteration, value));
  if (stop) PyErr_SetObject(PyExc_StopIteration, stop.get());
  return nullptr;
}

PyObject* immediate(Ref value) {
  ImmediateObject* self = PyObject_New(ImmediateObject, &ImmediateType);
  if (!self) return nullptr;
  self->value = value.release();
  return reinterpret_cast<PyObject*>(self);
}

PyAsyncMethods immediate_async = {PyObject_SelfIter, nullptr, nullptr, nullptr};

}  // namespace

bool ready_async_types() {
  ImmediateType.tp_name = "sheaf._core.Immediate";
  ImmediateType.tp_basicsize = sizeof(ImmediateObject);
  ImmediateType.tp_flags = Py_TPFLAGS_DEFAULT;
  ImmediateType.tp_dealloc = immediate_dealloc;
  ImmediateType.tp_iter = PyObject_SelfIter;
  ImmediateType.tp_iternext = immediate_next;
  ImmediateType.tp_as_async = &immediate_async;
  return PyType_Ready(&ImmediateType) == 0;
}

PyObject* make_awaitable(PyObject* ref) {
  static PyObject* future_for = nullptr;
  Runtime* rt = runtime_or_raise();
  Slot slot = rt ? usable_slot(as_ref(ref)) : runtime::kNoSlot;
  if (slot == runtime::kNoSlot) return nullptr;
  if (rt->is_ready(slot)) {
    Ref value(read_object(rt, slot));
    return value ? immediate(std::move(value)) : nullptr;
  }
  PyObject* make = imported(&future_for, "sheaf._async", "future_for");
  Ref future(make ? PyObject_CallOneArg(make, ref) : nullptr);
  if (!future) return nullptr;
  PyAsyncMethods* methods = Py_TYPE(future.get())->tp_as_async;
  if (!methods || !methods->am_await) return PyErr_Format(PyExc_TypeError, "the event loop's futures cannot be awaited");
  return methods->am_await(future.get());
}

PyObject* make_future(PyObject* ref, PyObject*) {
  static PyObject* concurrent_future = nullptr;
  Runtime* rt = runtime_or_raise();
  if (!rt || usable_slot(as_ref(ref)) == runtime::kNoSlot) return nullptr;
  PyObject* make = imported(&concurrent_future, "sheaf._async", "concurrent_future");
  return make ? PyObject_CallOneArg(make, ref) : nullptr;
}

PyObject* make_loop_future(PyObject* ref, PyObject*, PyObject*) {
  static PyObject* future_for = nullptr;
  Runtime* rt = runtime_or_raise();
  if (!rt || usable_slot(as_ref(ref)) == runtime::kNoSlot) return nullptr;
  PyObject* make = imported(&future_for, "sheaf._async", "future_for");
  return make ? PyObject_CallOneArg(make, ref) : nullptr;
}

PyObject* make_async_next(PyObject* generator) {
  static PyObject* next_ref = nullptr;
  Runtime* rt = runtime_or_raise();
  if (!rt || generator_slot(generator) == runtime::kNoSlot) return nullptr;
  if (generator_ready(rt, generator)) {
    Ref item(Py_TYPE(generator)->tp_iternext(generator));
    if (item) return immediate(std::move(item));
    if (!PyErr_Occurred()) PyErr_SetNone(PyExc_StopAsyncIteration);
    return nullptr;
  }
  PyObject* make = imported(&next_ref, "sheaf._async", "next_ref");
  return make ? PyObject_CallOneArg(make, generator) : nullptr;   // a coroutine
}

PyObject* py_ready_fd(PyObject*, PyObject*) {
  Runtime* rt = runtime_or_raise();
  return rt ? PyLong_FromLong(rt->ready_fd()) : nullptr;
}

PyObject* py_notify(PyObject*, PyObject* object) {
  Runtime* rt = runtime_or_raise();
  if (!rt) return nullptr;
  Slot slot = runtime::kNoSlot;
  if (is_ref(object)) {
    slot = usable_slot(as_ref(object));
  } else if (Py_TYPE(object) == &ObjectRefGeneratorType) {
    slot = generator_slot(object);
  } else {
    PyErr_SetString(PyExc_TypeError, "an ObjectRef or ObjectRefGenerator is needed");
  }
  if (slot == runtime::kNoSlot) return nullptr;
  rt->notify_ready(slot);
  return PyLong_FromUnsignedLong(slot);
}

PyObject* py_take_ready(PyObject*, PyObject*) {
  Runtime* rt = runtime_or_raise();
  if (!rt) return nullptr;
  uint64_t count = 0;
  (void)!read(rt->ready_fd(), &count, sizeof count);   // quiet first, look afterwards: no notice is lost
  std::vector<Slot> slots = rt->take_ready();
  Ref keys(PyList_New(static_cast<Py_ssize_t>(slots.size())));
  for (size_t i = 0; keys && i < slots.size(); ++i) {
    PyObject* key = PyLong_FromUnsignedLong(slots[i]);
    if (!key) return nullptr;
    PyList_SET_ITEM(keys.get(), static_cast<Py_ssize_t>(i), key);
    rt->release(slots[i]);   // whoever waits has a reference of its own
  }
  return keys.release();
}

}  // namespace sheaf::python
