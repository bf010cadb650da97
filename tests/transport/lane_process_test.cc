// Lanes between real processes: content, order, speed enough to be used, and no lost wake.
#include <poll.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <vector>

#include "tests/transport/lane_fixture.h"

namespace sheaf::transport::test {
namespace {

constexpr std::chrono::nanoseconds kZero{0};
constexpr SpinPolicy kSleepAtOnce{kZero, kZero};
constexpr SpinPolicy kSpinBriefly{std::chrono::nanoseconds(200), std::chrono::nanoseconds(2000)};

// Multiplies the length of the stress tests.
uint64_t stress() {
  const char* text = std::getenv("SHEAF_STRESS");
  return text != nullptr ? std::max<uint64_t>(1, std::strtoull(text, nullptr, 10)) : 1;
}

// A number, its hash and some bytes that follow from it.
std::string numbered(uint64_t number, size_t extra) {
  std::string out(16 + extra, static_cast<char>(number));
  uint64_t hash = IdHash{}(ObjectId{number, extra});
  std::memcpy(out.data(), &number, 8);
  std::memcpy(out.data() + 8, &hash, 8);
  return out;
}

// The number, or nothing when a byte is wrong.
std::optional<uint64_t> verified(wire::Bytes bytes) {
  if (bytes.size() < 16) return std::nullopt;
  uint64_t number = 0;
  std::memcpy(&number, bytes.data(), 8);
  if (wire::as_text(bytes) != numbered(number, bytes.size() - 16)) return std::nullopt;
  return number;
}

size_t extra_of(uint64_t number) { return number % 97 == 0 ? number % 9000 : number % 50; }

// One process's side of lanes that all end at its bell.
struct End {
  End(const LaneRegion& region, RegionOffset bell_block, SpinPolicy policy)
      : bell(region.at<BellBlock>(bell_block), policy) {}
  // Next message of `lane`, waiting at most `limit` for it. Flushes what waits meanwhile.
  std::optional<Message> next(Lane& lane, milliseconds limit) {
    auto end = Clock::now() + limit;
    for (;;) {
      lane.flush();
      if (auto message = lane.peek()) return message;
      bell.for_each_ready([&](uint32_t) { return lane.flush(), lane.rx_empty(); });
      if (auto message = lane.peek()) return message;
      if (Clock::now() >= end) return std::nullopt;
      bell.wait(end);
    }
  }
  Bell bell;
};

struct TwoProcesses {
  LaneRegion region = make_region(1 << 20);
  RegionOffset bell_a = allocate(region, sizeof(BellBlock)),
               bell_b = allocate(region, sizeof(BellBlock));
  LanePair pair = make_pair(region, bell_a, 0, bell_b, 7);
};

// Sends each verified message back as it came, `count` times.
int echo(const LaneRegion& region, const LaneInfo& info, RegionOffset bell, SpinPolicy policy,
         uint64_t count) {
  End end(region, bell, policy);
  Lane lane = open_lane(region, info);
  for (uint64_t i = 0; i < count; ++i) {
    auto message = end.next(lane, seconds(20));
    if (!message.has_value()) return 2;
    if (verified(message->payload) != i) return 3;
    lane.send(2, message->payload);
    lane.pop();
  }
  while (!lane.flush()) end.bell.wait(Clock::now() + milliseconds(100));
  return 0;
}

void ping_pong(SpinPolicy policy, uint64_t count) {
  TwoProcesses two;
  pid_t child = spawn([&] { return echo(two.region, two.pair.b, two.bell_b, policy, count); });
  End end(two.region, two.bell_a, policy);
  Lane lane = open_lane(two.region, two.pair.a);
  Clock::duration worst{};
  for (uint64_t i = 0; i < count; ++i) {
    auto start = Clock::now();
    lane.send(1, wire::as_bytes(numbered(i, extra_of(i))));
    auto message = end.next(lane, seconds(20));
    ASSERT_TRUE(message.has_value()) << "no answer to " << i;
    ASSERT_EQ(verified(message->payload), i);
    lane.pop();
    worst = std::max(worst, Clock::now() - start);
  }
  EXPECT_EQ(finish(child), 0);
  EXPECT_LT(worst, seconds(10));
}

TEST(LaneProcessTest, PingPongSleepingAtOnce) { ping_pong(kSleepAtOnce, 20000 * stress()); }
TEST(LaneProcessTest, PingPongSpinningBriefly) { ping_pong(kSpinBriefly, 30000 * stress()); }
TEST(LaneProcessTest, PingPongByDefault) { ping_pong(SpinPolicy{}, 50000 * stress()); }

TEST(LaneProcessTest, AMillionMessagesPipelinedArriveInOrder) {
  constexpr uint64_t kCount = 1'000'000;
  constexpr size_t kBacklogBytes = 1 << 20;
  TwoProcesses two;
  pid_t child = spawn([&] {
    End end(two.region, two.bell_b, SpinPolicy{});
    Lane lane = open_lane(two.region, two.pair.b);
    for (uint64_t i = 0; i < kCount; ++i) {
      lane.send(1, wire::as_bytes(numbered(i, i % 40)));
      while (lane.overflow_bytes() > kBacklogBytes && !lane.flush()) {
        end.bell.for_each_ready([&](uint32_t) { return lane.flush(), true; });
        if (lane.overflow_bytes() > kBacklogBytes) end.bell.wait(Clock::now() + seconds(20));
      }
    }
    auto limit = Clock::now() + seconds(60);
    while (!lane.flush()) {
      end.bell.for_each_ready([&](uint32_t) { return lane.flush(), true; });
      if (!lane.flush()) end.bell.wait(limit);
      if (Clock::now() > limit) return 2;
    }
    return 0;
  });
  End end(two.region, two.bell_a, SpinPolicy{});
  Lane lane = open_lane(two.region, two.pair.a);
  for (uint64_t i = 0; i < kCount; ++i) {
    auto message = end.next(lane, seconds(20));
    ASSERT_TRUE(message.has_value()) << i;
    ASSERT_EQ(verified(message->payload), i);
    lane.pop();
  }
  EXPECT_EQ(finish(child), 0);
  EXPECT_TRUE(lane.rx_empty());
}

// Both sides stream at each other through full rings and overflow lists: neither may wait for the
// other for ever.
TEST(LaneProcessTest, TwoFloodsInOppositeDirectionsDoNotBlockEachOther) {
  constexpr uint64_t kCount = 60'000;
  TwoProcesses two;
  auto flood = [&](const LaneInfo& info, RegionOffset bell) {
    End end(two.region, bell, kSleepAtOnce);
    Lane lane = open_lane(two.region, info);
    for (uint64_t i = 0; i < kCount; ++i) lane.send(1, wire::as_bytes(numbered(i, extra_of(i))));
    for (uint64_t i = 0; i < kCount; ++i) {
      auto message = end.next(lane, seconds(20));
      if (!message.has_value()) return 2;
      if (verified(message->payload) != i) return 3;
      lane.pop();
    }
    auto limit = Clock::now() + seconds(20);
    while (!lane.flush()) {
      if (Clock::now() > limit) return 4;
      end.bell.for_each_ready([&](uint32_t) { return true; });
      if (!lane.flush()) end.bell.wait(limit);
    }
    return 0;
  };
  pid_t child = spawn([&] { return flood(two.pair.b, two.bell_b); });
  EXPECT_EQ(flood(two.pair.a, two.bell_a), 0);
  EXPECT_EQ(finish(child), 0);
}

// The two races that fences decide, as often as possible: each side looks only where the protocol
// says, and never again of its own accord, so one lost look is a stall.
constexpr auto kStall = seconds(10);

// What both processes of such a race run for, whatever else the machine does.
Clock::time_point race_end() { return Clock::now() + milliseconds(1200) * stress(); }

TEST(LostWakeTest, ARecordWhoseSenderFoundTheBitSetIsAlwaysFound) {
  TwoProcesses two;
  auto* taken = two.region.at<std::atomic<uint64_t>>(allocate(two.region, sizeof(uint64_t)));
  pid_t child = spawn([&] {
    Bell bell(two.region.at<BellBlock>(two.bell_b), kSleepAtOnce);
    Lane lane = open_lane(two.region, two.pair.b);
    std::minstd_rand random(static_cast<uint32_t>(seed_or(3)));
    for (uint64_t received = 0;;) {
      bell.for_each_ready([&](uint32_t) {
        if (!lane.peek().has_value()) return true;
        lane.pop();
        bool empty = lane.rx_empty();
        taken->store(++received, std::memory_order_release);
        // The next record shall come at about the moment when the bit is cleared.
        for (volatile uint32_t delay = random() % 512; delay > 0;) delay = delay - 1;
        return empty;
      });
      if (!bell.any_ready()) bell.spin(std::chrono::microseconds(5));
      if (!bell.any_ready()) sched_yield();
    }
    return 0;
  });
  Lane lane = open_lane(two.region, two.pair.a);
  uint64_t sent = 0;
  for (auto end = race_end(); Clock::now() < end;) {
    lane.send(1, {});
    ++sent;
    auto start = Clock::now();
    for (uint64_t spins = 1; taken->load(std::memory_order_acquire) != sent; ++spins) {
      if (spins % 256 != 0) continue;
      sched_yield();
      ASSERT_LT(Clock::now() - start, kStall) << "record " << sent << " was overlooked";
    }
  }
  kill(child, SIGKILL);
  EXPECT_EQ(finish(child), 128 + SIGKILL);
  EXPECT_GT(sent, 10u);
}

TEST(LostWakeTest, ASenderThatAskedForSpaceIsAlwaysRung) {
  TwoProcesses two;
  pid_t child = spawn([&] {
    Bell bell(two.region.at<BellBlock>(two.bell_b), SpinPolicy{});
    Lane lane = open_lane(two.region, two.pair.b);
    for (;;) {
      while (lane.peek().has_value()) lane.pop();
      bell.for_each_ready([&](uint32_t) { return lane.rx_empty(); });
      if (lane.rx_empty()) bell.wait(Clock::now() + seconds(20));
    }
    return 0;
  });
  Bell bell(two.region.at<BellBlock>(two.bell_a), SpinPolicy{});
  Lane lane = open_lane(two.region, two.pair.a);
  std::string payload = pattern(1, 3000);
  uint64_t asked = 0;
  for (auto end = race_end(); Clock::now() < end;) {
    lane.send(1, wire::as_bytes(payload));
    for (; lane.overflow_bytes() > 0; ++asked) {
      auto start = Clock::now();
      while (!bell.wait(start + kStall)) {
        ASSERT_LT(Clock::now() - start, kStall) << "not rung, request " << asked;
      }
      bell.for_each_ready([&](uint32_t) { return lane.flush(), true; });
    }
  }
  kill(child, SIGKILL);
  EXPECT_EQ(finish(child), 128 + SIGKILL);
  EXPECT_GT(asked, 10u);
}

// One driver and two workers in turn: three processes on two cores, with waits of every kind.
void round_robin(SpinPolicy policy, uint64_t count) {
  LaneRegion region = make_region(1 << 20);
  RegionOffset bells[3];
  for (auto& bell : bells) bell = allocate(region, sizeof(BellBlock));
  std::vector<LanePair> pairs;
  std::vector<pid_t> children;
  for (uint32_t w = 0; w < 2; ++w) {
    pairs.push_back(make_pair(region, bells[0], w * 100, bells[w + 1], 0));
    children.push_back(
        spawn([&, w] { return echo(region, pairs[w].b, bells[w + 1], policy, count / 2); }));
  }
  End end(region, bells[0], policy);
  std::vector<Lane> lanes;
  for (auto& pair : pairs) lanes.push_back(open_lane(region, pair.a));
  Clock::duration worst{};
  for (uint64_t i = 0; i < count; ++i) {
    Lane& lane = lanes[i % 2];
    auto start = Clock::now();
    lane.send(1, wire::as_bytes(numbered(i / 2, i % 30)));
    auto message = end.next(lane, seconds(20));
    ASSERT_TRUE(message.has_value()) << "a wake was lost at " << i;
    ASSERT_EQ(verified(message->payload), i / 2);
    lane.pop();
    worst = std::max(worst, Clock::now() - start);
  }
  for (pid_t child : children) EXPECT_EQ(finish(child), 0);
  EXPECT_LT(worst, seconds(10));
}

TEST(LostWakeTest, ThreeProcessesSleepingAtOnce) { round_robin(kSleepAtOnce, 30000 * stress()); }
TEST(LostWakeTest, ThreeProcessesSpinningBriefly) { round_robin(kSpinBriefly, 40000 * stress()); }
TEST(LostWakeTest, ThreeProcessesByDefault) { round_robin(SpinPolicy{}, 50000 * stress()); }

TEST(LostWakeTest, AnEventLoopThatPollsMissesNothing) {
  constexpr uint64_t kCount = 20000;
  TwoProcesses two;
  pid_t child =
      spawn([&] { return echo(two.region, two.pair.b, two.bell_b, kSleepAtOnce, kCount); });
  std::string path = "/tmp/sheaf-poll-" + std::to_string(getpid());
  Bell bell(two.region.at<BellBlock>(two.bell_a), kSleepAtOnce);
  auto fd = bell.open_poll_fd(path);
  ASSERT_TRUE(fd.has_value());
  Lane lane = open_lane(two.region, two.pair.a);
  uint64_t sent = 0, received = 0, slept = 0;
  while (received < kCount) {
    if (sent == received) lane.send(1, wire::as_bytes(numbered(sent, extra_of(sent)))), ++sent;
    if (bell.arm_poll()) {
      pollfd p{*fd, POLLIN, 0};
      ASSERT_EQ(poll(&p, 1, 20000), 1) << "a wake was lost at " << received;
      bell.disarm_poll();
      ++slept;
    }
    bool good = true;
    bell.for_each_ready([&](uint32_t) {
      lane.flush();
      while (auto message = lane.peek()) {
        good &= verified(message->payload) == received;
        lane.pop();
        ++received;
      }
      return lane.rx_empty();
    });
    ASSERT_TRUE(good);
  }
  EXPECT_EQ(finish(child), 0);
  EXPECT_GT(slept, 10u);
}

}  // namespace
}  // namespace sheaf::transport::test
