#include "core/event_loop.h"

#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

namespace sheaf {
namespace {

constexpr int kEventsPerRound = 64;
constexpr std::chrono::nanoseconds kLongestSleep = std::chrono::seconds(60);

// epoll data of a watch. The generation tells a watch from an earlier one on the same descriptor
// number.
uint64_t pack(int fd, uint32_t generation) {
  return uint64_t{generation} << 32 | static_cast<uint32_t>(fd);
}

// Nanosecond sleeps where the kernel has epoll_pwait2 (5.11); else milliseconds, rounded up.
int epoll_sleep(int epoll_fd, epoll_event* events, int capacity, std::chrono::nanoseconds sleep) {
#ifdef SYS_epoll_pwait2
  static std::atomic<bool> missing{false};
  if (!missing.load(std::memory_order_relaxed)) {
    timespec ts{static_cast<time_t>(sleep.count() / 1'000'000'000),
                static_cast<long>(sleep.count() % 1'000'000'000)};
    long n = syscall(SYS_epoll_pwait2, epoll_fd, events, capacity, &ts, nullptr, 0);
    if (n >= 0 || (errno != ENOSYS && errno != EPERM)) return static_cast<int>(n);
    missing.store(true, std::memory_order_relaxed);
  }
#endif
  return epoll_wait(epoll_fd, events, capacity,
                    static_cast<int>((sleep.count() + 999'999) / 1'000'000));
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  std::unique_ptr<EventLoop> loop(new EventLoop());
  loop->epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_) return Status::from_errno("epoll_create1", errno);
  loop->wake_fd_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!loop->wake_fd_) return Status::from_errno("eventfd", errno);
  int fd = loop->wake_fd_.get();
  SHEAF_TRY(loop->add_fd(fd, EPOLLIN, [fd](uint32_t) {
    uint64_t count;
    (void)!::read(fd, &count, sizeof count);  // the value does not matter; EAGAIN is harmless
  }));
  return loop;
}

EventLoop::~EventLoop() = default;

Status EventLoop::add_fd(int fd, uint32_t events, FdHandler handler) {
  if (watches_.contains(fd))
    return Status(StatusCode::kAlreadyExists, "descriptor is watched already");
  uint32_t generation = next_generation_++;
  epoll_event event{};
  event.events = events;
  event.data.u64 = pack(fd, generation);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return Status::from_errno("epoll_ctl add", errno);
  }
  watches_.emplace(fd, Watch{generation, std::make_shared<FdHandler>(std::move(handler))});
  return Status::ok();
}

Status EventLoop::change_fd(int fd, uint32_t events) {
  auto it = watches_.find(fd);
  if (it == watches_.end()) return Status(StatusCode::kNotFound, "descriptor is not watched");
  epoll_event event{};
  event.events = events;
  event.data.u64 = pack(fd, it->second.generation);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) {
    return Status::from_errno("epoll_ctl mod", errno);
  }
  return Status::ok();
}

void EventLoop::remove_fd(int fd) {
  if (watches_.erase(fd) == 0) return;
  epoll_event unused{};
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, &unused);
}

EventLoop::TimerId EventLoop::call_at(TimePoint when, Closure closure) {
  TimerId id = next_timer_++;
  timers_.emplace(std::pair(when, id), std::move(closure));
  timer_times_.emplace(id, when);
  return id;
}

EventLoop::TimerId EventLoop::call_after(std::chrono::nanoseconds delay, Closure closure) {
  return call_at(Clock::now() + delay, std::move(closure));
}

bool EventLoop::cancel_timer(TimerId id) {
  auto it = timer_times_.find(id);
  if (it == timer_times_.end()) return false;
  timers_.erase({it->second, id});
  timer_times_.erase(it);
  return true;
}

void EventLoop::post(Closure closure) {
  bool first;
  {
    std::lock_guard lock(mutex_);
    first = posted_.empty();
    posted_.push_back(std::move(closure));
    has_posted_.store(true, std::memory_order_release);
  }
  if (first) wake();
}

void EventLoop::wake() {
  uint64_t one = 1;
  (void)!::write(wake_fd_.get(), &one,
                 sizeof one);  // EAGAIN: the counter is full, so the loop wakes anyway
}

void EventLoop::stop() {
  stopping_.store(true, std::memory_order_release);
  wake();
}

void EventLoop::run() {
  while (!stopping_.load(std::memory_order_acquire)) run_once(kLongestSleep);
  stopping_.store(false, std::memory_order_release);
}

bool EventLoop::run_once(std::chrono::nanoseconds max_sleep) {
  now_ = Clock::now();
  size_t ran = run_posted() + run_timers();
  bool more = hook_.drain && hook_.drain();
  std::chrono::nanoseconds sleep =
      more || ran > 0 ? std::chrono::nanoseconds(0) : sleep_budget(max_sleep);

  epoll_event events[kEventsPerRound];
  int count = wait_for_events(events, kEventsPerRound, sleep);
  if (count > 0) now_ = Clock::now();
  return dispatch(events, count) + ran > 0 || more;
}

size_t EventLoop::run_posted() {
  if (!has_posted_.load(std::memory_order_acquire)) return 0;
  std::vector<Closure> batch;
  {
    std::lock_guard lock(mutex_);
    batch.swap(posted_);
    has_posted_.store(false, std::memory_order_relaxed);
  }
  for (Closure& closure : batch) closure();
  return batch.size();
}

size_t EventLoop::run_timers() {
  // Only what was there when the round began: a timer that re-arms itself with no delay must not
  // starve the rest.
  const TimerId end = next_timer_;
  size_t ran = 0;
  for (auto it = timers_.begin(); it != timers_.end() && it->first.first <= now_;) {
    if (it->first.second >= end) {
      ++it;
      continue;
    }
    Closure closure = std::move(it->second);
    timer_times_.erase(it->first.second);
    timers_.erase(it);
    closure();
    ++ran;
    it = timers_.begin();  // the closure may have changed the map
  }
  return ran;
}

std::chrono::nanoseconds EventLoop::sleep_budget(std::chrono::nanoseconds max_sleep) const {
  std::chrono::nanoseconds sleep = std::min(max_sleep, kLongestSleep);
  if (!timers_.empty()) sleep = std::min(sleep, timers_.begin()->first.first - Clock::now());
  return std::max(sleep, std::chrono::nanoseconds(0));
}

int EventLoop::wait_for_events(epoll_event* events, int capacity, std::chrono::nanoseconds sleep) {
  bool armed = false;
  if (sleep.count() > 0 && hook_.before_sleep) {
    armed = hook_.before_sleep();
    if (!armed) sleep = std::chrono::nanoseconds(0);
  }
  int count = epoll_sleep(epoll_.get(), events, capacity, sleep);
  bool interrupted = count < 0 && errno == EINTR;  // the hook may change errno
  if (armed && hook_.after_sleep) hook_.after_sleep();
  SHEAF_CHECK(count >= 0 || interrupted);
  return std::max(count, 0);
}

size_t EventLoop::dispatch(const epoll_event* events, int count) {
  size_t ran = 0;
  for (int i = 0; i < count; ++i) {
    int fd = static_cast<int>(static_cast<uint32_t>(events[i].data.u64));
    auto it = watches_.find(fd);
    if (it == watches_.end() || pack(fd, it->second.generation) != events[i].data.u64) continue;
    std::shared_ptr<FdHandler> handler = it->second.handler;
    (*handler)(events[i].events);
    ++ran;
  }
  return ran;
}

}  // namespace sheaf
