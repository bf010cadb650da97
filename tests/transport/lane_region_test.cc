#include "transport/lane_region.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstring>
#include <random>

#include "tests/transport/lane_fixture.h"

namespace sheaf::transport::test {
namespace {

TEST(LaneRegionTest, BlocksAreSeenByWhoMapsTheDescriptor) {
  LaneRegion region = make_region(1 << 20);
  RegionOffset offset = allocate(region, 100);
  auto other = LaneRegion::map(dup(region.fd()));
  ASSERT_TRUE(other.has_value());
  std::strcpy(region.at<char>(offset), "hello");
  EXPECT_STREQ(other->at<char>(offset), "hello");
  EXPECT_EQ(other->capacity_bytes(), region.capacity_bytes());
}

TEST(LaneRegionTest, AReleasedBlockReadsAsZeroAndIsGivenOutAgain) {
  LaneRegion region = make_region(8 * 4096);
  RegionOffset block = allocate(region, 7 * 4096);
  EXPECT_EQ(region.allocate(1).status().code(), StatusCode::kOutOfMemory);
  std::memset(region.at<char>(block), 0xab, 7 * 4096);
  region.release(block, 7 * 4096);
  EXPECT_EQ(allocate(region, 7 * 4096), block);
  for (size_t i = 0; i < 7 * 4096; ++i) ASSERT_EQ(region.at<char>(block)[i], 0);
}

TEST(LaneRegionTest, RandomAllocationNeverOverlapsAndCoalescesInTheEnd) {
  uint64_t seed = seed_or(7);
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  LaneRegion region = make_region(257 * 4096);
  std::map<RegionOffset, size_t> held;
  for (int step = 0; step < 5000; ++step) {
    size_t size = 1 + random() % 30000;
    auto got = region.allocate(size);
    if (got.has_value() && random() % 8 != 0) {
      ASSERT_TRUE(region.contains(*got, size));
      auto next = held.lower_bound(*got);
      ASSERT_TRUE(next == held.end() || *got + size <= next->first);
      ASSERT_TRUE(next == held.begin() || std::prev(next)->first + std::prev(next)->second <= *got);
      held.emplace(*got, size);
    } else {
      if (got.has_value()) region.release(*got, size);
      if (held.empty()) continue;
      auto victim = std::next(held.begin(), static_cast<long>(random() % held.size()));
      region.release(victim->first, victim->second);
      held.erase(victim);
    }
  }
  for (auto [offset, size] : held) region.release(offset, size);
  EXPECT_TRUE(region.allocate(256 * 4096).has_value());
}

TEST(LaneRegionTest, ContainsRejectsWhatLeavesTheRegion) {
  LaneRegion region = make_region(1 << 20);
  EXPECT_TRUE(region.contains(4096, 64));
  EXPECT_TRUE(region.contains((1 << 20) - 64, 64));
  EXPECT_FALSE(region.contains(0, 64));
  EXPECT_FALSE(region.contains((1 << 20) - 64, 65));
  EXPECT_FALSE(region.contains(UINT64_MAX - 7, 64));
  EXPECT_FALSE(region.contains(4096, SIZE_MAX));
}

TEST(LaneRegionTest, NobodyCanShrinkTheFileUnderTheOthers) {
  LaneRegion region = make_region(1 << 20);
  EXPECT_NE(ftruncate(region.fd(), 4096), 0);
}

TEST(LaneRegionTest, ABigRegionCostsNoMemory) {
  LaneRegion region = make_region(size_t{64} << 30);
  struct stat info {};
  ASSERT_EQ(fstat(region.fd(), &info), 0);
  EXPECT_EQ(info.st_blocks, 0);
}

TEST(LaneRegionTest, ADescriptorThatIsNoRegionIsRefused) {
  EXPECT_EQ(LaneRegion::map(open("/dev/null", O_RDWR)).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_FALSE(LaneRegion::map(-1).has_value());
}

}  // namespace
}  // namespace sheaf::transport::test
