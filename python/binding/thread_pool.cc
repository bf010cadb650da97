#include "python/binding/thread_pool.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>

#include "python/binding/execute.h"
#include "python/binding/task_context.h"

namespace sheaf::python {

using runtime::Clock;
using runtime::Deadline;
using runtime::IncomingTask;

namespace {

constexpr std::chrono::milliseconds kSlice{50};      // the leader, and the main thread for its signals
constexpr std::chrono::seconds kLongSlice{10};       // others: they are woken when there is something

struct Group {
  std::string name;
  uint32_t limit = 1;
  uint32_t threads = 0;                // that serve it, or are about to
  std::deque<IncomingTask*> waiting;   // taken from the engine, in order
};

// A thread that has nothing to do, and does not lead.
struct Sleeper {
  Group* group;
  std::condition_variable wake;
  IncomingTask* task = nullptr;        // given by whoever woke it; null: look again, and lead
  bool woken = false;
};

struct Pool {
  std::atomic<uint32_t> busy{0};       // threads that run a call
  std::atomic<bool> leaving{false};
  // Guards all below. Whoever holds it never waits for the interpreter lock; whoever holds that only tries this one.
  std::mutex mutex;
  std::map<std::string, Group> groups;
  std::vector<Sleeper*> sleeping;
  uint32_t starting = 0;               // threads that have not looked for work yet
  bool led = false;
};
Pool* g_pool = nullptr;

Group& group_of(const IncomingTask& task) {
  auto found = g_pool->groups.find(task.definition->concurrency_group);
  return found == g_pool->groups.end() ? g_pool->groups[""] : found->second;
}

// One thread and what it has to do for others once it has the interpreter lock.
class Server {
 public:
  Server(Runtime* rt, Group& group, bool main_thread) : rt_(rt), group_(group), main_(main_thread) {}
  void serve();

 private:
  using Lock = std::unique_lock<std::mutex>;
  IncomingTask* fetch();
  IncomingTask* wait_for_task();
  IncomingTask* sleep(Lock& lock);
  void place(IncomingTask* task);
  void hand_on_lead();
  void grow(Group& group);
  void start_threads();
  bool may_end();
  bool ended() const { return g_pool->leaving || rt_->exiting(); }

