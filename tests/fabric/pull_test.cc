// Pulls: sizes, bounds, generations, cancel, deadlines, priorities, regions.
#include <random>

#include "tests/fabric/fabric_fixture.h"

namespace sheaf::transport::test {
namespace {

class FabricPullTest : public FabricTest {};
INSTANTIATE_TEST_SUITE_P(Backends, FabricPullTest, testing::ValuesIn(all_backends()),
                         [](const auto& one) { return one.param.name; });

TEST_P(FabricPullTest, SizeEdgesAtAnyOffset) {
  auto a = node(1), b = node(2);
  b->export_bytes((size_t{24} << 20) + 5);
  join(*a, *b);
  const std::vector<uint64_t> sizes = {0,          1,          63,         4096,       16359,
                                       16360,      16361,      262143,     262144,     262145,
                                       (1 << 20) - 1, 1 << 20,   (8 << 20) - 1,
                                       8 << 20,    (8 << 20) + 1, 24 << 20};
  for (uint64_t size : sizes) {
    for (uint64_t offset : {0, 1, 5}) {
      auto run = pull(*a, {2, 1}, offset, size);
      ASSERT_TRUE(run_until([&] { return run->ended(); })) << size;
      EXPECT_EQ(run->end(), StatusCode::kOk) << size;
      EXPECT_TRUE(has_pattern(run->into, offset)) << size << " at " << offset;
    }
  }
  EXPECT_TRUE(run_until([&] { return b->fabric->stats().ranges_held == 0; }));
  EXPECT_EQ(b->guard.acquired, sizes.size() * 3);
}

TEST_P(FabricPullTest, AGigabyteArrivesWhole) {
  auto a = node(1), b = node(2);
  b->export_bytes(size_t{1} << 30);
  join(*a, *b);
  auto run = pull(*a, {2, 1}, 0, size_t{1} << 30);
  ASSERT_TRUE(run_until([&] { return run->ended(); }, seconds(60)));
  EXPECT_EQ(run->end(), StatusCode::kOk);
  EXPECT_TRUE(has_pattern(run->into, 0));
}

TEST_P(FabricPullTest, WhatMayNotBeReadIsRefusedWithItsReason) {
  auto a = node(1), b = node(2);
  b->export_bytes(1000);
  join(*a, *b);
  auto end_of = [&](uint64_t offset, uint64_t length, uint32_t generation, uint32_t region) {
    auto run = pull(*a, {2, 1}, offset, length, {}, generation, region);
    EXPECT_TRUE(run_until([&] { return run->ended(); }));
    return run->end();
  };
  EXPECT_EQ(end_of(0, 1001, kGeneration, kRegion), StatusCode::kInvalidArgument);
  EXPECT_EQ(end_of(1000, 1, kGeneration, kRegion), StatusCode::kInvalidArgument);
  EXPECT_EQ(end_of(UINT64_MAX - 4, 3, kGeneration, kRegion), StatusCode::kInvalidArgument);
  EXPECT_EQ(end_of(UINT64_MAX, 3, kGeneration, kRegion), StatusCode::kInvalidArgument);
  EXPECT_EQ(end_of(0, 10, kGeneration + 1, kRegion), StatusCode::kCorrupt);
  EXPECT_EQ(end_of(0, 10, kGeneration, kRegion + 1), StatusCode::kNotFound);
  EXPECT_EQ(end_of(0, 0, kGeneration + 1, kRegion), StatusCode::kCorrupt);
  EXPECT_EQ(end_of(990, 10, kGeneration, kRegion), StatusCode::kOk);
  EXPECT_EQ(b->guard.acquired, 1u);
  EXPECT_EQ(pull(*a, {9, 1}, 0, 1)->end(), StatusCode::kDisconnected);
}

TEST_P(FabricPullTest, ThousandsOfPullsEndOnceEach) {
  uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  auto a = node(1), b = node(2);
  a->export_bytes(size_t{4} << 20);
  b->export_bytes(size_t{4} << 20);
  join(*a, *b);
  struct One {
    std::unique_ptr<PullRun> run;
    uint64_t offset;
    Node* reader;
    bool cancelled;
  };
  std::vector<One> all;
  for (int i = 0; i < 3000; ++i) {
    uint64_t length = random() % (random() % 20 == 0 ? 1'000'000 : 5'000);
    uint64_t offset = random() % ((4 << 20) - length);
    Node* reader = random() % 2 ? a.get() : b.get();
    PullOptions with{static_cast<PullPriority>(random() % 4)};
    PeerId from = reader == a.get() ? PeerId{2, 1} : PeerId{1, 1};
    all.push_back({pull(*reader, from, offset, length, with), offset, reader, random() % 8 == 0});
    if (random() % 4 == 0) loop->run_once(milliseconds(0));
    if (all.back().cancelled) reader->fabric->cancel(all.back().run->id);
  }
  ASSERT_TRUE(run_until([&] {
    return std::all_of(all.begin(), all.end(), [](const One& one) { return one.run->ended(); });
  }));
  run_for(milliseconds(20));
  for (const One& one : all) {
    ASSERT_EQ(one.run->ends.size(), 1u);
    if (one.run->end() == StatusCode::kOk) {
      EXPECT_TRUE(has_pattern(one.run->into, one.offset));
    } else {
      EXPECT_TRUE(one.cancelled && one.run->end() == StatusCode::kCancelled);
    }
  }
  EXPECT_TRUE(run_until([&] {
    return a->fabric->stats().ranges_held == 0 && b->fabric->stats().ranges_held == 0;
  }));
}

TEST_P(FabricPullTest, NothingIsWrittenAfterACancelledPullHasEnded) {
  auto a = node(1), b = node(2);
  b->export_bytes(size_t{64} << 20);
  join(*a, *b);
  for (int delay_ms : {0, 1, 5, 20}) {
    auto run = pull(*a, {2, 1}, 0, b->memory.size());
    run_for(milliseconds(delay_ms));
    a->fabric->cancel(run->id);
    a->fabric->cancel(run->id);
    ASSERT_TRUE(run_until([&] { return run->ended(); }));
    if (run->end() == StatusCode::kOk) continue;
    EXPECT_EQ(run->end(), StatusCode::kCancelled);
    std::fill(run->into.begin(), run->into.end(), std::byte{0xee});
    run_for(milliseconds(30));
    EXPECT_TRUE(std::all_of(run->into.begin(), run->into.end(),
                            [](std::byte x) { return x == std::byte{0xee}; }));
  }
  auto again = pull(*a, {2, 1}, 3, 1 << 20);  // the wire is in order
  ASSERT_TRUE(run_until([&] { return again->ended(); }));
  EXPECT_TRUE(again->end() == StatusCode::kOk && has_pattern(again->into, 3));
  EXPECT_TRUE(run_until([&] { return b->fabric->stats().ranges_held == 0; }));
}

TEST_P(FabricPullTest, ADeadlineEndsAPull) {
  auto a = node(1), b = node(2);
  b->export_bytes(size_t{256} << 20);
  join(*a, *b);
  auto past = pull(*a, {2, 1}, 0, 1 << 20,
                   {PullPriority::kTaskArgument, Clock::now() - seconds(1)});
  auto soon = pull(*a, {2, 1}, 0, b->memory.size(),
                   {PullPriority::kTaskArgument, Clock::now() + milliseconds(30)});
  auto start = Clock::now();
  ASSERT_TRUE(run_until([&] { return past->ended() && soon->ended(); }));
  EXPECT_LT(Clock::now() - start, seconds(8));
  EXPECT_EQ(past->end(), StatusCode::kTimeout);
  EXPECT_EQ(soon->end(), StatusCode::kTimeout);
}

TEST_P(FabricPullTest, AnUrgentPullOvertakes) {
  auto a = node(1), b = node(2);
  b->export_bytes(size_t{96} << 20);
  join(*a, *b);
  std::vector<std::unique_ptr<PullRun>> bulk;
  for (int i = 0; i < 4; ++i) {
    bulk.push_back(pull(*a, {2, 1}, 0, b->memory.size(), {PullPriority::kReplicate}));
  }
  run_until([&] { return a->fabric->stats().pull_bytes_received > (16 << 20); });
  auto urgent = pull(*a, {2, 1}, 64, 1 << 20, {PullPriority::kTaskArgument});
  uint64_t before = a->fabric->stats().pull_bytes_received;
  ASSERT_TRUE(run_until([&] { return urgent->ended(); }));
  uint64_t meanwhile = a->fabric->stats().pull_bytes_received - before;
  EXPECT_FALSE(bulk[3]->ended());
  // What the window had granted before, and what was decrypted between two rounds of this loop.
  EXPECT_LT(meanwhile, uint64_t{64} << 20);
  for (auto& run : bulk) a->fabric->cancel(run->id);
  EXPECT_TRUE(run_until([&] {
    return std::all_of(bulk.begin(), bulk.end(), [](auto& run) { return run->ended(); });
  }));
}

TEST_P(FabricPullTest, AWithdrawnRegionIsFreeOnceItsPullsHaveEnded) {
  auto a = node(1), b = node(2);
  b->export_bytes(size_t{64} << 20);
  join(*a, *b);
  auto run = pull(*a, {2, 1}, 0, b->memory.size());
  ASSERT_TRUE(run_until([&] { return b->fabric->stats().ranges_held == 1; }));
  bool free = false;
  b->fabric->withdraw_region(kRegion, [&] {
    free = true;
    EXPECT_EQ(b->guard.released, b->guard.acquired);
  });
  EXPECT_FALSE(free);
  auto late = pull(*a, {2, 1}, 0, 10);
  ASSERT_TRUE(run_until([&] { return free && run->ended() && late->ended(); }));
  EXPECT_EQ(run->end(), StatusCode::kOk);
  EXPECT_EQ(late->end(), StatusCode::kNotFound);
  EXPECT_TRUE(b->fabric->export_region(kRegion, b->memory, &b->guard).is_ok());
  EXPECT_EQ(b->fabric->export_region(kRegion, b->memory, &b->guard).code(),
            StatusCode::kAlreadyExists);
}

TEST_P(FabricPullTest, BothSidesPullAtOnceAtFullSize) {
  auto a = node(1), b = node(2);
  a->export_bytes(size_t{64} << 20);
  b->export_bytes(size_t{64} << 20);
  join(*a, *b);
  auto one = pull(*a, {2, 1}, 0, size_t{64} << 20);
  auto two = pull(*b, {1, 1}, 0, size_t{64} << 20);
  ASSERT_TRUE(run_until([&] { return one->ended() && two->ended(); }));
  EXPECT_TRUE(one->end() == StatusCode::kOk && has_pattern(one->into, 0));
  EXPECT_TRUE(two->end() == StatusCode::kOk && has_pattern(two->into, 0));
}

}  // namespace
}  // namespace sheaf::transport::test
