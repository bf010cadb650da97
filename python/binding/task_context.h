// Which task runs where: for nested submission, current_task() and cancellation.
//
// A thread that runs a task names it in a thread-local; coroutines carry theirs in a context variable. Threads that
// user code started count as part of the task in the main thread. Needs the interpreter lock unless it says otherwise.
#pragma once

#include "python/binding/engine.h"

namespace sheaf::python {

// What this worker is, once it has become an actor.
struct ActorContext {
  bool active = false;
  protocol::ActorSpec spec;
  uint32_t incarnation = 0;
  std::map<std::string, std::vector<uint32_t>> devices;
  PyObject* instance = nullptr;      // owned; null while the constructor runs
};
extern ActorContext g_actor;

// The id's low half of the task that this code belongs to; 0 in a driver.
uint64_t current_parent();
// Borrowed from whoever runs it; null outside of tasks.
const runtime::IncomingTask* current_incoming();
PyObject* current_task_dict();   // None outside of tasks

// A coroutine call: what the context variable holds (async_call.cc).
extern PyTypeObject AsyncCallType;
const runtime::IncomingTask* async_call_task(PyObject* call);   // null once it is answered
// The context variable, made at the first use.
PyObject* async_task_variable();

// Marks the task as running in this thread for a scope. `interruptible`: it runs in the main thread, where a
// cancellation can reach it.
class RunningScope {
 public:
  RunningScope(const runtime::IncomingTask* task, bool interruptible);
  ~RunningScope();
  RunningScope(const RunningScope&) = delete;

 private:
  const runtime::IncomingTask* outer_;
  bool interruptible_;
};

// The task is about to be answered, and thus freed: nothing names it from here on.
void forget_task(const runtime::IncomingTask* task);

// ---- Cancellation. A cancel hook runs in a thread of the engine, without the interpreter lock.
// Interrupts the main thread if it runs this very task now; else remembers the wish for a coroutine of that id.
void request_cancel(const TaskId& task);
// Whether the task in the main thread is to be cancelled; asked by the signal handler and after the task.
bool main_task_cancelled();
// Ids of coroutine calls to be cancelled; makes cancel_fd() quiet again.
std::vector<TaskId> take_cancelled();
int cancel_fd();

}  // namespace sheaf::python
