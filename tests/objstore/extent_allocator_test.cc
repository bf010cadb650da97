// The offset allocator against a model that marks every 64-byte unit.
#include "objstore/extent_allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "objstore/extent_table.h"

namespace sheaf::objstore::extent_allocator_test {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TEST(ExtentAllocatorTest, RandomUseAgreesWithTheModel) {
  uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 20; ++round) {
    const uint64_t capacity = (1 + random() % 64) * 64 * 1024;
    ExtentAllocator allocator(capacity);
    std::vector<bool> taken(capacity / 64);
    std::vector<std::pair<uint64_t, uint64_t>> live;
    uint64_t used = 0;
    for (int step = 0; step < 3000; ++step) {
      if (live.empty() || random() % 100 < 55) {
        uint64_t size = 1 + (random() % 4 == 0 ? random() % capacity : random() % 20000);
        uint64_t alignment = random() % 3 == 0 ? 4096 : 0;
        auto offset = allocator.allocate(size, alignment);
        uint64_t units = (size + 63) / 64;
        uint64_t stride = alignment != 0 ? alignment / 64 : (size >= kMiB ? 64 : 1);
        if (!offset) {  // then no suitable place may exist
          uint64_t run = 0, best = 0;
          for (size_t u = 0; u < taken.size() && best < units; ++u) {
            if (run == 0 && u % stride != 0) continue;
            run = taken[u] ? 0 : run + 1;
            best = std::max(best, run);
          }
          ASSERT_LT(best, units) << "refused " << size;
          continue;
        }
        ASSERT_EQ(*offset % (stride * 64), 0u);
        ASSERT_LE(*offset + units * 64, capacity);
        for (uint64_t u = *offset / 64; u < *offset / 64 + units; ++u) {
          ASSERT_FALSE(taken[u]) << "handed out twice";
          taken[u] = true;
        }
        used += units * 64;
        live.emplace_back(*offset, size);
      } else {
        std::swap(live[random() % live.size()], live.back());
        auto [offset, size] = live.back();
        live.pop_back();
        allocator.release(offset, size);
        uint64_t units = (size + 63) / 64;
        std::fill_n(taken.begin() + static_cast<ptrdiff_t>(offset / 64), units, false);
        used -= units * 64;
      }
      ASSERT_EQ(allocator.used_bytes(), used);
    }
    for (auto [offset, size] : live) allocator.release(offset, size);
    EXPECT_EQ(allocator.used_bytes(), 0u);
    EXPECT_EQ(allocator.largest_free_bytes(), capacity);  // all joined again
  }
}

TEST(ExtentAllocatorTest, FreedRangeIsUsedBeforeUntouchedMemory) {
  ExtentAllocator allocator(256 * kMiB);
  uint64_t first = *allocator.allocate(8 * kMiB);
  uint64_t wall = *allocator.allocate(kMiB);
  allocator.release(first, 8 * kMiB);
  EXPECT_EQ(*allocator.allocate(4 * kMiB), first);
  allocator.release(wall, kMiB);
  EXPECT_LT(*allocator.allocate(3 * kMiB), 8 * kMiB);
}

TEST(ExtentAllocatorTest, LargeExtentsAreAligned) {
  ExtentAllocator allocator(256 * kMiB);
  ASSERT_TRUE(allocator.allocate(64));
  EXPECT_EQ(*allocator.allocate(kMiB + 64) % 4096, 0u);
  EXPECT_EQ(*allocator.allocate(33 * kMiB) % (2 * kMiB), 0u);
  EXPECT_EQ(*allocator.allocate(64), 64u);  // the gap is not lost
  EXPECT_FALSE(allocator.allocate(256 * kMiB));
  EXPECT_FALSE(allocator.allocate(UINT64_MAX));
}

TEST(ExtentTableTest, RefusesSealsThatDoNotBelongToTheSender) {
  ExtentTable table(16 * kMiB, 3);
  Locator mine = *table.allocate(7, 1000);
  EXPECT_EQ(mine.node, 3);
  EXPECT_EQ(table.seal(8, mine).code(), StatusCode::kInvalidArgument);
  Locator stale = mine, longer = mine, elsewhere = mine;
  stale.generation += 1;
  longer.length = 5000;
  elsewhere.offset += 64;
  for (const Locator& wrong : {stale, longer, elsewhere}) {
    EXPECT_EQ(table.seal(7, wrong).code(), StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(table.seal(7, mine));
  EXPECT_EQ(table.seal(7, mine).code(), StatusCode::kAlreadyExists);
  EXPECT_FALSE(table.abort(7, mine));
  table.process_gone(7);  // sealed extents outlive their writer
  EXPECT_EQ(table.extent_count(), 1u);
  table.release(mine);
  EXPECT_EQ(table.allocator().used_bytes(), 0u);
}

TEST(ExtentTableTest, HugeRequestsDoNotOverflow) {
  ExtentTable table(16 * kMiB, 0);
  EXPECT_FALSE(table.allocate(7, UINT64_MAX));
  EXPECT_FALSE(table.allocate(7, UINT64_MAX - 63));
  EXPECT_FALSE(table.allocate(7, 16 * kMiB));
}

}  // namespace
}  // namespace sheaf::objstore::extent_allocator_test
