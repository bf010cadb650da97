#include "python/binding/worker_loop.h"

#include <unistd.h>

#include <algorithm>
#include <deque>
#include <mutex>

#include "python/binding/execute.h"
#include "python/binding/task_context.h"

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

bool call_python(const char* function) {
  Ref module(PyImport_ImportModule("sheaf._worker"));
  Ref done(module ? PyObject_CallMethod(module.get(), function, nullptr) : nullptr);
  if (!done) PyErr_Print();
  return static_cast<bool>(done);
}

// ---- Threaded actors --------------------------------------------------------------------------------------------------
//
// One thread at a time waits for the next task, outside of the interpreter lock; it hands that role on before it runs
// the task. So while a method holds the interpreter lock the successor queues for it, and starts the moment the
// method blocks or ends. Threads are made when all others are busy, up to the sum of the groups' limits.

struct Group {
  uint32_t limit = 1;
  uint32_t running = 0;
  std::deque<IncomingTask*> waiting;
};

struct Pool {
  std::mutex lead;                     // held while waiting for a task; never together with the interpreter lock
  // Below: guarded by the interpreter lock.
  std::map<std::string, Group> groups;
  uint32_t threads = 0, threads_max = 0;
  uint32_t idle = 0;                   // threads that wait for the lead or a task
  uint32_t busy = 0;
  bool leaving = false;
};
Pool* g_pool = nullptr;

void make_pool() {
  g_pool = new Pool();
  g_pool->groups[""].limit = std::max(1u, g_actor.spec.max_concurrency);
  for (auto& [name, limit] : g_actor.spec.concurrency_groups) g_pool->groups[name].limit = std::max(1u, limit);
  for (auto& [name, group] : g_pool->groups) g_pool->threads_max += group.limit;
}

Group& group_of(const IncomingTask& task) {
  auto found = g_pool->groups.find(task.definition->concurrency_group);
  return found == g_pool->groups.end() ? g_pool->groups[""] : found->second;
}

// Somebody must wait for the next task while all present threads work.
void keep_a_leader() {
  Pool& p = *g_pool;
  if (p.idle > 0 || p.threads >= p.threads_max || p.leaving) return;
  ++p.threads;
  if (!call_python("start_pool_thread")) --p.threads;
}

void run_in_group(Runtime* rt, IncomingTask* task, bool main_thread) {
  Group& group = group_of(*task);
  if (group.running >= group.limit) {
    group.waiting.push_back(task);
    return;
  }
  ++group.running;
  ++g_pool->busy;
  keep_a_leader();
  while (task) {
    if (run_task(rt, task, main_thread) == AfterTask::kLeave) g_pool->leaving = true;
    task = nullptr;
    if (!group.waiting.empty() && !g_pool->leaving) {
      task = group.waiting.front();
      group.waiting.pop_front();
    }
  }
  --g_pool->busy;
  --group.running;
}

void serve_pool(Runtime* rt, bool main_thread) {
  Pool& p = *g_pool;
  while (!p.leaving && !rt->exiting()) {
    IncomingTask* task = rt->next_task(Deadline::min());
    if (!task) {
      ++p.idle;
      PyThreadState* state = release_gil();
      if (p.lead.try_lock()) {
        task = rt->next_task(Clock::now() + kSlice);
        p.lead.unlock();
      } else if (main_thread) {
        usleep(5000);                  // signals and the end of the pool are this thread's business
      } else {
        p.lead.lock();
        task = rt->next_task(Clock::now() + kSlice);
        p.lead.unlock();
      }
      retake_gil(state);
      --p.idle;
    }
    if (task) run_in_group(rt, task, main_thread);
    if (main_thread && PyErr_CheckSignals() < 0) PyErr_Clear();
  }
}

// Lets running methods end, as an orderly exit has it.
void drain_pool(Runtime* rt) {
  while (g_pool->busy > 0 && !g_pool->leaving) {
    PyThreadState* state = release_gil();
    usleep(1000);
    retake_gil(state);
  }
}

bool is_threaded() { return g_actor.spec.max_concurrency > 1 || !g_actor.spec.concurrency_groups.empty(); }

}  // namespace

PyObject* py_pool_thread(PyObject*, PyObject*) {
  if (Runtime* rt = runtime_or_raise()) {
    serve_pool(rt, false);
    if (g_pool) --g_pool->threads;
    Py_RETURN_NONE;
  }
  return nullptr;
}

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
      make_pool();
      serve_pool(rt, true);
      drain_pool(rt);
      break;
    }
  }
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
