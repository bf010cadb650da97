#include "python/binding/worker_loop.h"

#include "python/binding/execute.h"
#include "python/binding/task_context.h"
#include "python/binding/thread_pool.h"

namespace sheaf::python {

using runtime::Clock;
using runtime::Deadline;
using runtime::IncomingTask;

namespace {

constexpr std::chrono::milliseconds kSlice{50};

// The next task, or null after a slice. The interpreter lock is given up only when nothing is at hand.
IncomingTask* take_task(Runtime* rt) {
  if (IncomingTask* task = rt->next_task(Deadline::min())) return task;
  PyThreadState* state = release_gil();
  IncomingTask* task = rt->next_task(Clock::now() + kSlice);
  retake_gil(state);
  return task;
}

bool call_python(const char* function, PyObject* argument = nullptr) {
  Ref module(PyImport_ImportModule("sheaf._worker"));
  Ref done(module ? PyObject_CallMethod(module.get(), function, argument ? "(O)" : nullptr, argument) : nullptr);
  if (!done) PyErr_Print();
  return static_cast<bool>(done);
}

}  // namespace

PyObject* py_worker_main(PyObject*, PyObject*) {
  Runtime* rt = runtime_or_raise();
  if (!rt) return nullptr;
  while (!rt->exiting()) {
    IncomingTask* task = take_task(rt);
    if (PyErr_CheckSignals() < 0) PyErr_Clear();   // a cancellation that came too late
    if (!task) continue;
    bool creation = task->kind == runtime::TaskKind::kActorCreation;
    if (run_task(rt, task, true) == AfterTask::kLeave) break;
    if (!creation || !g_actor.instance) continue;
    if (g_actor.spec.is_async) {
      call_python("serve_async");
      break;
    }
    if (is_threaded()) {
      serve_threads(rt);
      break;
    }
  }
  if (g_actor.instance) call_python("end_actor", g_actor.instance);
  return PyLong_FromLong(g_exit_code);
}

PyObject* py_await_submitted(PyObject*, PyObject*) {
  Runtime* rt = runtime_or_raise();
  if (!rt) return nullptr;
  for (;;) {
    PyThreadState* state = release_gil();
    runtime::WaitOutcome outcome = rt->await_submitted(runtime::kNever);
    retake_gil(state);
    if (outcome != runtime::WaitOutcome::kInterrupted) Py_RETURN_NONE;
    if (PyErr_CheckSignals() < 0) PyErr_Clear();   // a cancellation that came too late
  }
}

}  // namespace sheaf::python
