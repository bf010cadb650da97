#include "core/ids.h"

#include <gtest/gtest.h>

#include <unordered_set>

namespace sheaf {
namespace {

TEST(IdsTest, PartsComeBack) {
  ProcessId process = make_process(0xabcd, 7, 0x12345678);
  ObjectId id = ObjectId::make(process, 0xfedcba9876543210ull);
  EXPECT_EQ(id.node(), 0xabcd);
  EXPECT_EQ(id.incarnation(), 7);
  EXPECT_EQ(id.process(), process);
  EXPECT_EQ(node_of(process), 0xabcd);
  EXPECT_EQ(incarnation_of(process), 7);
  EXPECT_EQ(number_of(process), 0x12345678u);
  EXPECT_EQ(id.lo, 0xfedcba9876543210ull);
  EXPECT_FALSE(id.is_nil());
  EXPECT_TRUE(ObjectId{}.is_nil());
}

TEST(IdsTest, HexRoundTripsAndPutsTheNodeFirst) {
  ObjectId id = ObjectId::make(make_process(1, 2, 3), 4);
  EXPECT_EQ(to_hex(id), "00010002000000030000000000000004");
  auto halves = id_from_hex("00010002000000030000000000000004");
  ASSERT_TRUE(halves.has_value());
  EXPECT_EQ((*halves)[0], id.hi);
  EXPECT_EQ((*halves)[1], id.lo);
}

TEST(IdsTest, MalformedHexIsRefused) {
  EXPECT_FALSE(id_from_hex("").has_value());
  EXPECT_FALSE(id_from_hex("0001000200000003000000000000000").has_value());
  EXPECT_FALSE(id_from_hex("000100020000000300000000000000044").has_value());
  EXPECT_FALSE(id_from_hex("0001000200000003000000000000000g").has_value());
  EXPECT_TRUE(id_from_hex("ABCDEF02000000030000000000000004").has_value());
}

TEST(IdsTest, NeighbouringIdsSpreadOverBuckets) {
  std::unordered_set<size_t> low_bits;
  for (uint64_t i = 0; i < 4096; ++i)
    low_bits.insert(IdHash{}(ObjectId::make(5, i << 32)) & 4095);
  EXPECT_GT(low_bits.size(), 2300u);  // a random function leaves about 63 % of the buckets hit
}

}  // namespace
}  // namespace sheaf
