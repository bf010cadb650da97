// Nodes that die at any moment: what they had, what they owned, what they were handing over.
#include <gtest/gtest.h>

#include "tests/objstore/nodes_fixture.h"

namespace sheaf::objstore::node_death_test {
namespace {

TEST_F(NodesTest, AResultWhoseNodeDiesIsMadeAgainByItsMaker) {
  ObjectId o = id(1, 1);
  make_result(2, o, kMiB);
  c.settle();
  give(1, 3, o);
  c.settle();
  c.kill(2);
  at(3).events[p(3)].clear();
  at(1).events[p(1)].clear();
  c.store(3).subscribe(p(3), std::vector{o}, true, StoreHarness::now());
  c.bury(2);
  ASSERT_TRUE(c.until([&] { return answered(1, 1); }));
  EXPECT_EQ(at(1).events[p(1)].back().bytes, "loss 5") << "its maker is told";
  EXPECT_FALSE(answered(3, 1)) << "others wait";
  (void)*at(1).put(p(1), o, kMiB);    // run again, here this time
  ASSERT_TRUE(c.until([&] { return answered(3, 1); }));
  ObjectEvent e = at(3).events[p(3)].back();
  ASSERT_EQ(e.state, ValueState::kArena);
  EXPECT_TRUE(at(3).intact(e.locator, o));
  drop(1, o);
  drop(1, o);
  drop(3, o);
  expect_empty();
}

TEST_F(NodesTest, ACopyTakesThePlaceOfBytesWhoseNodeDied) {
  ObjectId o = id(1, 1);
  Locator made = make_result(2, o, kMiB);
  c.settle();
  give(1, 3, o);
  ASSERT_EQ(get(3, o, made).state, ValueState::kArena);
  c.settle();
  c.kill(2);
  c.bury(2);
  c.settle();
  ASSERT_TRUE(entry(1, o)->elsewhere);
  EXPECT_EQ(entry(1, o)->locator.node, 3);
  EXPECT_EQ(entry(3, o)->kept, 1u);
  drop(3, o);
  c.settle();
  ObjectEvent e = get(1, o);
  ASSERT_EQ(e.state, ValueState::kArena);
  EXPECT_TRUE(at(1).intact(e.locator, o));
  EXPECT_TRUE(at(1).events[p(1)].size() == 1) << "nobody made it again";
  drop(1, o);
  expect_empty();
}

TEST_F(NodesTest, APullFromANodeThatDiesGoesOnElsewhere) {
  ObjectId o = id(1, 1);
  Locator made = make_result(2, o, kMiB);
  c.settle();
  ObjectEvent here = get(1, o, made);   // the owner has a copy of its own
  ASSERT_EQ(here.locator.node, 1);
  c.settle();
  give(1, 3, o);
  c.settle();
  at(3).events[p(3)].clear();
  c.store(3).subscribe(p(3), std::vector{o}, true, StoreHarness::now(), std::vector{made});
  c.kill(2);
  ASSERT_TRUE(c.until([&] { return answered(3, 1); })) << "before anybody knows of the death";
  ObjectEvent e = at(3).events[p(3)].back();
  ASSERT_EQ(e.state, ValueState::kArena);
  EXPECT_TRUE(at(3).intact(e.locator, o));
  c.bury(2);
  drop(1, o);
  drop(3, o);
  expect_empty();
}

TEST_F(NodesTest, NothingIsFreedWhileABarrierIsOpen) {
  ObjectId o = id(1, 1), local = id(3, 1);
  (void)*at(1).put(p(1), o, kMiB);
  give(1, 2, o);
  (void)*at(3).put(p(3), local, kMiB);
  c.settle();
  drop(1, o);
  c.settle();
  give(2, 3, o);
  c.deliver_one();                       // the hand-off; node 3's registration is on its way
  c.kill(2);
  c.declare(2, 1);
  for (int i = 0; i < 10; ++i) c.turn(1);
  EXPECT_NE(entry(1, o), nullptr) << "node 3 may hold it";
  c.declare(2, 3);
  drop(3, local);
  c.settle();
  EXPECT_NE(entry(3, local), nullptr);
  ASSERT_TRUE(c.until([&] { return c.reached(2); }));
  c.close_barrier(2);
  c.settle();
  EXPECT_EQ(entry(3, local), nullptr);
  ASSERT_NE(entry(1, o), nullptr);
  ASSERT_EQ(get(3, o).state, ValueState::kArena);
  drop(3, o);
  expect_empty();
}

TEST_F(NodesTest, WhatADeadNodeHeldIsFreedAfterItsBarrier) {
  ObjectId o = id(1, 1);
  Locator here = *at(1).put(p(1), o, kMiB);
  give(1, 2, o);
  ASSERT_EQ(get(2, o, here).state, ValueState::kArena);
  c.settle();
  drop(1, o);
  c.kill(2);
  c.bury(2);
  expect_empty();
}

TEST_F(NodesTest, TheHeadOwnsWhatADeadNodeOwned) {
  ObjectId copied = id(2, 1), gone = id(2, 2);
  Locator c1 = *at(2).put(p(2), copied, kMiB);
  (void)*at(2).put(p(2), gone, kMiB);
  for (ObjectId o : {copied, gone}) give(2, 3, o);
  ASSERT_EQ(get(3, copied, c1).state, ValueState::kArena);
  c.settle();
  c.kill(2);
  c.bury(2);
  c.settle();
  // Node 3 gives them to node 1: references resolve though their node is dead.
  for (ObjectId o : {copied, gone}) give(3, 1, o);
  c.settle();
  drop(3, copied);
  c.settle();
  ObjectEvent e = get(1, copied);
  ASSERT_EQ(e.state, ValueState::kArena);
  EXPECT_TRUE(at(1).intact(e.locator, copied));
  EXPECT_EQ(get(1, gone).bytes, "loss 5");
  EXPECT_EQ(get(3, gone).bytes, "loss 5");
  drop(1, copied);
  drop(1, gone);
  drop(3, gone);
  expect_empty();
}

TEST_F(FourNodesTest, AResultOfADeadCallerOutlivesItWithItsReferences) {
  ObjectId inner = id(3, 1), outer = id(2, 1);
  (void)*at(3).put(p(3), inner, kMiB);
  make_result(3, outer, kMiB, {inner});   // made on node 3 for a caller on node 2
  drop(3, inner);
  c.settle();
  give(2, 4, outer);
  c.settle();
  c.kill(2);
  c.declare(2, 4);                         // node 4 hears of it first, the head last
  c.deliver_all();
  c.declare(2, 3);
  c.deliver_all();
  for (uint16_t n : {3, 4}) for (int i = 0; i < 5; ++i) c.turn(n);
  c.declare(2, 1);
  ASSERT_TRUE(c.until([&] { return c.reached(2); }));
  c.close_barrier(2);
  c.settle();
  ASSERT_EQ(get(4, outer).state, ValueState::kArena);
  hold(4, inner);
  drop(4, outer);
  c.settle();
  ASSERT_EQ(get(4, inner).state, ValueState::kArena);
  drop(4, inner);
  expect_empty();
}

TEST_F(FourNodesTest, TwoDeathsAtOnce) {
  ObjectId a = id(2, 1), b = id(3, 1);
  (void)*at(2).put(p(2), a, kMiB);
  (void)*at(3).put(p(3), b, kMiB);
  give(2, 4, a);
  give(3, 4, b);
  give(3, 2, b);
  ASSERT_EQ(get(4, a).state, ValueState::kArena);
  ASSERT_EQ(get(4, b).state, ValueState::kArena);
  c.settle();
  c.kill(2);
  c.kill(3);
  c.declare(2, 4);
  c.declare(3, 4);
  c.declare(3, 1);
  c.declare(2, 1);
  ASSERT_TRUE(c.until([&] { return c.reached(2) && c.reached(3); }));
  c.close_barrier(3);
  c.close_barrier(2);
  c.settle();
  give(4, 1, a);
  give(4, 1, b);
  c.settle();
  for (ObjectId o : {a, b}) {
    ObjectEvent e = get(1, o);
    ASSERT_EQ(e.state, ValueState::kArena);
    EXPECT_TRUE(at(1).intact(e.locator, o));
    drop(1, o);
    drop(4, o);
  }
  expect_empty();
}

TEST_F(FourNodesTest, AReplicaSurvivesItsNodeAndIsReplaced) {
  ObjectId o = id(2, 1);
  (void)*at(2).put(p(2), o, kMiB);
  c.store(2).replicate(o, 2);
  c.settle();
  EXPECT_EQ(c.pulls_done, 2u);
  auto kept = [&] {
    std::vector<uint16_t> nodes;
    for (uint16_t n : c.alive_nodes()) if (entry(n, o) && entry(n, o)->kept > 0) nodes.push_back(n);
    return nodes;
  };
  ASSERT_EQ(kept().size(), 2u);
  uint16_t victim = kept().back();
  ASSERT_NE(victim, 1);
  c.kill(victim);
  c.bury(victim);
  c.settle();
  ASSERT_EQ(kept().size(), 2u);
  uint16_t holder = victim == 3 ? 4 : 3;
  give(2, holder, o);
  c.settle();
  c.kill(2);                               // its maker and owner
  c.bury(2);
  ObjectEvent e = get(holder, o);
  ASSERT_EQ(e.state, ValueState::kArena);
  EXPECT_TRUE(at(holder).intact(e.locator, o));
  drop(holder, o);
  expect_empty();
}

TEST_F(NodesTest, ANodeThatWasDeadLongAgoIsNotWaitedForForEver) {
  ObjectId o = ObjectId::make(make_process(9, 1, 200), 1);
  hold(3, o);
  EXPECT_EQ(get(3, o).state, ValueState::kError);
  drop(3, o);
  c.until([&] { return c.store(1).nodes().is_dead(make_process(9, 1, 1)); });
  expect_empty();
}

}  // namespace
}  // namespace sheaf::objstore::node_death_test
