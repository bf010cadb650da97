// The lock of the runtime's tables. Held for tens of nanoseconds; a waiter yields soon, as the holder may share its core.
#pragma once

#include <sched.h>

#include <atomic>

#include "core/cpu_pause.h"

namespace sheaf::runtime {

class SpinLock {
 public:
  void lock() {
    int spins = 0;
    while (locked_.exchange(true, std::memory_order_acquire)) {
      while (locked_.load(std::memory_order_relaxed)) {
        if (++spins < kPauseSpins) cpu_pause();
        else sched_yield();
      }
    }
  }
  bool try_lock() { return !locked_.exchange(true, std::memory_order_acquire); }
  void unlock() { locked_.store(false, std::memory_order_release); }

 private:
  static constexpr int kPauseSpins = 100;
  std::atomic<bool> locked_{false};
};

}  // namespace sheaf::runtime
