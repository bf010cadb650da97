// Many processes at one bell, and processes that are killed at any instant.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "tests/transport/lane_fixture.h"

namespace sheaf::transport::test {
namespace {

constexpr uint32_t kClients = 64;

// Lane numbers that spread over the 64 words of a bell.
uint32_t hub_lane(uint32_t client) { return (client * 61 + 5) % kMaxLanes; }

int crowd_client(const LaneRegion& region, RegionOffset bell_block, const LaneInfo& info,
                 uint32_t self, uint64_t rounds) {
  Bell bell(region.at<BellBlock>(bell_block));
  Lane lane = open_lane(region, info);
  for (uint64_t i = 0; i < rounds; ++i) {
    std::string request = pattern(uint64_t{self} << 32 | i, (i * 7 + self) % 600);
    auto start = Clock::now();
    lane.send(static_cast<uint16_t>(self), wire::as_bytes(request));
    for (bool answered = false; !answered;) {
      bool good = true;
      bell.for_each_ready([&](uint32_t) {
        lane.flush();
        if (auto message = lane.peek()) {
          good = text(*message) == request;
          lane.pop();
          answered = true;
        }
        return lane.rx_empty();
      });
      if (!good) return 2;
      if (Clock::now() - start > seconds(1)) return 3;
      if (!answered) bell.wait(start + milliseconds(1100));
    }
  }
  return 0;
}

TEST(LaneCrowdTest, SixtyFourProcessesTalkToOneHubWithoutAStall) {
  constexpr uint64_t kRounds = 500;
  LaneRegion region = make_region(64 << 20);
  RegionOffset hub_bell = allocate(region, sizeof(BellBlock));
  std::vector<LanePair> pairs;
  std::vector<RegionOffset> bells;
  for (uint32_t c = 0; c < kClients; ++c) {
    bells.push_back(allocate(region, sizeof(BellBlock)));
    pairs.push_back(make_pair(region, hub_bell, hub_lane(c), bells[c], 0));
  }
  std::vector<pid_t> children;
  for (uint32_t c = 0; c < kClients; ++c) {
    children.push_back(
        spawn([&, c] { return crowd_client(region, bells[c], pairs[c].b, c, kRounds); }));
  }
  Bell bell(region.at<BellBlock>(hub_bell));
  std::map<uint32_t, Lane> lanes;
  for (auto& pair : pairs) lanes.emplace(pair.a.own_lane, open_lane(region, pair.a));
  uint64_t served = 0;
  auto limit = Clock::now() + seconds(60);
  while (served < kClients * kRounds && Clock::now() < limit) {
    bell.for_each_ready([&](uint32_t number) {
      Lane& lane = lanes.at(number);
      lane.flush();
      if (auto message = lane.peek()) {
        lane.send(message->type, message->payload);
        lane.pop();
        ++served;
      }
      return lane.rx_empty();
    });
    if (!bell.any_ready()) bell.wait(Clock::now() + milliseconds(200));
  }
  EXPECT_EQ(served, kClients * kRounds);
  for (pid_t child : children)
    EXPECT_EQ(finish(child), 0) << "2: wrong bytes, 3: stalled over a second";
}

// ---- Kills ------------------------------------------------------------------------------------

// Message `n` of a stream has content and size that follow from it, so the receiver knows a torn or
// lost one.
size_t stream_size(uint64_t seed, uint64_t n) {
  uint64_t x = IdHash{}(ObjectId{seed, n});
  return x % 20 == 0 ? x / 20 % (2 * kRingBytes) : x / 20 % 300;
}

// Streams to its peer and checks the peer's stream until the parent says, on lane 1, that the peer
// is dead: then takes what is left and ends. 0 = only whole messages, in order. Lane 0 is the
// peer's.
int stream_until_peer_dies(const LaneRegion& region, RegionOffset bell_block,
                           const LaneInfo& peer_info, const LaneInfo& parent_info,
                           uint64_t own_seed, uint64_t peer_seed, SpinPolicy policy) {
  Bell bell(region.at<BellBlock>(bell_block), policy);
  Lane peer = open_lane(region, peer_info);
  Lane parent = open_lane(region, parent_info);
  uint64_t sent = 0, received = 0;
  bool good = true, peer_dead = false;
  auto drain_peer = [&] {
    peer.flush();
    for (int budget = 50; budget > 0; --budget) {
      auto message = peer.peek();
      if (!message.has_value()) break;
      good &= text(*message) == pattern(peer_seed + received, stream_size(peer_seed, received));
      peer.pop();
      ++received;
    }
    return peer.rx_empty();
  };
  auto limit = Clock::now() + seconds(20);
  while (!peer_dead && good) {
    for (int burst = 0; burst < 10 && peer.overflow_bytes() < 100'000; ++burst) {
      peer.send(1, wire::as_bytes(pattern(own_seed + sent, stream_size(own_seed, sent))));
      ++sent;
    }
    bell.for_each_ready([&](uint32_t lane) {
      if (lane == 0) return drain_peer();
      while (parent.peek().has_value()) parent.pop(), peer_dead = true;
      return true;
    });
    if (Clock::now() > limit) return 4;
    bool blocked = peer.overflow_bytes() >= 100'000 && !bell.any_ready();
    if (blocked && !peer_dead) bell.wait(limit);
  }
  while (!drain_peer()) {
  }
  if (peer.corrupt()) return 5;
  return good ? 0 : 3;
}

TEST(LaneKillTest, TheSurvivorOfAKillAtAnyInstantSeesWholeMessagesOnlyAndEnds) {
  uint64_t seed = seed_or(20261121);
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int kill_number = 0; kill_number < 200; ++kill_number) {
    LaneRegion region = make_region(1 << 20);
    RegionOffset bells[2] = {allocate(region, sizeof(BellBlock)),
                             allocate(region, sizeof(BellBlock))};
    RegionOffset parent_bell = allocate(region, sizeof(BellBlock));
    LanePair peers = make_pair(region, bells[0], 0, bells[1], 0);
    LanePair to_parent[2] = {make_pair(region, bells[0], 1, parent_bell, 0),
                             make_pair(region, bells[1], 1, parent_bell, 1)};
    uint64_t seeds[2] = {random() >> 1, random() >> 1};
    SpinPolicy policy;
    if (kill_number % 2 == 0) policy = {std::chrono::nanoseconds(0), std::chrono::nanoseconds(0)};
    pid_t children[2];
    for (int c = 0; c < 2; ++c) {
      children[c] = spawn([&] {
        return stream_until_peer_dies(region, bells[c], c == 0 ? peers.a : peers.b, to_parent[c].a,
                                      seeds[c], seeds[1 - c], policy);
      });
    }
    usleep(static_cast<unsigned>(500 + random() % 4000));
    int victim = static_cast<int>(random() % 2);
    ASSERT_EQ(kill(children[victim], SIGKILL), 0);
    ASSERT_EQ(finish(children[victim]), 128 + SIGKILL);
    Lane news = open_lane(region, to_parent[1 - victim].b);
    news.send(1, wire::as_bytes("peer down"));
    ASSERT_EQ(finish(children[1 - victim], seconds(30)), 0) << "kill " << kill_number;
  }
}

}  // namespace
}  // namespace sheaf::transport::test
