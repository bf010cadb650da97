// What the transport tests share: a lane region with ends in it, and child processes that report by
// exit status.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <utility>

#include "transport/bell.h"
#include "transport/lane.h"
#include "transport/lane_region.h"

namespace sheaf::transport::test {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

inline LaneRegion make_region(size_t bytes = size_t{256} << 20) {
  auto region = LaneRegion::create(bytes);
  SHEAF_CHECK(region.has_value());
  return std::move(region).value();
}

inline RegionOffset allocate(LaneRegion& region, size_t size) {
  auto offset = region.allocate(size);
  SHEAF_CHECK(offset.has_value());
  return *offset;
}

// The two ends of one lane; each is `own_lane` at its own bell.
struct LanePair {
  LaneInfo a, b;
};

inline LanePair make_pair(LaneRegion& region, RegionOffset bell_a, uint32_t lane_at_a,
                          RegionOffset bell_b, uint32_t lane_at_b) {
  RegionOffset to_b = allocate(region, sizeof(RingBlock)),
               to_a = allocate(region, sizeof(RingBlock));
  LanePair pair;
  pair.a = {to_b, to_a, bell_b, lane_at_b, lane_at_a};
  pair.b = {to_a, to_b, bell_a, lane_at_a, lane_at_b};
  return pair;
}

inline Lane open_lane(const LaneRegion& region, const LaneInfo& info) {
  auto lane = Lane::open(region, info);
  SHEAF_CHECK(lane.has_value());
  return std::move(lane).value();
}

// Two ends in this process, for tests without waiting.
struct LoopBack {
  LaneRegion region = make_region();
  RegionOffset bell_a = allocate(region, sizeof(BellBlock)),
               bell_b = allocate(region, sizeof(BellBlock));
  LanePair pair = make_pair(region, bell_a, 3, bell_b, 130);
  Lane a = open_lane(region, pair.a);
  Lane b = open_lane(region, pair.b);
  BellBlock* block_a() { return region.at<BellBlock>(bell_a); }
  BellBlock* block_b() { return region.at<BellBlock>(bell_b); }
};

// Deterministic content: byte i of message `number`.
inline std::string pattern(uint64_t number, size_t size) {
  std::string out(size, '\0');
  uint64_t x = number * 0x9e3779b97f4a7c15ull + 1;
  for (size_t i = 0; i < size; ++i) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    out[i] = static_cast<char>(x);
  }
  return out;
}

inline std::string text(const Message& message) {
  return std::string(wire::as_text(message.payload));
}

// Runs `body` in a child, which dies with the test.
inline pid_t spawn(const std::function<int()>& body) {
  pid_t parent = getpid();
  pid_t child = fork();
  SHEAF_CHECK(child >= 0);
  if (child != 0) return child;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(120);
  _exit(body());
}

// Its exit status, or 128 + the signal that ended it; 255 when it had to be killed after `limit`.
inline int finish(pid_t child, milliseconds limit = seconds(60)) {
  int status = 0;
  for (auto end = Clock::now() + limit; waitpid(child, &status, WNOHANG) == 0;) {
    if (Clock::now() > end) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      return 255;
    }
    usleep(500);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The seed of a random test: SHEAF_SEED, or the one given. Printed when the test fails.
inline uint64_t seed_or(uint64_t fallback) {
  const char* text = std::getenv("SHEAF_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 0) : fallback;
}

}  // namespace sheaf::transport::test
