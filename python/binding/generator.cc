#include "python/binding/generator.h"

#include "python/binding/async.h"
#include "python/binding/get_put_wait.h"
#include "python/binding/object_ref.h"

namespace sheaf::python {

using runtime::Deadline;
using runtime::WaitOutcome;

namespace {

struct GeneratorObject {
  PyObject_HEAD
  Slot slot;        // the task's first return: ready when the stream has ended
  Slot peeked;      // an item that was taken already; kNoSlot: none
  uint32_t epoch;
  bool ended;
};

GeneratorObject* as_generator(PyObject* o) { return reinterpret_cast<GeneratorObject*>(o); }

void generator_dealloc(PyObject* self) {
  GeneratorObject* g = as_generator(self);
  if (Runtime* rt = runtime_of_epoch(g->epoch)) {
    if (g->peeked != runtime::kNoSlot) rt->release(g->peeked);
    rt->release(g->slot);
  }
  PyObject_Free(self);
}

enum class Next { kItem, kEnd, kTimeout, kFailed };

Next take_item(GeneratorObject* g, Deadline deadline, Slot* item) {
  if (g->peeked != runtime::kNoSlot) {
    *item = std::exchange(g->peeked, runtime::kNoSlot);
    return Next::kItem;
  }
  if (g->ended) return Next::kEnd;
  Runtime* rt = runtime_of_epoch(g->epoch);
  if (!rt) {
    if (runtime_or_raise()) {
      PyErr_SetString(PyExc_ValueError, "This generator belongs to a cluster that this process has left.");
    }
    return Next::kFailed;
  }
  bool done = false;
  WaitOutcome outcome = rt->next_item(g->slot, Deadline::min(), item, &done);
  while (!done && (outcome == WaitOutcome::kTimeout || outcome == WaitOutcome::kInterrupted)) {
    if (deadline <= runtime::Clock::now()) return Next::kTimeout;
    if (PyErr_CheckSignals() < 0) return Next::kFailed;
    PyThreadState* state = release_gil();
    outcome = rt->next_item(g->slot, std::min(deadline, runtime::Clock::now() + std::chrono::milliseconds(50)), item,
                            &done);
    retake_gil(state);
  }
  if (outcome == WaitOutcome::kReady) return Next::kItem;
  if (done) {
    g->ended = true;
    return Next::kEnd;
  }
  raise_named("LocalRayletDiedError", "The node daemon is gone, so the next item will never arrive.");
  return Next::kFailed;
}

PyObject* generator_next(PyObject* self) {
  Slot item = runtime::kNoSlot;
  return take_item(as_generator(self), runtime::kNever, &item) == Next::kItem ? new_ref(item) : nullptr;
}

// The next reference, or a nil reference when `timeout` seconds have passed.
PyObject* generator_next_sync(PyObject* self, PyObject* args) {
  PyObject* timeout = Py_None;
  Deadline deadline;
  if (!PyArg_ParseTuple(args, "|O", &timeout) || !parse_timeout(timeout, &deadline)) return nullptr;
  Slot item = runtime::kNoSlot;
  switch (take_item(as_generator(self), deadline, &item)) {
    case Next::kItem: return new_ref(item);
    case Next::kTimeout: return new_ref(runtime::kNoSlot);
    case Next::kEnd: PyErr_SetNone(PyExc_StopIteration); return nullptr;
    case Next::kFailed: break;
  }
  return nullptr;
}

PyObject* generator_completed(PyObject* self, PyObject*) {
  GeneratorObject* g = as_generator(self);
  Runtime* rt = runtime_of_epoch(g->epoch);
  if (!rt) return runtime_or_raise() ? new_ref(runtime::kNoSlot) : nullptr;
  rt->retain(g->slot);
  return new_ref(g->slot);
}

PyObject* generator_is_finished(PyObject* self, PyObject*) {
  GeneratorObject* g = as_generator(self);
  Runtime* rt = runtime_of_epoch(g->epoch);
  if (!rt || g->ended) Py_RETURN_TRUE;
  if (g->peeked != runtime::kNoSlot) Py_RETURN_FALSE;
  Slot item = runtime::kNoSlot;
  Next next = take_item(g, Deadline::min(), &item);
  if (next == Next::kFailed) return nullptr;
  if (next == Next::kItem) g->peeked = item;
  return PyBool_FromLong(next == Next::kEnd);
}

PyObject* generator_ready_now(PyObject* self, PyObject*) {
  GeneratorObject* g = as_generator(self);
  Runtime* rt = runtime_of_epoch(g->epoch);
  return PyBool_FromLong(!rt || generator_ready(rt, self));
}

PyObject* generator_task_id(PyObject* self, PyObject*) {
  Ref whole(generator_completed(self, nullptr));
  return whole ? PyObject_CallMethod(whole.get(), "task_id", nullptr) : nullptr;
}

PyObject* generator_repr(PyObject* self) {
  GeneratorObject* g = as_generator(self);
  Runtime* rt = g_engine.forked ? nullptr : past_runtime(g->epoch);
  std::string text = "ObjectRefGenerator(" + to_hex(rt ? rt->id(g->slot) : ObjectId{}) + ")";
  return PyUnicode_FromString(text.c_str());
}

PyObject* generator_reduce(PyObject*, PyObject*) {
  PyErr_SetString(PyExc_TypeError, "An ObjectRefGenerator can only be consumed by the process that made the call: it "
                                   "cannot be pickled. Pass the ObjectRefs that it yields.");
  return nullptr;
}

PyMethodDef generator_methods[] = {
    {"_next_sync", generator_next_sync, METH_VARARGS, nullptr},
    {"next_ready", generator_ready_now, METH_NOARGS, "Whether next() would return, or end, at once."},
    {"completed", generator_completed, METH_NOARGS, "A reference that becomes ready when the task has ended."},
    {"is_finished", generator_is_finished, METH_NOARGS, "Whether every item has been taken."},
    {"task_id", generator_task_id, METH_NOARGS, "The task that yields the items."},
    {"__reduce__", generator_reduce, METH_NOARGS, nullptr},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyAsyncMethods generator_async = {nullptr, PyObject_SelfIter, make_async_next, nullptr};

}  // namespace

PyTypeObject ObjectRefGeneratorType = {PyVarObject_HEAD_INIT(nullptr, 0)};

PyObject* new_generator(Slot slot) {
  GeneratorObject* g = PyObject_New(GeneratorObject, &ObjectRefGeneratorType);
  if (!g) return nullptr;
  g->slot = slot;
  g->peeked = runtime::kNoSlot;
  g->epoch = g_engine.epoch;
  g->ended = false;
  return reinterpret_cast<PyObject*>(g);
}

Slot generator_slot(PyObject* generator) {
  GeneratorObject* g = as_generator(generator);
  if (runtime_of_epoch(g->epoch)) return g->slot;
  if (runtime_or_raise()) {
    PyErr_SetString(PyExc_ValueError, "This generator belongs to a cluster that this process has left.");
  }
  return runtime::kNoSlot;
}

bool generator_ready(Runtime* rt, PyObject* generator) {
  GeneratorObject* g = as_generator(generator);
  if (g->ended || g->peeked != runtime::kNoSlot) return true;
  bool done = false;
  Slot item = runtime::kNoSlot;
  if (rt->next_item(g->slot, Deadline::min(), &item, &done) == WaitOutcome::kReady) g->peeked = item;
  g->ended = done;
  return g->ended || g->peeked != runtime::kNoSlot;
}

bool ready_generator_type() {
  PyTypeObject& t = ObjectRefGeneratorType;
  t.tp_name = "sheaf._core.ObjectRefGenerator";
  t.tp_doc = "The references to what a streaming task yields, in order, as they come.";
  t.tp_basicsize = sizeof(GeneratorObject);
  t.tp_flags = Py_TPFLAGS_DEFAULT;
  t.tp_dealloc = generator_dealloc;
  t.tp_repr = generator_repr;
  t.tp_iter = PyObject_SelfIter;
  t.tp_iternext = generator_next;
  t.tp_methods = generator_methods;
  t.tp_as_async = &generator_async;
  return PyType_Ready(&t) == 0;
}

}  // namespace sheaf::python
