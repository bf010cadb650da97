#include "core/env.h"

#include <gtest/gtest.h>

#include <set>

#include "core/event_loop.h"
#include "core/sim_env.h"

namespace sheaf {
namespace {

using namespace std::chrono_literals;

TEST(SimEnvTest, TimersFireAtTheirOwnTimeInOrder) {
  SimEnv env(1);
  std::vector<std::pair<int, int64_t>> fired;
  auto start = env.now();
  auto note = [&](int id) { fired.emplace_back(id, (env.now() - start) / 1ms); };
  env.call_after(20ms, [&] { note(3); });
  env.call_after(10ms, [&] {
    note(1);
    env.call_after(5ms, [&] { note(2); });
  });
  auto cancelled = env.call_after(12ms, [&] { note(9); });
  EXPECT_TRUE(env.cancel_timer(cancelled));
  EXPECT_FALSE(env.cancel_timer(cancelled));
  env.advance(30ms);
  EXPECT_EQ(fired, (std::vector<std::pair<int, int64_t>>{{1, 10}, {2, 15}, {3, 20}}));
  EXPECT_EQ(env.now() - start, 30ms);
  EXPECT_FALSE(env.has_timers());
}

TEST(SimEnvTest, EqualSeedsGiveEqualWorlds) {
  SimEnv a(7), b(7), c(8);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.random(), b.random());
  EXPECT_NE(a.random(), c.random());
  EXPECT_EQ(a.wall_ns(), b.wall_ns());
}

TEST(RealEnvTest, SecretsDifferAndTimeMovesForward) {
  RealEnv env(nullptr);
  std::array<std::byte, 32> a{}, b{};
  env.fill_secret(a);
  env.fill_secret(b);
  EXPECT_NE(a, b);
  auto before = env.now();
  EXPECT_LE(before, env.now());
  std::set<uint64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(env.random());
  EXPECT_EQ(seen.size(), 1000u);
}

TEST(RealEnvTest, TimersComeFromTheLoop) {
  auto loop = std::move(EventLoop::create()).value();
  RealEnv env(loop.get());
  bool fired = false;
  auto never = env.call_after(1ms, [&] { FAIL(); });
  EXPECT_TRUE(env.cancel_timer(never));
  env.call_after(2ms, [&] {
    fired = true;
    loop->stop();
  });
  loop->run();
  EXPECT_TRUE(fired);
}

}  // namespace
}  // namespace sheaf
