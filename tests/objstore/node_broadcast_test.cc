// One large object that many nodes want: it goes down a chain of them, chunk by chunk.
#include <gtest/gtest.h>

#include "tests/objstore/nodes_fixture.h"

namespace sheaf::objstore::node_broadcast_test {
namespace {

constexpr uint64_t kChunks = 28;

class BroadcastTest : public NodesTest {
 protected:
  BroadcastTest() : NodesTest(5) {
    here = *at(1).put(p(1), o, kChunks * kMiB);
    c.settle();
  }
  void want(uint16_t n) {
    give(1, n, o);
    at(n).events[p(n)].clear();
    c.store(n).subscribe(p(n), std::vector{o}, true, StoreHarness::now(), std::vector{here});
  }
  // Each of them reads from the one before.
  void want_in_a_chain(std::initializer_list<uint16_t> nodes) {
    for (uint16_t n : nodes) {
      want(n);
      until_has_read(n, 1);
    }
  }
  // Whatever moves, in any order, until that node has so much.
  void until_has_read(uint16_t reader, uint64_t chunks) {
    std::mt19937 random(7);
    for (int i = 0; i < 100000 && c.pulls_to[reader] < chunks; ++i) {
      if (c.deliver_one(random()) && i % 8 != 0) continue;
      for (uint16_t n : c.alive_nodes()) c.turn(n);
    }
    ASSERT_GE(c.pulls_to[reader], chunks);
    ASSERT_FALSE(answered(reader, 1));
  }
  bool all_answered(std::initializer_list<uint16_t> nodes) {
    for (uint16_t n : nodes) if (!answered(n, 1)) return false;
    return true;
  }
  void expect_intact(std::initializer_list<uint16_t> nodes) {
    for (uint16_t n : nodes) {
      ASSERT_FALSE(at(n).events[p(n)].empty()) << n;
      ObjectEvent e = at(n).events[p(n)].back();
      ASSERT_EQ(e.state, ValueState::kArena) << n << " " << e.bytes;
      EXPECT_TRUE(at(n).intact(e.locator, o)) << n;
    }
  }
  void drop_all(std::initializer_list<uint16_t> nodes) {
    for (uint16_t n : nodes) drop(n, o);
    expect_empty();
  }

  ObjectId o = id(1, 1);
  Locator here;
};

TEST_F(BroadcastTest, EachNodeReadsFromTheOneBeforeWhileThatStillReads) {
  for (uint16_t n : {2, 3, 4, 5}) want(n);
  ASSERT_TRUE(c.until([&] { return all_answered({2, 3, 4, 5}); }));
  expect_intact({2, 3, 4, 5});
  for (uint16_t n : {1, 2, 3, 4}) EXPECT_EQ(c.pulls_from[n], kChunks) << "one reader of " << n;
  drop_all({1, 2, 3, 4, 5});
}

TEST_F(BroadcastTest, AReaderGoesOnElsewhereWhereItWasWhenItsSourceDies) {
  want_in_a_chain({2, 3});
  want(4);
  ASSERT_FALSE(answered(2, 1)) << "it dies while it reads itself";
  c.kill(2);
  c.bury(2);
  ASSERT_TRUE(c.until([&] { return all_answered({3, 4}); }));
  expect_intact({3, 4});
  EXPECT_EQ(c.pulls_to[3], kChunks) << "no chunk twice";
  EXPECT_EQ(c.pulls_to[4], kChunks);
  drop_all({1, 3, 4});
}

TEST_F(BroadcastTest, AnObjectThatNobodyHasWholeWhenItsNodeDiesIsLostForAll) {
  ObjectId other = id(4, 1);
  Locator at4 = *at(4).put(p(4), other, kChunks * kMiB);
  for (uint16_t n : {2, 3}) {
    give(4, n, other);
    at(n).events[p(n)].clear();
    c.store(n).subscribe(p(n), std::vector{other}, true, StoreHarness::now(), std::vector{at4});
  }
  until_has_read(3, 2);
  ASSERT_FALSE(answered(2, 1));
  c.kill(4);
  c.bury(4);
  // Nobody had it whole: whatever came of it is given up, and everybody who waits is told.
  ASSERT_TRUE(c.until([&] { return all_answered({2, 3}); }));
  EXPECT_EQ(at(2).events[p(2)].back().state, ValueState::kError);
  EXPECT_EQ(at(3).events[p(3)].back().state, ValueState::kError);
  drop(2, other);
  drop(3, other);
  drop_all({1});
}

TEST_F(BroadcastTest, WhatNobodyWaitsForAnyMoreIsGivenUp) {
  want_in_a_chain({2, 3});
  ASSERT_FALSE(answered(2, 1));
  c.store(2).process_died(p(2));
  c.node(2).join(p(2));
  ASSERT_TRUE(c.until([&] { return answered(3, 1); }));
  expect_intact({3});
  drop_all({1, 3});
}

TEST_F(BroadcastTest, LateReadersReadFromWholeCopies) {
  want(2);
  ASSERT_TRUE(c.until([&] { return answered(2, 1); }));
  want(3);
  want(4);
  ASSERT_TRUE(c.until([&] { return all_answered({3, 4}); }));
  expect_intact({3, 4});
  EXPECT_EQ(c.pulls_from[1], 2 * kChunks);
  EXPECT_EQ(c.pulls_from[2], kChunks);
  drop_all({1, 2, 3, 4});
}

}  // namespace
}  // namespace sheaf::objstore::node_broadcast_test
