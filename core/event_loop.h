// EventLoop: the one loop of a daemon. File descriptors, timers, closures posted by other threads, and a round hook
// for sources that have no descriptor, such as shared-memory lanes.
//
// A round is: posted closures, due timers, the drain hook, ready descriptors. Handlers run one at a time on the
// owning thread and may add or remove anything, themselves included; work that they start is handed on by post(),
// never by calling each other. Owned by the thread that calls run(); only post(), wake() and stop() are thread-safe.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/fd.h"
#include "core/status.h"

namespace sheaf {

class EventLoop {
 public:
  using Clock = std::chrono::steady_clock;
  using TimePoint = Clock::time_point;
  using TimerId = uint64_t;  // never reused; 0 = none
  using Closure = std::function<void()>;
  using FdHandler = std::function<void(uint32_t events)>;  // events: EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR

  // Each is called at most once a round. `drain` does a bounded amount of work and returns true when more is waiting,
  // which keeps the loop from sleeping. `before_sleep` arms the wake-up and returns false when something has arrived
  // meanwhile (then the loop only polls); `after_sleep` follows every before_sleep that returned true.
  struct RoundHook {
    std::function<bool()> drain;
    std::function<bool()> before_sleep;
    std::function<void()> after_sleep;
  };

  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;

  // Level-triggered. The loop does not own `fd`: remove it before it is closed. kAlreadyExists for a known fd.
  Status add_fd(int fd, uint32_t events, FdHandler handler);
  Status change_fd(int fd, uint32_t events);
  // No handler of `fd` runs afterwards, not even for an event of this round. Nothing happens for an unknown fd.
  void remove_fd(int fd);

  // Timers fire in order of their time, equal times in order of creation, never early.
  TimerId call_at(TimePoint when, Closure closure);
  TimerId call_after(std::chrono::nanoseconds delay, Closure closure);
  // False when it has already fired.
  bool cancel_timer(TimerId id);

  void set_round_hook(RoundHook hook) { hook_ = std::move(hook); }

  // Any thread. Runs on the loop's thread in order of posting, never inside this call. Closures posted to a loop that
  // has stopped are destroyed unrun with it.
  void post(Closure closure);
  // Any thread, async-signal-safe: ends a sleep.
  void wake();
  // Any thread. run() returns after the current round.
  void stop();

  void run();
  // One round, sleeping for at most `max_sleep`. True when anything was run.
  bool run_once(std::chrono::nanoseconds max_sleep);
  // The time at which this round began: cheap, and the same for all handlers of the round.
  TimePoint now() const { return now_; }

 private:
  struct Watch {
    uint32_t generation;
    std::shared_ptr<FdHandler> handler;  // shared: a handler may remove itself while it runs
  };

  EventLoop() = default;
  size_t run_posted();
  size_t run_timers();
  size_t dispatch(const epoll_event* events, int count);
  int wait_for_events(epoll_event* events, int capacity, std::chrono::nanoseconds max_sleep);
  std::chrono::nanoseconds sleep_budget(std::chrono::nanoseconds max_sleep) const;

  Fd epoll_;
  Fd wake_fd_;  // eventfd
  std::unordered_map<int, Watch> watches_;
  uint32_t next_generation_ = 1;
  std::map<std::pair<TimePoint, TimerId>, Closure> timers_;
  std::unordered_map<TimerId, TimePoint> timer_times_;
  TimerId next_timer_ = 1;
  RoundHook hook_;
  TimePoint now_ = Clock::now();
  std::atomic<bool> stopping_{false};

  std::mutex mutex_;              // guards posted_ alone; held for a push or a swap
  std::vector<Closure> posted_;
  std::atomic<bool> has_posted_{false};
};

}  // namespace sheaf
