#include "transport/wake_cost.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <thread>
#include <vector>

namespace sheaf::transport {
namespace {

using Clock = std::chrono::steady_clock;

void futex_wait(std::atomic<uint32_t>* word, uint32_t expected, Clock::time_point deadline) {
  std::chrono::nanoseconds since_boot = deadline.time_since_epoch();
  int64_t ns = since_boot.count();
  timespec until{.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
  syscall(SYS_futex, word, FUTEX_WAIT_BITSET, expected, &until, nullptr, FUTEX_BITSET_MATCH_ANY);
}

void futex_wake(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

}  // namespace

std::chrono::nanoseconds measure_wake_cost() {
  constexpr int kRounds = 12;
  constexpr std::chrono::nanoseconds kMin{5000}, kMax{25000};
  std::atomic<uint32_t> ping{0}, pong{0};
  auto give_up = Clock::now() + std::chrono::milliseconds(20);
  auto await = [&](std::atomic<uint32_t>& word, uint32_t value) {
    for (uint32_t seen; (seen = word.load()) < value;) {
      if (Clock::now() >= give_up) return false;
      futex_wait(&word, seen, give_up);
    }
    return true;
  };
  auto tell = [](std::atomic<uint32_t>& word, uint32_t value) {
    word.store(value);
    futex_wake(&word);
  };
  std::thread echo([&] {
    for (uint32_t i = 1; i <= kRounds && await(ping, i); ++i) tell(pong, i);
  });
  // Not the minimum: the two threads share a core in some rounds, where a wake costs a fifth.
  std::vector<std::chrono::nanoseconds> rounds;
  for (uint32_t i = 1; i <= kRounds; ++i) {
    auto start = Clock::now();
    tell(ping, i);
    if (!await(pong, i)) break;
    rounds.push_back(Clock::now() - start);
  }
  echo.join();
  if (rounds.size() < kRounds) return kMax;
  std::nth_element(rounds.begin(), rounds.begin() + kRounds / 2, rounds.end());
  return std::clamp(rounds[kRounds / 2] / 2, kMin, kMax);
}

// In the region's first page, which is never given out (offset 0 means none).
std::chrono::nanoseconds shared_wake_cost(const LaneRegion& region) {
  auto* kept = region.at<std::atomic<uint32_t>>(0);
  if (uint32_t ns = kept->load(std::memory_order_relaxed)) return std::chrono::nanoseconds(ns);
  auto measured = measure_wake_cost();
  kept->store(static_cast<uint32_t>(measured.count()), std::memory_order_relaxed);
  return measured;
}

}  // namespace sheaf::transport
