#include "transport/bell.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "core/cpu_pause.h"
#include "core/futex.h"

namespace sheaf::transport {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPausesPerLook = 8;  // at the clock, which costs as much as a few pauses
constexpr int kPausesPerYield = 16;
// A yield that took as long gave the core to a program that has nothing to do with us. Linux puts
// who yields behind everybody else on the core, for a time slice each, while it lets a sleeper in
// soon after its wake: then a thread spins without yielding, for so many times what it has lost.
constexpr auto kLongYieldMin = std::chrono::microseconds(100);
constexpr int kLongYieldSpins = 4;  // of SpinPolicy::yield_spin
constexpr int kYieldRest = 32;
thread_local Clock::time_point t_no_yield_before;

BellState state_of(uint32_t word) { return static_cast<BellState>(word & kBellStateMask); }

}  // namespace

// ---- Ringer -----------------------------------------------------------------------------------

struct BellRinger::Fifo {
  explicit Fifo(int opened) : fd(opened) {}
  Fifo(const Fifo&) = delete;
  ~Fifo() { close(fd); }
  int fd;
};

void BellRinger::ring(bool may_wait) {
  std::atomic<uint64_t>& word = block_->ready[lane_ / 64];
  uint64_t bit = uint64_t{1} << (lane_ % 64);
  // A set bit is left alone, but only a look after a full fence may be believed (Dekker): we stored
  // a record and then read the bit, the owner clears the bit and then reads the ring. With our
  // store still in the store buffer and an old bit in our cache, neither side would see the other.
  // When the bit is clear no fence is needed: the owner's next clear reads what fetch_or wrote, and
  // with it comes the record.
  if ((word.load(std::memory_order_relaxed) & bit) != 0) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if ((word.load(std::memory_order_relaxed) & bit) != 0) {
      // Set by a ring that may wait, perhaps: nobody else wakes a rest.
      const uint32_t state = block_->state.load(std::memory_order_relaxed);
      if (state_of(state) == BellState::kRests && !may_wait) end_rest(state);
      return;
    }
  }
  word.fetch_or(bit, std::memory_order_seq_cst);

  // The summary bit comes second: the owner clears it first and then reads the word again, so one
  // of us sees the other. A ringer killed in between leaves a word without a summary bit;
  // Bell::scan_ready mends that.
  uint64_t summary_bit = uint64_t{1} << (lane_ / 64);
  if ((block_->summary.load(std::memory_order_seq_cst) & summary_bit) == 0) {
    block_->summary.fetch_or(summary_bit, std::memory_order_seq_cst);
  }
  // Dekker, second pair: bit, then state; the owner writes state, then reads the bits.
  uint32_t state = block_->state.load(std::memory_order_seq_cst);
  if (state_of(state) == BellState::kAwake) return;
  if (state_of(state) != BellState::kRests) return wake_owner(state);
  if (!may_wait) end_rest(state);
}

// The first to do so turns the rest into a sleep that is being woken, so that one wake suffices.
// Out of line, as it is seldom needed.
[[gnu::noinline]] void BellRinger::end_rest(uint32_t state) {
  while (state_of(state) == BellState::kRests) {
    uint32_t asleep = (state & ~kBellStateMask) | static_cast<uint32_t>(BellState::kFutex);
    if (!block_->state.compare_exchange_strong(state, asleep + kBellCountStep)) continue;
    return futex_wake(&block_->state, 1);
  }
}

void BellRinger::wake_owner(uint32_t state) {
  block_->state.fetch_add(kBellCountStep, std::memory_order_seq_cst);
  if (state_of(state) == BellState::kFutex) {
    futex_wake(&block_->state, 1);
    return;
  }
  if (fifo_ == nullptr) {
    char path[sizeof block_->wake_fifo];
    std::memcpy(path, block_->wake_fifo, sizeof path);
    path[sizeof path - 1] = '\0';
    // Read-write, so that we are a reader too: writing to a fifo that nobody reads raises SIGPIPE.
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return;  // the owner is gone and so is its directory
    fifo_ = std::make_shared<const Fifo>(fd);
  }
  // EAGAIN means that the fifo is full of wakes already.
  [[maybe_unused]] ssize_t written = write(fifo_->fd, "", 1);
}

// ---- Bell -------------------------------------------------------------------------------------

Bell::~Bell() {
  if (poll_fd_ < 0) return;
  unlink(block_->wake_fifo);
  close(poll_fd_);
}

bool Bell::any_ready() const {
  uint64_t words = block_->summary.load(std::memory_order_acquire);
  for (; words != 0; words &= words - 1) {
    if (block_->ready[std::countr_zero(words)].load(std::memory_order_acquire) != 0) return true;
  }
  return false;
}

// Every word, not only those in the summary, and clears summary bits of words that are zero. Only
// on the way to sleep: while we are awake summary bits stay set, which saves both sides a locked
// instruction a message.
bool Bell::scan_ready() {
  bool found = false;
  uint64_t summary = block_->summary.load(std::memory_order_seq_cst);
  for (uint32_t w = 0; w < 64; ++w) {
    uint64_t bit = uint64_t{1} << w;
    bool any = block_->ready[w].load(std::memory_order_seq_cst) != 0;
    if (!any && (summary & bit) != 0) {
      block_->summary.fetch_and(~bit, std::memory_order_seq_cst);
      summary &= ~bit;
      any = block_->ready[w].load(std::memory_order_seq_cst) != 0;
    }
    if (any && (summary & bit) == 0) block_->summary.fetch_or(bit, std::memory_order_seq_cst);
    found |= any;
  }
  return found;
}