  Runtime* rt_;
  Group& group_;
  bool main_;
  std::vector<Group*> to_start_;
};

// ---- The mutex is held ---------------------------------------------------------------------------------------------------

void wake(Sleeper& sleeper, IncomingTask* task) {
  std::erase(g_pool->sleeping, &sleeper);
  sleeper.task = task;
  sleeper.woken = true;
  sleeper.wake.notify_one();
}

void Server::grow(Group& group) {
  ++group.threads;
  ++g_pool->starting;
  to_start_.push_back(&group);
}

// Gives a call to a thread of its group, now or when one is free.
void Server::place(IncomingTask* task) {
  Group& group = group_of(*task);
  auto& sleeping = g_pool->sleeping;
  auto idle = std::find_if(sleeping.rbegin(), sleeping.rend(), [&](Sleeper* s) { return s->group == &group; });
  if (idle != sleeping.rend()) {
    wake(**idle, task);
    ++g_pool->busy;
    return;
  }
  group.waiting.push_back(task);
  if (group.threads < group.limit) grow(group);
}

// The next call for this thread, if there is one; what came for other groups is given to them. Taking and placing are
// one step under the mutex: else two threads could change the order of a group's calls.
IncomingTask* Server::fetch() {
  IncomingTask* task = nullptr;
  if (!group_.waiting.empty()) {
    task = group_.waiting.front();
    group_.waiting.pop_front();
  }
  while (!task && !ended()) {
    task = rt_->next_task(Deadline::min());
    if (!task) break;
    if (&group_of(*task) == &group_) break;
    place(std::exchange(task, nullptr));
  }
  if (!task) return nullptr;
  ++g_pool->busy;
  hand_on_lead();
  return task;
}

// This thread is about to work: somebody else must wait for the next call.
void Server::hand_on_lead() {
  Pool& p = *g_pool;
  if (p.led || p.starting > 0) return;
  if (!p.sleeping.empty()) return wake(*p.sleeping.back(), nullptr);
  if (group_.threads < group_.limit) return grow(group_);
  for (auto& [name, group] : p.groups) {
    if (group.threads < group.limit) return grow(group);
  }
}

// A call that was given, or null to look again.
IncomingTask* Server::sleep(Lock& lock) {
  Sleeper me{&group_, {}, nullptr, false};
  g_pool->sleeping.push_back(&me);
  Clock::duration slice = main_ ? Clock::duration(kSlice) : Clock::duration(kLongSlice);
  me.wake.wait_for(lock, slice, [&] { return me.woken; });
  if (!me.woken) std::erase(g_pool->sleeping, &me);
  return me.task;
}

// ---- Without the interpreter lock ----------------------------------------------------------------------------------------

// A call to run; null when there are threads to start, signals to look for or an end to come to.
IncomingTask* Server::wait_for_task() {
  Pool& p = *g_pool;
  const Deadline look_for_signals = Clock::now() + kSlice;
  Lock lock(p.mutex);
  for (;;) {
    if (IncomingTask* task = fetch()) return task;
    if (main_ && Clock::now() >= look_for_signals) return nullptr;
    if (ended() || !to_start_.empty()) return nullptr;
    if (p.led) {
      if (IncomingTask* task = sleep(lock)) return task;
    } else {
      p.led = true;
      lock.unlock();
      rt_->await_task(Clock::now() + kSlice);
      lock.lock();
      p.led = false;
      if (ended()) {
        while (!p.sleeping.empty()) wake(*p.sleeping.back(), nullptr);
      }
    }
  }
}

// ---- With the interpreter lock -------------------------------------------------------------------------------------------

void Server::start_threads() {
  for (Group* group : std::exchange(to_start_, {})) {
    Ref module(PyImport_ImportModule("sheaf._worker"));
    Ref done(module ? PyObject_CallMethod(module.get(), "start_pool_thread", "s", group->name.c_str()) : nullptr);
    if (done) continue;
    PyErr_Print();
    PyThreadState* state = release_gil();
    {
      Lock lock(g_pool->mutex);
      --group->threads;
      --g_pool->starting;
    }
    retake_gil(state);
  }
}

void Server::serve() {
  Pool& p = *g_pool;
  for (;;) {
    IncomingTask* task = nullptr;
    if (p.mutex.try_lock()) {   // in a row of short calls the interpreter lock is never given up
      task = fetch();
      p.mutex.unlock();
    }
    if (!task && to_start_.empty()) {
      PyThreadState* state = release_gil();
      task = wait_for_task();
      retake_gil(state);
    }
    start_threads();
    if (task) {
      if (run_task(rt_, task, main_) == AfterTask::kLeave) p.leaving = true;
      --p.busy;
    }
    if (main_ && PyErr_CheckSignals() < 0) PyErr_Clear();
    if (ended() && may_end()) return;
  }
}

// What its group was given before the end is run, unless the actor has left.
bool Server::may_end() {
  PyThreadState* state = release_gil();
  bool end = false;
  {
    std::lock_guard guard(g_pool->mutex);
    end = g_pool->leaving || group_.waiting.empty();
    if (end) --group_.threads;
  }
  retake_gil(state);
  return end;
}

void make_pool() {
  g_pool = new Pool();
  g_pool->groups[""].limit = std::max(1u, g_actor.spec.max_concurrency);
  for (auto& [name, limit] : g_actor.spec.concurrency_groups) g_pool->groups[name].limit = std::max(1u, limit);
  for (auto& [name, group] : g_pool->groups) group.name = name;
  g_pool->groups[""].threads = 1;
}

bool is_quiet() {
  std::lock_guard guard(g_pool->mutex);
  bool waiting = false;
  for (auto& [name, group] : g_pool->groups) waiting |= group.threads > 0 && !group.waiting.empty();
  return g_pool->leaving || (g_pool->busy == 0 && !waiting);
}

}  // namespace

bool is_threaded() { return g_actor.spec.max_concurrency > 1 || !g_actor.spec.concurrency_groups.empty(); }

void serve_threads(Runtime* rt) {
  make_pool();
  Server(rt, g_pool->groups[""], true).serve();
  PyThreadState* state = release_gil();
  while (!is_quiet()) usleep(1000);   // running methods end, as an orderly exit has it
  retake_gil(state);
}

PyObject* py_pool_thread(PyObject*, PyObject* group_name) {
  Runtime* rt = runtime_or_raise();
  const char* name = rt ? PyUnicode_AsUTF8(group_name) : nullptr;
  if (!name) return nullptr;
  PyThreadState* state = release_gil();
  {
    std::lock_guard guard(g_pool->mutex);
    --g_pool->starting;
  }
  retake_gil(state);
  Server(rt, g_pool->groups.at(name), false).serve();
  Py_RETURN_NONE;
}

}  // namespace sheaf::python
