// A process's doorbell: which of its lanes have something for it, and whether it sleeps.
//
// The ready bits follow the NAPI rule: a producer sets a lane's bit; one that finds it set does
// nothing more (no write, no system call). The consumer clears a bit only after it found the lane
// empty, and then looks again. So a burst costs at most one wake a side, and two busy processes
// exchange messages without any. Two levels of bits: 64 words of 64 lanes. Word 0 bit 0 is lane 0:
// by convention the lane to the node daemon.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/status.h"
#include "transport/lane_region.h"

namespace sheaf::transport {

inline constexpr uint32_t kMaxLanes = 4096;  // per process

enum class BellState : uint32_t {
  kAwake = 0,   // polls; nobody needs to wake it
  kFutex = 1,   // sleeps on `state`
  kPollFd = 2,  // sleeps in poll/epoll on the wake fifo (event loops)
  kRests = 3,   // sleeps on `state` for a short while; only what may not wait wakes it
};

// In shared memory; one page per process, allocated and zeroed by the daemon.
struct BellBlock {
  // Low two bits: BellState, written by the owner. Above: a count that a ringer raises before it
  // wakes, so that a futex wait which has not begun yet fails. A ringer never writes "awake": if it
  // is killed between the count and the wake, the next ringer still sees a sleeper.
  alignas(64) std::atomic<uint32_t> state;
  std::atomic<uint32_t> owner_process;
  alignas(64) std::atomic<uint64_t> summary;  // bit w: ready[w] may be non-zero
  alignas(64) std::atomic<uint64_t> ready[64];
  char wake_fifo[256];  // path of the owner's fifo; empty until it wants kPollFd
};
static_assert(sizeof(BellBlock) <= 4096);
inline constexpr uint32_t kBellStateMask = 3;
inline constexpr uint32_t kBellCountStep = 4;

// How long a waiter spins before it sleeps: about what a wake costs (transport/wake_cost.h).
struct SpinPolicy {
  std::chrono::nanoseconds pause_spin{1000};   // pure pause instructions
  std::chrono::nanoseconds yield_spin{20000};  // then pause and sched_yield in turn
};

// Producer side: any process; one thread at a time. Sets the bit; wakes the owner when it sleeps.
// Copies share the descriptor of the owner's fifo, if one was needed; the last of them closes it.
class BellRinger {
 public:
  BellRinger() = default;
  BellRinger(BellBlock* block, uint32_t lane) : block_(block), lane_(lane) {}
  // Call after what the owner shall find has been stored (release). Never blocks, never fails.
  // `may_wait`: an owner that rests finds it at the end of its rest.
  void ring(bool may_wait = false);

 private:
  struct Fifo;
  void wake_owner(uint32_t state);
  void end_rest(uint32_t state);

  BellBlock* block_ = nullptr;
  uint32_t lane_ = 0;
  std::shared_ptr<const Fifo> fifo_;  // opened at the first kPollFd wake
};

// Consumer side. wait() and the poll-fd pair: one thread at a time (the leader). wake(): any
// thread.
class Bell {
 public:
  explicit Bell(BellBlock* block, SpinPolicy spin = {}) : block_(block), spin_(spin) {}
  Bell(const Bell&) = delete;
  Bell& operator=(const Bell&) = delete;
  ~Bell();

  // True when any ready bit is set; costs two loads when up to 64 lanes were ever used.
  bool any_ready() const;
  // Calls `drain(lane)` for each ready lane. `drain` consumes what it wants, flushes the lane's
  // overflow and returns true when it left the lane EMPTY (Lane::rx_empty); only then is the bit
  // cleared, and the lane is drained once more to close the race with the producer. A lane that
  // `drain` does not know counts as empty. Not re-entrant.
  void for_each_ready(const std::function<bool(uint32_t lane)>& drain);
  // Spins, then sleeps until a bit is set, wake() is called or the deadline passes. May return
  // early without a cause. EINTR (a signal) also returns. Returns any_ready(). A ringer that is
  // killed between its bit and its wake leaves us asleep until the next ring or the deadline:
  // choose deadlines that allow for it.
  bool wait(std::chrono::steady_clock::time_point deadline);
  // Sleeps at once, through rings that may wait. The deadline is when they are looked at: soon.
  bool rest(std::chrono::steady_clock::time_point deadline);
  // Spins only for `budget` (pause, no yield): for callers that hold a lock that others need (the
  // GIL). Returns any_ready().
  bool spin(std::chrono::nanoseconds budget);
  // All that wait() does before it sleeps. True when there is no reason to sleep any more.
  bool spin_before_sleep(std::chrono::steady_clock::time_point deadline);
  // Makes a wait() in progress, or the next one, return soon. Async-signal-safe.
  void wake();

  // For event loops: creates the fifo at `path` (0600) and returns its read end, to be polled; the
  // Bell keeps the descriptor and removes the fifo in the end. arm_poll() returns false when lanes
  // are already ready (do not sleep); after the poll call disarm_poll().
  Result<int> open_poll_fd(const std::string& path);
  bool arm_poll();
  void disarm_poll();

 private:
  uint32_t arm(BellState how);
  void disarm();
  void sleep(BellState how, std::chrono::steady_clock::time_point deadline);
  bool scan_ready();

  BellBlock* block_;
  SpinPolicy spin_;
  int poll_fd_ = -1;
  std::atomic<uint32_t> self_wake_{0};
};

}  // namespace sheaf::transport
