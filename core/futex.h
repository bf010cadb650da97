// Waiting for a 32-bit word to change, and waking those who wait: the two system calls, nothing more. Deadlines are
// absolute on CLOCK_MONOTONIC, which is libstdc++'s steady_clock. A wait may end without a reason: look at the word.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>

namespace sheaf {

// Who may wait at the word: threads of every process that maps it, or of this one, which costs the kernel less.
enum class FutexScope { kShared, kPrivate };

inline int futex_command(int command, FutexScope scope) {
  return scope == FutexScope::kPrivate ? command | FUTEX_PRIVATE_FLAG : command;
}

inline timespec futex_timespec(std::chrono::steady_clock::time_point t) {
  auto ns = std::max<int64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(t.time_since_epoch()).count(), 0);
  return {.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
}

inline void futex_wait(std::atomic<uint32_t>* word, uint32_t expected,
                       std::chrono::steady_clock::time_point deadline,
                       FutexScope scope = FutexScope::kShared) {
  timespec until = futex_timespec(deadline);
  syscall(SYS_futex, word, futex_command(FUTEX_WAIT_BITSET, scope), expected, &until, nullptr,
          FUTEX_BITSET_MATCH_ANY);
}

inline void futex_wake(std::atomic<uint32_t>* word, int waiters,
                       FutexScope scope = FutexScope::kShared) {
  syscall(SYS_futex, word, futex_command(FUTEX_WAKE, scope), waiters, nullptr, nullptr, 0);
}

}  // namespace sheaf
