// Objects over several nodes: real stores and arenas, channels and pulls that the test delivers.
#include <gtest/gtest.h>

#include "tests/objstore/nodes_fixture.h"

namespace sheaf::objstore::nodes_test {
namespace {

TEST_F(NodesTest, ALargeArgumentIsPulledOnceAndGoesWithItsOwner) {
  ObjectId o = id(1, 1);
  Locator here = *at(1).put(p(1), o, 3 * kMiB);
  for (uint32_t i : {1, 2}) hold(2, o, i);
  c.store(2).subscribe(p(2, 1), std::vector{o}, true, StoreHarness::now(), std::vector{here});
  c.store(2).subscribe(p(2, 2), std::vector{o}, true, StoreHarness::now(), std::vector{here});
  ASSERT_TRUE(c.until([&] { return answered(2, 1) && answered(2, 2); }));
  EXPECT_EQ(c.pulls_done, 1u);
  ObjectEvent e = at(2).events[p(2, 1)].back();
  ASSERT_EQ(e.state, ValueState::kArena);
  EXPECT_EQ(e.locator.node, 2);
  EXPECT_TRUE(at(2).intact(e.locator, o));
  drop(1, o);
  c.settle();
  EXPECT_TRUE(entry(1, o)->in_arena()) << "node 2 holds it";
  drop(2, o, 1);
  c.settle();
  EXPECT_EQ(get(2, o, {}, 2).locator, e.locator);
  drop(2, o, 2);
  expect_empty();
}

TEST_F(NodesTest, ACopyStaysWhileTheOwnerHasTheObject) {
  ObjectId o = id(1, 1);
  Locator here = *at(1).put(p(1), o, kMiB);
  hold(2, o);
  ObjectEvent first = get(2, o, here);
  drop(2, o);
  c.settle();
  hold(2, o);
  EXPECT_EQ(get(2, o, here).locator, first.locator);
  EXPECT_EQ(c.pulls_done, 1u);
  drop(2, o);
  drop(1, o);
  expect_empty();
}

TEST_F(NodesTest, ALargeResultStaysWhereItWasMadeUntilItsOwnerLetsGo) {
  ObjectId o = id(1, 1);
  Locator made = make_result(2, o, 3 * kMiB);
  c.settle();
  ASSERT_TRUE(entry(1, o) && entry(1, o)->elsewhere);
  EXPECT_TRUE(entry(2, o)->in_arena());
  ObjectEvent e = get(1, o, made);
  ASSERT_EQ(e.state, ValueState::kArena);
  EXPECT_EQ(e.locator.node, 1);
  EXPECT_TRUE(at(1).intact(e.locator, o));
  EXPECT_FALSE(entry(1, o)->elsewhere);
  c.settle();
  EXPECT_EQ(entry(2, o)->kept, 0u) << "it may forget it now";
  drop(1, o);
  expect_empty();
}

TEST_F(NodesTest, AResultThatNobodyReadsIsFreedWhereItWasMade) {
  ObjectId o = id(1, 1);
  make_result(2, o, kMiB);
  c.settle();
  drop(1, o);
  expect_empty();
  EXPECT_EQ(c.pulls_done, 0u);
}

TEST_F(NodesTest, AThirdNodePullsFromWhereTheBytesAre) {
  ObjectId o = id(1, 1);
  make_result(2, o, kMiB);
  c.settle();
  give(1, 3, o);
  c.settle();
  ObjectEvent e = get(3, o);          // without a hint: by way of the owner
  ASSERT_EQ(e.state, ValueState::kArena);
  EXPECT_TRUE(at(3).intact(e.locator, o));
  EXPECT_TRUE(entry(1, o)->elsewhere);
  drop(1, o);
  c.settle();
  EXPECT_NE(entry(2, o), nullptr) << "node 3 holds it";
  drop(3, o);
  expect_empty();
}

TEST_F(NodesTest, SmallValuesAndErrorsComeInTheAnswer) {
  ObjectId small = id(1, 1), bad = id(1, 2), later = id(1, 3);
  ASSERT_TRUE(c.store(1).publish(p(1), small, ValueState::kInline, "seven", {}));
  ASSERT_TRUE(c.store(1).publish(p(1), bad, ValueState::kError, "oops", {}));
  ASSERT_TRUE(c.store(1).publish(p(1), later, ValueState::kPending, "", {}));
  for (ObjectId o : {small, bad, later}) give(1, 2, o);
  EXPECT_EQ(get(2, small).bytes, "seven");
  EXPECT_EQ(get(2, bad).state, ValueState::kError);
  at(2).events[p(2)].clear();
  c.store(2).subscribe(p(2), std::vector{later}, true, StoreHarness::now());
  c.settle();
  EXPECT_TRUE(at(2).events[p(2)].empty());
  ASSERT_TRUE(c.store(1).publish(p(1), later, ValueState::kInline, "done", {}));
  ASSERT_TRUE(c.until([&] { return answered(2, 1); }));
  EXPECT_EQ(at(2).events[p(2)].back().bytes, "done");
  for (ObjectId o : {small, bad, later}) {
    drop(1, o);
    drop(2, o);
  }
  expect_empty();
}

TEST_F(NodesTest, WhatItsOwnerNeverMadeIsAnErrorInTheEnd) {
  ObjectId o = id(1, 77);
  hold(2, o);
  EXPECT_EQ(get(2, o).state, ValueState::kError);
  drop(2, o);
  expect_empty();
}

TEST_F(NodesTest, ReferencesInsideAValueLiveAsLongAsIt) {
  ObjectId inner = id(2, 1), outer = id(1, 1);
  (void)*at(2).put(p(2), inner, kMiB);
  make_result(2, outer, kMiB, {inner});
  drop(2, inner);
  c.settle();
  ASSERT_NE(entry(2, inner), nullptr);
  give(1, 3, outer);
  drop(1, outer);
  c.settle();
  ASSERT_EQ(get(3, outer).state, ValueState::kArena);
  hold(3, inner);                     // node 3 decodes it, and lets the outer one go
  drop(3, outer);
  c.settle();
  EXPECT_EQ(entry(1, outer), nullptr);
  ObjectEvent e = get(3, inner);
  ASSERT_EQ(e.state, ValueState::kArena);
  EXPECT_TRUE(at(3).intact(e.locator, inner));
  drop(3, inner);
  expect_empty();
}

TEST_F(NodesTest, AHandedOnReferenceIsPinnedUntilItsNewHolderIsRegistered) {
  ObjectId o = id(1, 1);
  (void)*at(1).put(p(1), o, kMiB);
  give(1, 2, o);
  c.settle();
  drop(1, o);
  c.settle();
  // Node 2 gives it to node 3 and lets go at once; the owner hears of node 3 last of all.
  give(2, 3, o);
  drop(2, o);
  for (int i = 0; i < 4; ++i) for (uint16_t n : {1, 2, 3}) c.turn(n);
  c.settle();
  ASSERT_EQ(get(3, o).state, ValueState::kArena);
  EXPECT_FALSE(c.store(2).nodes().foreign().contains(o));
  drop(3, o);
  expect_empty();
}

TEST_F(NodesTest, SpilledObjectsAreRestoredWhereTheyAre) {
  std::vector<ObjectId> made;
  for (uint64_t n = 1; n <= 14; ++n) {   // results of 4 MB in a store of 32
    made.push_back(id(1, n));
    ASSERT_TRUE(c.until([&] {
      auto answer = c.store(2).alloc_extent(p(2), 100 + n, 4 * kMiB, std::chrono::seconds(0),
                                            StoreHarness::now());
      if (!answer || !*answer) return false;
      at(2).fill(**answer, made.back());
      seal_header(at(2).base(), **answer, made.back());
      return c.store(2).seal(p(2), made.back(), **answer, p(1), {}).is_ok();
    }));
    c.settle();
  }
  ASSERT_GT(c.store(2).metrics().objects_spilled, 4u);
  for (const ObjectId& o : made) {
    ObjectEvent e = get(3, o);           // as if all had been handed to it
    ASSERT_EQ(e.state, ValueState::kArena) << to_hex(o) << e.bytes;
    EXPECT_TRUE(at(3).intact(e.locator, o));
  }
  for (const ObjectId& o : made) drop(1, o);
  expect_empty();
}

TEST_F(NodesTest, CopiesGoFirstWhenRoomIsNeeded) {
  for (uint64_t n = 1; n <= 20; ++n) {
    ObjectId o = id(1, n);
    if (n > 5) drop(1, id(1, n - 5));
    auto there = at(1).put(p(1), o, 3 * kMiB);
    ASSERT_TRUE(there) << there.status().to_string();
    hold(2, o);
    ASSERT_EQ(get(2, o, *there).state, ValueState::kArena);
    drop(2, o);
  }
  EXPECT_EQ(c.store(2).metrics().spilled_bytes_total, 0u);
  for (uint64_t n = 16; n <= 20; ++n) drop(1, id(1, n));
  expect_empty();
}

TEST_F(NodesTest, FreeTakesTheValueAwayEverywhere) {
  ObjectId o = id(1, 1);
  Locator here = *at(1).put(p(1), o, kMiB);
  give(1, 2, o);
  ASSERT_EQ(get(2, o, here).state, ValueState::kArena);
  c.settle();
  c.store(2).free(std::vector{o});
  c.settle();
  EXPECT_EQ(get(2, o, here).state, ValueState::kError);
  EXPECT_EQ(get(1, o).state, ValueState::kError);
  drop(1, o);
  drop(2, o);
  expect_empty();
}

TEST_F(NodesTest, AProcessThatDiesTakesItsHoldsAndPromisesAlong) {
  ObjectId kept = id(1, 1), promised = id(1, 2);
  (void)*at(1).put(p(1, 2), kept, kMiB);
  ASSERT_TRUE(c.store(1).publish(p(1, 2), promised, ValueState::kPending, "", {}));
  for (ObjectId o : {kept, promised}) c.store(1).hold(p(1, 2), p(2), std::vector{o}, {});
  c.settle();
  at(2).events[p(2)].clear();
  c.store(2).subscribe(p(2), std::vector{promised}, true, StoreHarness::now());
  c.settle();
  c.store(1).process_died(p(1, 2));
  ASSERT_TRUE(c.until([&] { return answered(2, 1); }));
  EXPECT_EQ(at(2).events[p(2)].back().bytes, "loss 0");
  ASSERT_EQ(get(2, kept).state, ValueState::kArena) << "held by node 2";
  c.store(2).process_died(p(2));
  expect_empty();
}

TEST_F(NodesTest, AResultWhoseMakerDiesRightAfterItsSealRecordIsFound) {
  ObjectId o = id(1, 1);
  auto slab = c.store(2).lease_slab(p(2), 1, StoreHarness::now());
  ASSERT_TRUE(slab && *slab);
  SlabWriter writer(at(2).base(), 2);
  writer.adopt((*slab)->offset, (*slab)->length, (*slab)->generation);
  Locator l = *writer.reserve(20000);
  at(2).fill(l, o);
  writer.seal(l, o);
  c.store(2).process_died(p(2));
  c.settle();
  ObjectEvent e = get(1, o);
  ASSERT_EQ(e.state, ValueState::kArena);
  EXPECT_TRUE(at(1).intact(e.locator, o));
  drop(1, o);
  expect_empty();
}

}  // namespace
}  // namespace sheaf::objstore::nodes_test
