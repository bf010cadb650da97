#include "transport/lane.h"

#include <cstring>
#include <random>

#include "tests/transport/lane_fixture.h"

namespace sheaf::transport::test {
namespace {

// Takes the oldest message out of the lane; fails the test when there is none.
std::string take(Lane& lane, uint16_t type) {
  auto message = lane.peek();
  if (!message.has_value()) {
    ADD_FAILURE() << "no message";
    return {};
  }
  EXPECT_EQ(message->type, type);
  std::string out = text(*message);
  lane.pop();
  return out;
}

TEST(LaneTest, DeliversHeadAndBodyAsOneMessageInBothDirections) {
  LoopBack loop;
  EXPECT_TRUE(loop.b.rx_empty());
  loop.a.send(7, wire::as_bytes("head "), wire::as_bytes("body"), 0x81);
  EXPECT_FALSE(loop.b.rx_empty());
  auto message = loop.b.peek();
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->type, 7);
  EXPECT_EQ(message->flags, 0x81);
  EXPECT_EQ(text(*message), "head body");
  EXPECT_EQ(text(*loop.b.peek()), "head body");  // still there until pop()
  loop.b.pop();
  EXPECT_FALSE(loop.b.peek().has_value());
  EXPECT_TRUE(loop.b.rx_empty());
  loop.b.send(9, wire::as_bytes("back"));
  EXPECT_EQ(take(loop.a, 9), "back");
}

TEST(LaneTest, EverySizeUpToThreeRingsArrivesWhole) {
  LoopBack loop;
  auto check = [&](size_t size) {
    std::string sent = pattern(size, size);
    size_t cut = size / 3;
    auto bytes = wire::as_bytes(sent);
    loop.a.send(1, bytes.first(cut), bytes.subspan(cut));
    std::optional<Message> message;
    while (!(message = loop.b.peek()).has_value()) {
      ASSERT_GT(loop.a.overflow_bytes(), 0u) << size;
      loop.a.flush();
    }
    ASSERT_EQ(text(*message), sent) << size;
    loop.b.pop();
    ASSERT_TRUE(loop.b.rx_empty());
    ASSERT_EQ(loop.a.overflow_bytes(), 0u);
  };
  for (size_t size = 0; size < kFragmentBytes + 64; ++size) check(size);
  for (size_t size = kFragmentBytes; size < 3 * kRingBytes + 16; size += 61) check(size);
  for (size_t n = 1; n <= 12; ++n) {
    for (size_t d = 0; d <= 16; ++d) check(n * kFragmentBytes + d - 8);
  }
  for (size_t size : {size_t{1} << 20, (size_t{5} << 20) + 1}) check(size);
}

TEST(LaneTest, OverflowKeepsTheOrderOfMixedSizes) {
  uint64_t seed = seed_or(11);
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  LoopBack loop;
  uint64_t sent = 0, received = 0;
  std::vector<size_t> sizes;
  while (received < 20000) {
    for (size_t n = random() % 40; n > 0 && sent < 20000; --n) {
      size_t size = random() % 50 == 0 ? random() % (3 * kRingBytes) : random() % 200;
      sizes.push_back(size);
      loop.a.send(static_cast<uint16_t>(sent % 1000), wire::as_bytes(pattern(sent, size)));
      ++sent;
    }
    for (size_t n = random() % 60; n > 0; --n) {
      auto message = loop.b.peek();
      if (!message.has_value()) break;
      ASSERT_EQ(message->type, received % 1000);
      ASSERT_EQ(text(*message), pattern(received, sizes[received]));
      loop.b.pop();
      ++received;
    }
    if (random() % 3 == 0) loop.a.flush();
  }
  EXPECT_TRUE(loop.a.flush());
  EXPECT_EQ(loop.a.overflow_bytes(), 0u);
  EXPECT_TRUE(loop.b.rx_empty());
}

TEST(LaneTest, AFullRingAsksForSpaceAndIsRungWhenThereIsSome) {
  LoopBack loop;
  Bell bell_a(loop.block_a(), {});
  while (loop.a.overflow_bytes() == 0) loop.a.send(1, wire::as_bytes(pattern(1, 100)));
  EXPECT_FALSE(loop.a.flush());
  EXPECT_FALSE(bell_a.any_ready());
  int rung = 0;
  while (loop.b.peek().has_value()) loop.b.pop();
  EXPECT_TRUE(bell_a.any_ready());
  bell_a.for_each_ready([&](uint32_t lane) {
    EXPECT_EQ(lane, 3u);
    ++rung;
    EXPECT_TRUE(loop.a.flush());
    return loop.a.rx_empty();
  });
  EXPECT_EQ(rung, 2);  // once more after the bit was cleared
  EXPECT_FALSE(bell_a.any_ready());
}

TEST(LaneTest, MovingALaneKeepsItsState) {
  LoopBack loop;
  loop.a.send(1, wire::as_bytes("one"));
  Lane moved = std::move(loop.a);
  moved.send(1, wire::as_bytes("two"));
  EXPECT_EQ(take(loop.b, 1), "one");
  EXPECT_EQ(take(loop.b, 1), "two");
}

TEST(LaneTest, OffsetsOutsideTheRegionAreRefused) {
  LoopBack loop;
  auto refuse = [&](auto change) {
    LaneInfo info = loop.pair.a;
    change(info);
    EXPECT_EQ(Lane::open(loop.region, info).status().code(), StatusCode::kInvalidArgument);
  };
  refuse([](LaneInfo& i) { i.tx_ring = 0; });
  refuse([](LaneInfo& i) { i.rx_ring = UINT64_MAX - 63; });
  refuse([](LaneInfo& i) { i.rx_ring += 8; });
  refuse([&](LaneInfo& i) { i.peer_bell = loop.region.capacity_bytes() - 64; });
  refuse([](LaneInfo& i) { i.peer_lane = kMaxLanes; });
}

TEST(LaneTest, AHalfMessageOfADeadSenderIsNeverDelivered) {
  LoopBack loop;
  loop.a.send(1, wire::as_bytes("whole"));
  loop.a.send(2, wire::as_bytes(pattern(1, 10 * kRingBytes)));
  EXPECT_EQ(take(loop.b, 1), "whole");
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(loop.b.peek().has_value());
  EXPECT_TRUE(loop.b.rx_empty());
  EXPECT_FALSE(loop.b.corrupt());
}

// Reads whatever a hostile or broken peer left in the ring; only a bounded number of messages may
// come out of it.
void read_all(Lane& lane, int* messages = nullptr) {
  size_t bytes = 0;
  for (int i = 0; i < 10000; ++i) {
    auto message = lane.peek();
    if (!message.has_value()) return;
    for (std::byte b : message->payload) bytes += static_cast<size_t>(b);
    ASSERT_LE(message->payload.size(), 2 * kRingBytes);
    lane.pop();
    if (messages != nullptr) ++*messages;
  }
  FAIL() << "an endless ring";
}

TEST(LaneTest, RandomRingContentsNeverCrashTheReader) {
  uint64_t seed = seed_or(1234);
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  LaneRegion region = make_region(1 << 20);
  RegionOffset bells[2] = {allocate(region, sizeof(BellBlock)),
                           allocate(region, sizeof(BellBlock))};
  LanePair pair = make_pair(region, bells[0], 0, bells[1], 0);
  int corrupt = 0, messages = 0;
  for (int round = 0; round < 3000; ++round) {
    auto* ring = region.at<RingBlock>(pair.b.rx_ring);
    uint64_t start = random() % (1 << 20) * 8;
    ring->tail = start;
    ring->head = start;
    Lane reader = open_lane(region, pair.b);
    for (size_t i = 0; i < kRingBytes; i += 8) {
      uint64_t word = random();
      // Mostly plausible headers, so that the checks behind the first are reached too.
      if (random() % 4 != 0) word &= 0x80018003'00000fffull;
      if (random() % 64 == 0) word |= uint64_t{kFillerType} << 32;
      std::memcpy(ring->data + i, &word, 8);
    }
    ring->head = random() % 4 == 0 ? random() : start + random() % (kRingBytes / 8 + 2) * 8;
    read_all(reader, &messages);
    if (testing::Test::HasFatalFailure()) return;
    if (reader.corrupt()) {
      ++corrupt;
      EXPECT_TRUE(reader.rx_empty());
      EXPECT_FALSE(reader.peek().has_value());
    }
  }
  EXPECT_GT(corrupt, 1000);
  EXPECT_GT(messages, 300);
}

TEST(LaneTest, AFlippedBitIsDeliveredReportedOrHarmlessButNeverReadOutside) {
  uint64_t seed = seed_or(99);
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; ++round) {
    LoopBack loop;
    for (int i = 0; i < 20; ++i) loop.a.send(1, wire::as_bytes(pattern(1, random() % 700)));
    auto* ring = loop.region.at<RingBlock>(loop.pair.b.rx_ring);
    auto* bytes = reinterpret_cast<unsigned char*>(ring) +
                  (random() % 4 == 0 ? 0 : sizeof(RingBlock) - kRingBytes);
    bytes[random() % (round % 2 == 0 ? 8 : 8000)] ^= static_cast<unsigned char>(1 << random() % 8);
    read_all(loop.b);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(LaneTest, RecordsThatNoSenderMakesAreCorrupt) {
  auto refused = [](RecordHeader header, uint64_t head) {
    LoopBack loop;
    auto* ring = loop.region.at<RingBlock>(loop.pair.b.rx_ring);
    std::memcpy(ring->data, &header, sizeof header);
    ring->head = head;
    EXPECT_FALSE(loop.b.peek().has_value());
    return loop.b.corrupt();
  };
  EXPECT_TRUE(refused({kFragmentBytes + 1, 1, 0}, kRingBytes));  // longer than a fragment
  EXPECT_TRUE(refused({16, 1, 0}, 16));                          // longer than what was published
  EXPECT_TRUE(refused({UINT32_MAX, 1, 0}, kRingBytes));
  EXPECT_TRUE(refused({8, kFillerType, 0}, kRingBytes));  // a filler that ends in the middle
  EXPECT_TRUE(refused({8, 1, 0}, kRingBytes + 8));        // more than a ring
  EXPECT_TRUE(refused({8, 1, 0}, 12));                    // not a multiple of 8
}

TEST(LaneTest, AnImpossibleTailStopsTheSender) {
  LoopBack loop;
  auto* ring = loop.region.at<RingBlock>(loop.pair.a.tx_ring);
  ring->tail = 1 << 20;
  for (int i = 0; i < 1000; ++i) loop.a.send(1, wire::as_bytes(pattern(1, 100)));
  EXPECT_TRUE(loop.a.corrupt());
  EXPECT_TRUE(loop.a.flush());
  EXPECT_EQ(loop.a.overflow_bytes(), 0u);
}

}  // namespace
}  // namespace sheaf::transport::test
