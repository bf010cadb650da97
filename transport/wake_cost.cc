#include "transport/wake_cost.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "core/futex.h"

namespace sheaf::transport {

std::chrono::nanoseconds measure_wake_cost() {
  using Clock = std::chrono::steady_clock;
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
    futex_wake(&word, 1);
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
