#include "runtime/progress.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <climits>
#include <utility>

#include "core/futex.h"
#include "runtime/impl.h"
#include "transport/wake_cost.h"

namespace sheaf::runtime {

namespace {

constexpr int kTriesMax = 10;   // of the helper, a millisecond apart, to have the lock without waiting for it

void signal_fd(int fd) {
  if (fd < 0) return;
  uint64_t one = 1;
  [[maybe_unused]] ssize_t n = ::write(fd, &one, sizeof one);
}

transport::SpinPolicy spin_policy(const transport::LaneRegion& region) {
  transport::SpinPolicy policy;
  policy.yield_spin = transport::shared_wake_cost(region);
  return policy;
}

}  // namespace

Progress::Progress(Runtime::Impl& rt)
    : rt_(rt),
      lock_(rt.lock),
      bell_(rt.session.region.at<transport::BellBlock>(rt.session.welcome.bell),
            spin_policy(rt.session.region)) {}

Progress::~Progress() {
  for (int fd : {ready_fd_, task_fd_, stop_pipe_[0], stop_pipe_[1]}) {
    if (fd >= 0) close(fd);
  }
}

void Progress::start() {
  if (pipe2(stop_pipe_, O_CLOEXEC) != 0) stop_pipe_[0] = stop_pipe_[1] = -1;
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &old);   // signals belong to the user's threads
  helper_ = std::thread([this] { helper_main(); });
  if (rt_.kind != protocol::ClientKind::kWorker) watcher_ = std::thread([this] { watch_main(); });
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

void Progress::stop() {
  stopping_ = true;
  if (stop_pipe_[1] >= 0) {
    char c = 0;
    [[maybe_unused]] ssize_t n = ::write(stop_pipe_[1], &c, 1);
  }
  {
    std::lock_guard guard(stop_mutex_);
  }
  stop_signal_.notify_all();
  bell_.wake();
  if (helper_.joinable()) helper_.join();
  if (watcher_.joinable()) watcher_.join();
  for (int& fd : stop_pipe_) {
    if (fd >= 0) close(std::exchange(fd, -1));
  }
  // What the helper had still to say: log lines that arrived just before the end.
  for (auto& work : std::exchange(posted_, {})) work();
}

void Progress::drain() {
  if (bell_.any_ready()) {
    bell_.for_each_ready([this](uint32_t lane) { return rt_.drain_lane(lane); });
  }
  rt_.push_out();
  if (woke_ || notify_fd_ || task_arrived_) wake_others();
}

void Progress::wake_others() {
  if (notify_fd_) signal_fd(ready_fd_);
  if (task_arrived_ && !in_loop_thread()) signal_fd(task_fd_);
  if (woke_) {
    if (leading_) bell_.wake();
    if (followers_ > 0) {
      generation_.fetch_add(1, std::memory_order_release);
      futex_wake(&generation_, INT_MAX, FutexScope::kPrivate);
    }
  }
  woke_ = notify_fd_ = task_arrived_ = false;
}

bool Progress::sleep(Deadline slice_end, Deadline deadline) {
  if (leading_) {
    ++followers_;
    uint32_t seen = generation_.load(std::memory_order_acquire);
    lock_.unlock();
    futex_wait(&generation_, seen, slice_end, FutexScope::kPrivate);
    lock_.lock();
    --followers_;
  } else {
    leading_ = true;
    const auto now = Clock::now();
    const auto rest = rt_.submitter.rest_time(now);
    lock_.unlock();
    if (rest.count() > 0) bell_.rest(std::min(slice_end, now + rest));
    else bell_.wait(slice_end);
    lock_.lock();
    leave_lead();
  }
  return Clock::now() >= slice_end && slice_end < deadline;
}

// Lock held. Somebody else must lead now, if anybody waits.
void Progress::leave_lead() {
  leading_ = false;
  if (followers_ > 0) {
    generation_.fetch_add(1, std::memory_order_release);
    futex_wake(&generation_, INT_MAX, FutexScope::kPrivate);
  } else if (loop_sleeps_unled_) {
    signal_fd(task_fd_);
  }
}

void Progress::set_disconnected() {
  lock_.lock();
  bool first = !disconnected_;
  disconnected_ = true;
  woke_ = notify_fd_ = task_arrived_ = true;
  wake_others();
  lock_.unlock();
  if (first && rt_.hooks.disconnected) rt_.hooks.disconnected();
}

int Progress::ready_fd() {
  if (ready_fd_ < 0) ready_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return ready_fd_;
}

int Progress::task_fd() {
  if (task_fd_ < 0) task_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return task_fd_;
}

Result<int> Progress::loop_fd(const std::string& fifo_path) {
  SHEAF_ASSIGN(int fd, bell_.open_poll_fd(fifo_path));
  lock_.lock();
  has_loop_ = true;
  loop_thread_ = std::this_thread::get_id();
  lock_.unlock();
  return fd;
}

bool Progress::loop_sleep(bool may_spin) {
  for (bool spun = !may_spin;; spun = true) {
    lock_.lock();
    drain();
    if (rt_.executor.has_task() || rt_.executor.exiting() || disconnected_) {
      lock_.unlock();
      return false;
    }
    if (leading_) {
      loop_sleeps_unled_ = true;
      lock_.unlock();
      return true;
    }
    leading_ = true;
    lock_.unlock();
    bool armed = (spun || !bell_.spin_before_sleep(kNever)) && bell_.arm_poll();
    lock_.lock();
    if (armed) {
      loop_leads_ = true;
      lock_.unlock();
      return true;
    }
    leave_lead();
    lock_.unlock();
  }
}

void Progress::loop_woke() {
  lock_.lock();
  loop_sleeps_unled_ = false;
  if (std::exchange(loop_leads_, false)) {
    bell_.disarm_poll();
    leave_lead();
  }
  drain();
  lock_.unlock();
}

void Progress::post(std::function<void()> work) { posted_.push_back(std::move(work)); }

void Progress::helper_main() {
  pthread_setname_np(pthread_self(), "sheaf-helper");
  prctl(PR_SET_TIMERSLACK, 50000, 0, 0, 0);
  int missed = 0;
  while (!stopping_) {
    // Its holder may be off its core for milliseconds: to wait would take another core from those who work.
    if (!lock_.try_lock()) {
      if (++missed < kTriesMax) {
        nap(1);
        continue;
      }
      lock_.lock();   // so many threads use it that it is hardly ever free
    }
    missed = 0;
    if (!leading_) drain();
    rt_.tick(Clock::now());   // also while a thread leads: a worker that waits for tasks does so nearly always
    bool lead = !leading_ && !has_loop_ && (ready_fd_ >= 0 || task_fd_ >= 0);
    if (lead) sleep(Clock::now() + std::chrono::milliseconds(5), kNever);
    if (lead) drain();
    std::vector<std::function<void()>> work = std::exchange(posted_, {});
    bool close_eye = busy.load(std::memory_order_relaxed);
    lock_.unlock();
    for (auto& w : work) w();
    nap(lead ? 0 : close_eye ? 1 : 20);
  }
}

// The helper's pause. A worker's looks after the daemon meanwhile.
void Progress::nap(int ms) {
  if (rt_.kind == protocol::ClientKind::kWorker) {
    if (disconnected_) usleep(1000);
    else if (socket_ended(ms)) set_disconnected();
  } else if (ms > 0) {
    std::unique_lock nap(stop_mutex_);
    stop_signal_.wait_for(nap, std::chrono::milliseconds(ms), [this] { return stopping_.load(); });
  }
}

// Waits until the daemon is gone, stop() was called or the time is over; whether the daemon is gone. The socket carries
// nothing after the handshake: readable means its end.
bool Progress::socket_ended(int timeout_ms) {
  pollfd fds[2] = {{rt_.session.socket, POLLIN | POLLRDHUP, 0}, {stop_pipe_[0], POLLIN, 0}};
  return ::poll(fds, 2, timeout_ms) > 0 && !stopping_ && fds[0].revents != 0;
}

void Progress::watch_main() {
  pthread_setname_np(pthread_self(), "sheaf-watch");
  while (!stopping_) {
    if (socket_ended(-1)) return set_disconnected();
  }
}

}  // namespace sheaf::runtime
