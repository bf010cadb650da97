// Calls of an async actor: taken from the engine by the event loop, run as asyncio tasks (sheaf/_worker_async.py).
#include "python/binding/async_call.h"

#include <unistd.h>

#include "python/binding/execute.h"
#include "python/binding/task_context.h"

namespace sheaf::python {

using runtime::Deadline;
using runtime::IncomingTask;

namespace {

constexpr int kCallsPerRound = 256;

struct AsyncCallObject {
  PyObject_HEAD
  IncomingTask* task;      // null once answered
  TaskId id;
  bool streaming;
  PyObject* group;
};

AsyncCallObject* as_call(PyObject* o) { return reinterpret_cast<AsyncCallObject*>(o); }

void call_dealloc(PyObject* self) {
  AsyncCallObject* call = as_call(self);
  if (call->task && g_engine.runtime) answer_cancelled(g_engine.runtime, call->task);
  Py_XDECREF(call->group);
  PyObject_Free(self);
}

PyObject* new_call(IncomingTask* task) {
  AsyncCallObject* call = PyObject_New(AsyncCallObject, &AsyncCallType);
  if (!call) return nullptr;
  call->task = task;
  call->id = task->id;
  call->streaming = is_streaming(*task);
  const std::string& group = task->definition->concurrency_group;
  call->group = PyUnicode_DecodeUTF8(group.data(), static_cast<Py_ssize_t>(group.size()), "surrogateescape");
  if (!call->group) {
    call->task = nullptr;
    Py_DECREF(call);
    return nullptr;
  }
  return reinterpret_cast<PyObject*>(call);
}

Runtime* open_call(AsyncCallObject* call) {
  if (!call->task) {
    PyErr_SetString(PyExc_RuntimeError, "this call has been answered already");
    return nullptr;
  }
  return runtime_or_raise();
}

// Decodes the arguments and calls the method: a coroutine, an async generator or the result itself.
PyObject* call_invoke(PyObject* self, PyObject*) {
  AsyncCallObject* call = as_call(self);
  Runtime* rt = open_call(call);
  if (!rt) return nullptr;
  Call arguments;
  Ref function = prepare_task(rt, *call->task, &arguments);
  return function ? invoke(function.get(), &arguments) : nullptr;
}

PyObject* call_finish(PyObject* self, PyObject* result) {
  AsyncCallObject* call = as_call(self);
  Runtime* rt = open_call(call);
  if (!rt || !answer(rt, call->task, result)) return nullptr;
  call->task = nullptr;
  Py_RETURN_NONE;
}

PyObject* call_finish_stream(PyObject* self, PyObject*) {
  AsyncCallObject* call = as_call(self);
  Runtime* rt = open_call(call);
  Ref nothing(rt ? PyTuple_New(0) : nullptr);
  if (!nothing || !answer(rt, call->task, nothing.get())) return nullptr;   // no further items
  call->task = nullptr;
  Py_RETURN_NONE;
}

// fail(exception): True when the exception was an exit, and the worker shall leave.
PyObject* call_fail(PyObject* self, PyObject* exception) {
  AsyncCallObject* call = as_call(self);
  Runtime* rt = open_call(call);
  if (!rt) return nullptr;
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception)), exception);
  AfterTask after = answer_exception(rt, call->task);
  call->task = nullptr;
  return PyBool_FromLong(after == AfterTask::kLeave);
}

PyObject* call_cancelled(PyObject* self, PyObject*) {
  AsyncCallObject* call = as_call(self);
  Runtime* rt = open_call(call);
  if (!rt) return nullptr;
  answer_cancelled(rt, std::exchange(call->task, nullptr));
  Py_RETURN_NONE;
}

// The worker leaves without an answer; the engine tells the caller that the actor is gone.
PyObject* call_abandon(PyObject* self, PyObject*) {
  as_call(self)->task = nullptr;
  Py_RETURN_NONE;
}

PyObject* call_send_item(PyObject* self, PyObject* item) {
  AsyncCallObject* call = as_call(self);
  Runtime* rt = open_call(call);
  if (!rt || !send_item(rt, call->task, item)) return nullptr;
  Py_RETURN_NONE;
}

PyObject* call_is_cancelled(PyObject* self, PyObject*) {
  AsyncCallObject* call = as_call(self);
  Runtime* rt = g_engine.runtime;
  return PyBool_FromLong(call->task && rt && rt->cancel_requested(*call->task));
}

PyObject* call_id(PyObject* self, void*) { return id_bytes(as_call(self)->id); }
PyObject* call_group(PyObject* self, void*) { return Py_NewRef(as_call(self)->group); }
PyObject* call_streaming(PyObject* self, void*) { return PyBool_FromLong(as_call(self)->streaming); }
PyObject* call_backpressure(PyObject* self, void*) {
  AsyncCallObject* call = as_call(self);
  return PyLong_FromUnsignedLong(call->task ? call->task->definition->generator_backpressure : 0);
}