void Bell::for_each_ready(const std::function<bool(uint32_t lane)>& drain) {
  uint64_t words = block_->summary.load(std::memory_order_acquire);
  for (; words != 0; words &= words - 1) {
    uint32_t w = static_cast<uint32_t>(std::countr_zero(words));
    uint64_t bits = block_->ready[w].load(std::memory_order_acquire);
    for (; bits != 0; bits &= bits - 1) {
      uint32_t lane = w * 64 + static_cast<uint32_t>(std::countr_zero(bits));
      uint64_t bit = bits & -bits;
      if (!drain(lane)) continue;
      block_->ready[w].fetch_and(~bit, std::memory_order_seq_cst);
      // A record that was published before the clear is visible now; its sender may have seen the
      // bit still set.
      if (!drain(lane)) block_->ready[w].fetch_or(bit, std::memory_order_seq_cst);
    }
  }
}

uint32_t Bell::arm(BellState how) {
  uint32_t bits = static_cast<uint32_t>(how);
  return block_->state.fetch_or(bits, std::memory_order_seq_cst) | bits;
}

void Bell::disarm() { block_->state.fetch_and(~kBellStateMask, std::memory_order_seq_cst); }

bool Bell::spin(std::chrono::nanoseconds budget) {
  if (any_ready()) return true;
  if (budget.count() <= 0) return false;
  auto end = Clock::now() + budget;
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      cpu_pause();
      if (any_ready()) return true;
      if (self_wake_.load(std::memory_order_relaxed) != 0) return false;
    }
  } while (Clock::now() < end);
  return false;
}

bool Bell::spin_before_sleep(Clock::time_point deadline) {
  if (spin_.pause_spin.count() > 0 && spin(spin_.pause_spin)) return true;
  auto now = Clock::now();
  if (now < t_no_yield_before) {
    if (spin(spin_.yield_spin)) return true;
  } else if (spin_.yield_spin.count() > 0) {
    auto end = std::min(now + spin_.yield_spin, deadline);
    auto long_yield = std::max<Clock::duration>(kLongYieldMin, kLongYieldSpins * spin_.yield_spin);
    do {
      for (int i = 0; i < kPausesPerYield; ++i) {
        cpu_pause();
        if (any_ready()) return true;
      }
      if (self_wake_.load(std::memory_order_relaxed) != 0) return true;
      // Whom we wait for may be queued behind us on this core.
      sched_yield();
      auto before = std::exchange(now, Clock::now());
      bool lost = now - before > long_yield;
      if (lost) t_no_yield_before = now + kYieldRest * (now - before);
      if (any_ready()) return true;
      if (lost) break;
    } while (now < end);
  }
  return self_wake_.load(std::memory_order_relaxed) != 0;
}

bool Bell::wait(Clock::time_point deadline) {
  if (any_ready()) return true;
  if (!spin_before_sleep(deadline)) sleep(BellState::kFutex, deadline);
  if (self_wake_.load(std::memory_order_relaxed) != 0) self_wake_.store(0);
  return any_ready();
}

bool Bell::rest(Clock::time_point deadline) {
  if (any_ready()) return true;
  sleep(BellState::kRests, deadline);
  if (self_wake_.load(std::memory_order_relaxed) != 0) self_wake_.store(0);
  return any_ready();
}

void Bell::sleep(BellState how, Clock::time_point deadline) {
  uint32_t armed = arm(how);
  if (!scan_ready() && self_wake_.load(std::memory_order_seq_cst) == 0) {
    futex_wait(&block_->state, armed, deadline);
  }
  disarm();
}

void Bell::wake() {
  int saved_errno = errno;
  // Then state, as in ring(): the sleeper looks the other way round.
  self_wake_.store(1, std::memory_order_seq_cst);
  uint32_t state = block_->state.load(std::memory_order_seq_cst);
  BellState how = state_of(state);
  if (how == BellState::kFutex || how == BellState::kRests) {
    block_->state.fetch_add(kBellCountStep, std::memory_order_seq_cst);
    futex_wake(&block_->state, 1);
  } else if (how == BellState::kPollFd) {
    [[maybe_unused]] ssize_t written = write(poll_fd_, "", 1);
  }
  errno = saved_errno;
}

Result<int> Bell::open_poll_fd(const std::string& path) {
  SHEAF_CHECK(poll_fd_ < 0);
  if (path.empty() || path.size() >= sizeof block_->wake_fifo) {
    return Status(StatusCode::kInvalidArgument, "a wake fifo needs a path of 1 to 255 bytes");
  }
  if (mkfifo(path.c_str(), 0600) != 0) return Status::from_errno("mkfifo " + path, errno);
  // Read-write: with a writer of our own the fifo never reports a hang-up when a ringer dies.
  poll_fd_ = open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
  if (poll_fd_ < 0) {
    Status status = Status::from_errno("open " + path, errno);
    unlink(path.c_str());
    return status;
  }
  // Ringers read it only after they saw kPollFd.
  std::memcpy(block_->wake_fifo, path.c_str(), path.size() + 1);
  return poll_fd_;
}

bool Bell::arm_poll() {
  SHEAF_CHECK(poll_fd_ >= 0);
  arm(BellState::kPollFd);
  if (!scan_ready() && self_wake_.load(std::memory_order_seq_cst) == 0) return true;
  disarm();
  self_wake_.store(0, std::memory_order_seq_cst);
  return false;
}

void Bell::disarm_poll() {
  disarm();
  self_wake_.store(0, std::memory_order_seq_cst);
  char bytes[256];
  while (read(poll_fd_, bytes, sizeof bytes) == static_cast<ssize_t>(sizeof bytes)) {
  }
}

}  // namespace sheaf::transport
