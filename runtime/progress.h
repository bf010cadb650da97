// Who drives the process's messages, and how a thread waits for a fact.
//
// Of the threads that wait, exactly one leads: it sleeps on the bell. The others sleep on a generation word that they
// read before they let go of the lock; whoever drains bumps it when something became ready, and a leader bumps it when
// it leaves. A helper thread drains every millisecond while work is in flight and nobody leads, every 20 ms else; it
// leads itself while an event loop waits that cannot. In a worker it also sees to it that the daemon's end is noticed;
// in a driver, whose helper may be held up by a slow terminal, another thread does. Waits are cut into slices of 50 ms,
// so that no lost wake lasts.
//
// An event loop that is ours (an async actor's) leads by itself: it polls the bell's descriptor beside its own, so that
// a call costs one wake instead of two. While it runs callbacks nobody leads, as while a task runs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/runtime.h"
#include "runtime/spin_lock.h"
#include "transport/bell.h"

namespace sheaf::runtime {

class Progress {
 public:
  explicit Progress(Runtime::Impl& rt);
  ~Progress();
  void start();
  void stop();

  // `fact` is evaluated with the lock held, after everything at hand was drained. Takes and releases the lock.
  template <class Fact>
  WaitOutcome wait(Fact fact, Deadline deadline) {
    lock_.lock();
    for (;;) {
      drain();
      if (fact()) { lock_.unlock(); return WaitOutcome::kReady; }
      if (disconnected_) { lock_.unlock(); return WaitOutcome::kDisconnected; }
      auto now = Clock::now();
      if (now >= deadline) { lock_.unlock(); return WaitOutcome::kTimeout; }
      bool interrupted = sleep(std::min(deadline, now + kSlice), deadline);
      if (!interrupted) continue;
      drain();
      bool done = fact();
      lock_.unlock();
      return done ? WaitOutcome::kReady : WaitOutcome::kInterrupted;
    }
  }
  // Waits on until the fact holds, the deadline passes or the daemon is gone, through all interruptions.
  template <class Fact>
  WaitOutcome wait_through(Fact fact, Deadline deadline) {
    for (;;) {
      WaitOutcome out = wait(fact, deadline);
      if (out != WaitOutcome::kInterrupted) return out;
    }
  }
  template <class Fact>
  bool poll(Fact fact, std::chrono::nanoseconds budget) {
    for (int round = 0;; ++round) {
      lock_.lock();
      drain();
      bool done = fact();
      lock_.unlock();
      if (done) return true;
      if (round > 0 || budget.count() == 0) return false;
      if (!bell_.spin(budget)) return false;
    }
  }

  // Lock held: takes everything that lies in our lanes, then pushes what can go out.
  void drain();
  // The same when something lies there; two loads if not. For callers that submit in a loop: workers' replies make
  // room for more tasks.
  void drain_if_ready() {
    if (bell_.any_ready()) drain();
  }
  // Lock held. Something a waiter may wait for has happened; wakes are sent when drain() is done.
  void note_ready() { woke_ = true; }
  void note_notified() { notify_fd_ = true; }
  void note_task() { task_arrived_ = true; woke_ = true; }
  void set_disconnected();
  bool disconnected() const { return disconnected_; }
  // Event loops: an eventfd that becomes readable with take_notified() / with tasks in the queue.
  int ready_fd();
  int task_fd();
  // An event loop that leads: one thread, from loop_fd() on. loop_sleep() spins, then arms the descriptor and returns
  // true: poll, then loop_woke(). False: a task is at hand. While another thread leads the loop sleeps unled, and the
  // eventfds above wake it.
  Result<int> loop_fd(const std::string& fifo_path);
  bool loop_sleep(bool may_spin);
  void loop_woke();
  // Work to be done by the helper outside the lock (hooks).
  void post(std::function<void()> work);
  transport::Bell& bell() { return bell_; }
  // The helper keeps a close eye (1 ms) while this is true.
  std::atomic<bool> busy{false};

 private:
  static constexpr std::chrono::milliseconds kSlice{50};
  // Lock held before and after. True when a slice has passed or a signal arrived.
  bool sleep(Deadline slice_end, Deadline deadline);
  void leave_lead();
  void wake_others();
  bool in_loop_thread() const { return has_loop_ && loop_thread_ == std::this_thread::get_id(); }
  void helper_main();
  void nap(int ms);
  bool socket_ended(int timeout_ms);
  void watch_main();

  Runtime::Impl& rt_;
  SpinLock& lock_;
  transport::Bell bell_;
  bool leading_ = false;
  uint32_t followers_ = 0;
  std::atomic<uint32_t> generation_{0};
  bool woke_ = false, notify_fd_ = false, task_arrived_ = false;
  bool disconnected_ = false;
  int ready_fd_ = -1, task_fd_ = -1;
  bool has_loop_ = false;          // an event loop that leads when it is idle
  bool loop_leads_ = false;
  bool loop_sleeps_unled_ = false; // told by task_fd_ when the lead becomes free
  std::thread::id loop_thread_;
  std::vector<std::function<void()>> posted_;
  std::atomic<bool> stopping_{false};
  std::mutex stop_mutex_;               // the helper's nap: a condition with a time limit
  std::condition_variable stop_signal_;
  int stop_pipe_[2] = {-1, -1};
  std::thread helper_, watcher_;
};

}  // namespace sheaf::runtime