PyMethodDef call_methods[] = {{"invoke", call_invoke, METH_NOARGS, nullptr},
                              {"finish", call_finish, METH_O, nullptr},
                              {"finish_stream", call_finish_stream, METH_NOARGS, nullptr},
                              {"fail", call_fail, METH_O, nullptr},
                              {"cancelled", call_cancelled, METH_NOARGS, nullptr},
                              {"abandon", call_abandon, METH_NOARGS, nullptr},
                              {"send_item", call_send_item, METH_O, nullptr},
                              {"is_cancelled", call_is_cancelled, METH_NOARGS, nullptr},
                              {nullptr, nullptr, 0, nullptr}};

PyGetSetDef call_members[] = {{"id", call_id, nullptr, nullptr, nullptr},
                              {"group", call_group, nullptr, nullptr, nullptr},
                              {"streaming", call_streaming, nullptr, nullptr, nullptr},
                              {"backpressure", call_backpressure, nullptr, nullptr, nullptr},
                              {nullptr, nullptr, nullptr, nullptr, nullptr}};

void quiet(int fd) {
  uint64_t count = 0;
  (void)!read(fd, &count, sizeof count);
}

}  // namespace

PyTypeObject AsyncCallType = {PyVarObject_HEAD_INIT(nullptr, 0)};

const IncomingTask* async_call_task(PyObject* call) { return as_call(call)->task; }

bool ready_async_call_type() {
  PyTypeObject& t = AsyncCallType;
  t.tp_name = "sheaf._core.AsyncCall";
  t.tp_basicsize = sizeof(AsyncCallObject);
  t.tp_flags = Py_TPFLAGS_DEFAULT;
  t.tp_dealloc = call_dealloc;
  t.tp_methods = call_methods;
  t.tp_getset = call_members;
  return PyType_Ready(&t) == 0;
}

PyObject* py_task_fd(PyObject*, PyObject*) {
  Runtime* rt = runtime_or_raise();
  return rt ? PyLong_FromLong(rt->task_fd()) : nullptr;
}

PyObject* py_loop_fd(PyObject*, PyObject*) {
  Runtime* rt = runtime_or_raise();
  if (!rt) return nullptr;
  auto fd = rt->loop_fd();
  if (fd) return PyLong_FromLong(*fd);
  PyErr_SetString(PyExc_OSError, fd.status().to_string().c_str());
  return nullptr;
}

// _loop_sleep(may_spin): True when the loop may poll, and then has to call _loop_woke(); False: calls are at hand.
PyObject* py_loop_sleep(PyObject*, PyObject* may_spin) {
  Runtime* rt = runtime_or_raise();
  if (!rt) return nullptr;
  PyThreadState* state = release_gil();
  bool sleep = rt->loop_sleep(may_spin == Py_True);
  retake_gil(state);
  return PyBool_FromLong(sleep);
}

// Whether calls are at hand.
PyObject* py_loop_woke(PyObject*, PyObject*) {
  Runtime* rt = runtime_or_raise();
  if (!rt) return nullptr;
  rt->loop_woke();
  return PyBool_FromLong(rt->has_task());
}

PyObject* py_cancel_fd(PyObject*, PyObject*) { return PyLong_FromLong(cancel_fd()); }

// The calls at hand, at most a round of them, and whether there may be more: (list, bool).
PyObject* py_take_calls(PyObject*, PyObject*) {
  Runtime* rt = runtime_or_raise();
  Ref calls(rt ? PyList_New(0) : nullptr);
  if (!calls) return nullptr;
  quiet(rt->task_fd());
  int taken = 0;
  for (; taken < kCallsPerRound; ++taken) {
    IncomingTask* task = rt->next_task(Deadline::min());
    if (!task) break;
    Ref call(new_call(task));
    if (!call || PyList_Append(calls.get(), call.get()) < 0) return nullptr;
  }
  return Py_BuildValue("(OO)", calls.get(), taken == kCallsPerRound ? Py_True : Py_False);
}

PyObject* py_take_cancelled(PyObject*, PyObject*) {
  std::vector<TaskId> ids = take_cancelled();
  Ref list(PyList_New(0));
  for (const TaskId& id : ids) {
    Ref binary(id_bytes(id));
    if (!list || !binary || PyList_Append(list.get(), binary.get()) < 0) return nullptr;
  }
  return list.release();
}

PyObject* py_exiting(PyObject*, PyObject*) {
  return PyBool_FromLong(!g_engine.runtime || g_engine.runtime->exiting());
}

PyObject* py_async_variable(PyObject*, PyObject*) { return Py_XNewRef(async_task_variable()); }

}  // namespace sheaf::python
