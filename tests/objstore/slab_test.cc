// The slab writer and what the daemon reads of it.
#include "objstore/slab.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "objstore/extent_table.h"
#include "objstore/pins.h"

namespace sheaf::objstore::slab_test {
namespace {

constexpr uint64_t kArena = 16 << 20;

class SlabTest : public testing::Test {
 protected:
  SlabTest()
      : memory_(static_cast<std::byte*>(std::aligned_alloc(1 << 21, kArena))), table_(kArena, 1) {}
  ~SlabTest() override { std::free(memory_); }

  Locator lease(ProcessId owner) {
    Locator slab = *table_.allocate_slab(owner);
    format_slab(memory_ + slab.offset, slab.generation);
    return slab;
  }

  std::byte* memory_;
  ExtentTable table_;
};

TEST_F(SlabTest, SealedObjectsHaveHeadersAndRecordsInOrder) {
  SlabWriter writer(memory_, 1);
  EXPECT_FALSE(writer.reserve(100));
  Locator slab = lease(7);
  writer.adopt(slab.offset, slab.length, slab.generation);
  Locator a = *writer.reserve(100), b = *writer.reserve(0), c = *writer.reserve(9000);
  EXPECT_EQ(a.offset % kObjectAlignment, 0u);
  EXPECT_EQ(b.offset - a.offset, 192u);
  EXPECT_FALSE(header_matches(memory_, a, ObjectId{1, 1}));
  writer.seal(c, {1, 3});
  writer.seal(a, {1, 1});
  writer.abandon(b);
  EXPECT_TRUE(header_matches(memory_, a, ObjectId{1, 1}));
  EXPECT_FALSE(header_matches(memory_, a, ObjectId{1, 2}));
  auto records = read_sealed(memory_ + slab.offset, slab.length, slab.generation);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].id, (ObjectId{1, 3}));
  EXPECT_EQ(records[1].offset + slab.offset, a.offset);
  EXPECT_EQ(count_sealed(memory_ + slab.offset, slab.generation), 2u);
  EXPECT_EQ(count_sealed(memory_ + slab.offset, slab.generation + 1), 0u);
}

TEST_F(SlabTest, FillsUpByBytesOrByRecords) {
  SlabWriter writer(memory_, 1);
  Locator slab = lease(7);
  writer.adopt(slab.offset, slab.length, slab.generation);
  EXPECT_FALSE(writer.reserve(kSlabMaxPayload + 1));
  ASSERT_TRUE(writer.reserve(kSlabMaxPayload));
  EXPECT_FALSE(writer.reserve(0));
  slab = lease(7);
  writer.adopt(slab.offset, slab.length, slab.generation);
  size_t count = 0;
  while (auto locator = writer.reserve(10)) {
    ASSERT_LE(locator->offset + kHeaderBytes + 10, slab.offset + slab.length);
    writer.seal(*locator, {2, ++count});
  }
  EXPECT_EQ(count, kSlabRecords);
  EXPECT_EQ(read_sealed(memory_ + slab.offset, slab.length, slab.generation).size(), kSlabRecords);
}

TEST_F(SlabTest, RetiresOnlyWhenNothingIsOpen) {
  SlabWriter writer(memory_, 1);
  Locator first = lease(7), second = lease(7);
  writer.adopt(first.offset, first.length, first.generation);
  Locator open = *writer.reserve(500);
  writer.adopt(second.offset, second.length, second.generation);
  EXPECT_FALSE(slab_is_retired(memory_ + first.offset));
  EXPECT_EQ(table_.reap_slabs(memory_), 0u);
  writer.seal(open, {3, 1});
  EXPECT_TRUE(slab_is_retired(memory_ + first.offset));
  EXPECT_EQ(table_.reap_slabs(memory_), 0u) << "its object's message is still on the way";
  ASSERT_TRUE(table_.seal(7, open));
  EXPECT_EQ(table_.reap_slabs(memory_), 0u) << "its object lives";
  table_.release(open);
  EXPECT_EQ(table_.reap_slabs(memory_), 1u);
  EXPECT_EQ(table_.slab_count(), 1u);
  writer.retire();
  EXPECT_EQ(table_.reap_slabs(memory_), 1u);
  EXPECT_EQ(table_.allocator().used_bytes(), 0u);
}

TEST_F(SlabTest, RecordsOutsideTheSlabAreIgnored) {
  Locator slab = lease(7);
  auto* header = reinterpret_cast<SlabHeader*>(memory_ + slab.offset);
  auto forge = [&](int at, uint32_t offset, uint32_t length) {
    header->records[at].offset = offset;
    header->records[at].length = length;
    header->records[at].sealed.store(slab.generation);
  };
  forge(0, 0, 10);
  forge(1, sizeof(SlabHeader) + 1, 10);
  forge(2, kSlabBytes - 64, 10);
  forge(3, sizeof(SlabHeader), UINT32_MAX);
  forge(4, sizeof(SlabHeader), 10);
  EXPECT_EQ(read_sealed(memory_ + slab.offset, slab.length, slab.generation).size(), 1u);
}

}  // namespace
}  // namespace sheaf::objstore::slab_test
