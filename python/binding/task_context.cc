#include "python/binding/task_context.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <mutex>

#include "python/binding/dicts.h"
#include "runtime/spin_lock.h"

namespace sheaf::python {

ActorContext g_actor;

namespace {

thread_local const runtime::IncomingTask* t_task = nullptr;
const runtime::IncomingTask* g_main_task = nullptr;   // of the thread that runs worker_main()
PyObject* g_variable = nullptr;

// Shared with the engine's threads.
struct Cancellation {
  runtime::SpinLock mutex;         // twice a task: half of what a mutex costs
  TaskId running;                  // in the main thread; nil: none
  bool wanted = false;             // `running` shall stop
  pthread_t main_thread{};
  int fd = -1;                     // >= 0: coroutines are served
  std::vector<TaskId> coroutines;
};
Cancellation& cancellation() {
  static auto* c = new Cancellation();
  return *c;
}

}  // namespace

PyObject* async_task_variable() {
  if (!g_variable) g_variable = PyContextVar_New("sheaf_task", Py_None);
  return g_variable;
}

const runtime::IncomingTask* current_incoming() {
  if (t_task) return t_task;
  if (g_variable) {
    PyObject* call = nullptr;
    if (PyContextVar_Get(g_variable, Py_None, &call) < 0) PyErr_Clear();
    Ref owned(call);
    if (call && Py_TYPE(call) == &AsyncCallType) return async_call_task(call);
  }
  return g_main_task;
}

uint64_t current_parent() {
  if (!g_engine.is_worker) return 0;
  const runtime::IncomingTask* task = current_incoming();
  return task ? task->id.lo : 0;
}

RunningScope::RunningScope(const runtime::IncomingTask* task, bool interruptible)
    : outer_(t_task), interruptible_(interruptible) {
  t_task = task;
  if (!interruptible_) return;
  g_main_task = task;
  Cancellation& c = cancellation();
  std::lock_guard guard(c.mutex);
  c.running = task->id;
  c.wanted = false;
  c.main_thread = pthread_self();
}

RunningScope::~RunningScope() {
  t_task = outer_;
  if (!interruptible_) return;
  g_main_task = outer_;
  Cancellation& c = cancellation();
  std::lock_guard guard(c.mutex);
  c.running = {};
  c.wanted = false;
}

void forget_task(const runtime::IncomingTask* task) {
  if (t_task == task) t_task = nullptr;
  if (g_main_task == task) g_main_task = nullptr;
}

void request_cancel(const TaskId& task) {
  Cancellation& c = cancellation();
  std::lock_guard guard(c.mutex);
  if (c.running == task) {
    c.wanted = true;
    pthread_kill(c.main_thread, SIGINT);   // ends a blocking call; the handler looks at `wanted`
    return;
  }
  if (c.fd < 0) return;
  c.coroutines.push_back(task);
  uint64_t one = 1;
  (void)!write(c.fd, &one, sizeof one);
}

bool main_task_cancelled() {
  Cancellation& c = cancellation();
  std::lock_guard guard(c.mutex);
  return c.wanted;
}

std::vector<TaskId> take_cancelled() {
  Cancellation& c = cancellation();
  std::lock_guard guard(c.mutex);
  uint64_t count = 0;
  if (c.fd >= 0) (void)!read(c.fd, &count, sizeof count);
  return std::exchange(c.coroutines, {});
}

int cancel_fd() {
  Cancellation& c = cancellation();
  std::lock_guard guard(c.mutex);
  if (c.fd < 0) c.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  return c.fd;
}

PyObject* current_task_dict() {
  const runtime::IncomingTask* task = current_incoming();
  if (!g_engine.runtime || (!task && !g_actor.active)) Py_RETURN_NONE;
  nb::dict out;
  out["job_id"] = g_engine.runtime->session().job;
  out["node_id"] = id_to(g_engine.runtime->session().node_id);
  out["task_id"] = task ? nb::object(id_to(task->id)) : nb::object(nb::none());
  out["attempt"] = task ? task->attempt : 0;
  out["name"] = nb::str(task ? task->definition->name.c_str() : "");
  out["method"] = nb::str(task ? task->definition->method.c_str() : "");
  out["function_id"] = task ? nb::object(id_to(task->definition->function)) : nb::object(nb::none());
  out["function_name"] = nb::str(task ? task->definition->name.c_str() : "");
  out["cancelled"] = task && g_engine.runtime->cancel_requested(*task);
  out["kind"] = task ? static_cast<int>(task->kind) : 2;
  out["actor_id"] = nb::none();
  if (g_actor.active) {
    const auto& spec = g_actor.spec;
    out["actor_id"] = id_to(spec.actor);
    out["actor_name"] = nb::str(spec.name.c_str());
    out["actor_namespace"] = nb::str(spec.name_space.c_str());
    out["class_name"] = nb::str(spec.class_name.c_str());
    out["actor_handle"] = nb::bytes(spec.handle.data(), spec.handle.size());
    out["actor_handle"] = nb::bytes(spec.handle.data(), spec.handle.size());
    out["actor_incarnation"] = g_actor.incarnation;
    out["max_concurrency"] = spec.max_concurrency;
    nb::dict groups;
    for (auto& [name, limit] : spec.concurrency_groups) groups[name.c_str()] = limit;
    out["concurrency_groups"] = groups;
    out["resources"] = resources_to(spec.placement.resources);
    out["strategy"] = strategy_to(spec.placement.strategy);
    out["runtime_env"] = nb::str(spec.placement.runtime_env.c_str());
    out["devices"] = devices_to(g_actor.devices);
  } else if (task->lease) {
    out["resources"] = resources_to(task->lease->resources);
    out["strategy"] = strategy_to(task->lease->strategy);
    out["devices"] = devices_to(task->lease->devices);
  }
  return out.release().ptr();
}

}  // namespace sheaf::python
