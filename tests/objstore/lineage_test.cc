// Objects that outlive the process that had them made, and the node that owned them.
#include <gtest/gtest.h>

#include "tests/objstore/nodes_fixture.h"

namespace sheaf::objstore::lineage_test {
namespace {

using Ids = std::vector<ObjectId>;

class LineageTest : public NodesTest {
 protected:
  LineageTest() {
    c.choose = [this](uint16_t, const std::set<ProcessId>& tried) {
      for (ProcessId one : {p(1, 1), p(1, 2)}) {
        if (!tried.contains(one) && !dead.contains(one)) return one;
      }
      return kNoProcess;
    };
  }
  // The submitter of `o` lets a reference escape. The job is 7.
  void record(const ObjectId& o, Ids arguments = {}, int32_t runs = -1) {
    TaskRecord task{7, runs, {o}, std::move(arguments), "task"};
    Status s = c.store(o.node()).record_task(o.process(), std::move(task));
    EXPECT_TRUE(s) << s.to_string();
  }
  void end(uint16_t n, uint32_t i = 1) {
    dead.insert(p(n, i));
    c.store(n).process_died(p(n, i));
    c.settle();
  }
  void lose_node(uint16_t n) {
    c.kill(n);
    c.bury(n);
    c.settle();
  }
  void ask(uint16_t n, const ObjectId& o, uint32_t i = 1) {
    at(n).events[p(n, i)].clear();
    c.store(n).subscribe(p(n, i), Ids{o}, true, StoreHarness::now());
    c.settle();
  }
  // The task that was handed out runs on node `n`, for the process that has it.
  void run_handed(uint16_t n, uint64_t bytes = kMiB) {
    ASSERT_FALSE(c.handed.empty());
    ClusterHarness::Handed task = c.handed.front();
    c.handed.pop_front();
    EXPECT_EQ(task.record.task, "task");
    for (const ObjectId& o : task.record.returns) {
      auto answer = c.store(n).alloc_extent(p(n, 2), 1, bytes, std::chrono::seconds(1),
                                            StoreHarness::now());
      ASSERT_TRUE(answer && *answer);
      at(n).fill(**answer, o);
      seal_header(at(n).base(), **answer, o);
      EXPECT_TRUE(c.store(n).seal(p(n, 2), o, **answer, o.process(), {}));
    }
    c.settle();
  }
  void expect_value(uint16_t n, const ObjectId& o, uint32_t i = 1) {
    ASSERT_TRUE(c.until([&] { return answered(n, i); }));
    ObjectEvent e = at(n).events[p(n, i)].back();
    ASSERT_EQ(e.state, ValueState::kArena) << e.bytes;
    EXPECT_TRUE(at(n).intact(e.locator, o));
  }
  std::set<ProcessId> dead;
};

TEST_F(LineageTest, ADeadSubmittersResultIsMadeAgainByAnotherProcessOfItsJob) {
  ObjectId o = id(2, 1);
  make_result(3, o, kMiB);
  record(o);
  give(2, 1, o);
  c.settle();
  end(2);
  lose_node(3);
  ask(1, o);
  ASSERT_EQ(c.handed.size(), 1u);
  EXPECT_EQ(c.handed[0].maker, p(1, 1));
  EXPECT_EQ(c.handed[0].record.job, 7u);
  EXPECT_FALSE(answered(1, 1)) << "it waits";
  run_handed(1);
  expect_value(1, o);
  drop(1, o);
  expect_empty();
}

TEST_F(LineageTest, ASubmitterThatLivesIsAskedFirst) {
  ObjectId o = id(2, 1);
  make_result(3, o, kMiB);
  record(o);
  give(2, 1, o);
  c.settle();
  drop(2, o);          // it has forgotten the task
  c.settle();
  lose_node(3);
  ask(1, o);
  ASSERT_EQ(c.handed.size(), 1u);
  EXPECT_EQ(c.handed[0].maker, p(2, 1));
  end(2);              // and dies: the next one
  ASSERT_EQ(c.handed.size(), 2u);
  EXPECT_EQ(c.handed[1].maker, p(1, 1));
  c.handed.pop_front();
  c.store(2).maker_gone(p(1, 1));
  c.settle();
  ASSERT_EQ(c.handed.size(), 2u);
  EXPECT_EQ(c.handed[1].maker, p(1, 2));
  c.handed.pop_front();
  run_handed(2);
  expect_value(1, o);
  drop(1, o);
  expect_empty();
}

TEST_F(LineageTest, ANodeThatDiesWithItsObjectsIsRememberedByTheHead) {
  ObjectId o = id(2, 1), argument = id(2, 2);
  make_result(2, argument, kMiB);
  record(argument);
  make_result(3, o, kMiB);
  record(o, {argument});
  drop(2, argument);
  give(2, 1, o);
  c.settle();
  EXPECT_EQ(c.store(1).nodes().lineage().kept_for_others(), 2u) << "its argument, too";
  EXPECT_NE(entry(2, argument), nullptr) << "held by the record";
  c.kill(2);
  c.kill(3);
  c.bury(2);
  c.bury(3);
  ask(1, o);
  ASSERT_EQ(c.handed.size(), 1u);
  EXPECT_EQ(c.handed[0].by, 1);
  EXPECT_EQ(c.handed[0].record.arguments, Ids{argument});
  ask(1, argument, 2);   // as its maker does
  ASSERT_EQ(c.handed.size(), 2u);
  EXPECT_EQ(c.handed[1].record.returns, Ids{argument});
  run_handed(1);
  run_handed(1);
  expect_value(1, o);
  expect_value(1, argument, 2);
  drop(1, o);
  expect_empty();
}

TEST_F(LineageTest, ATakenOverRecordThatNobodyNeedsGoesWithItsArguments) {
  ObjectId o = id(2, 1), argument = id(3, 5);
  (void)*at(3).put(p(3), argument, kMiB);
  give(3, 2, argument);
  c.settle();
  make_result(3, o, kMiB);
  record(o, {argument});
  drop(2, argument);
  give(2, 3, o);
  c.settle();
  drop(3, argument);
  drop(3, o);
  c.settle();
  EXPECT_NE(entry(3, argument), nullptr);
  lose_node(2);
  expect_empty();
}

TEST_F(LineageTest, ArgumentsAreHeldUntilTheResultGoes) {
  ObjectId o = id(2, 1), argument = id(2, 2);
  (void)*at(2).put(p(2), argument, kMiB);
  make_result(2, o, kMiB);
  record(o, {argument});
  drop(2, argument);
  c.settle();
  EXPECT_TRUE(entry(2, argument)->in_arena());
  EXPECT_EQ(c.told["Remember"], 0u) << "purely local work tells nobody";
  drop(2, o);
  expect_empty();
}

TEST_F(LineageTest, AValueInAMessageNeedsNoTaskAndFreesTheArguments) {
  ObjectId o = id(2, 1), argument = id(2, 2);
  (void)*at(2).put(p(2), argument, kMiB);
  record(o, {argument});
  (void)c.store(2).publish(p(2), o, ValueState::kPending, "", {}).is_ok();
  drop(2, argument);
  give(2, 3, o);
  c.settle();
  EXPECT_EQ(c.store(1).nodes().lineage().kept_for_others(), 1u);
  EXPECT_NE(entry(2, argument), nullptr);
  (void)c.store(2).publish(p(2), o, ValueState::kInline, "small", {}).is_ok();
  c.settle();
  EXPECT_EQ(entry(2, argument), nullptr);
  EXPECT_EQ(c.store(2).nodes().values_kept_elsewhere(), 1u);
  lose_node(2);
  ObjectEvent e = get(3, o);
  EXPECT_EQ(e.state, ValueState::kInline);
  EXPECT_EQ(e.bytes, "small");
  drop(3, o);
  expect_empty();
}

TEST_F(LineageTest, ASmallPutSurvivesItsNodeOnceAReferenceHasLeft) {
  ObjectId o = id(2, 1), inner = id(2, 2);
  (void)c.store(2).publish(p(2), inner, ValueState::kInline, "inner", {}).is_ok();
  (void)c.store(2).publish(p(2), o, ValueState::kInline, "outer", Ids{inner}).is_ok();
  drop(2, inner);
  give(2, 3, o);
  c.settle();
  lose_node(2);
  EXPECT_EQ(get(3, o).bytes, "outer");
  hold(3, inner);
  EXPECT_EQ(get(3, inner).bytes, "inner");
  drop(3, o);
  drop(3, inner);
  expect_empty();
}

TEST_F(LineageTest, WhatIsGivenAwayWaitsUntilTheHeadHasItsLineage) {
  ObjectId o = id(2, 1);
  make_result(2, o, kMiB);
  record(o);
  EXPECT_TRUE(c.store(2).may_forward(ClusterHarness::daemon(3)));
  give(2, 3, o);
  EXPECT_FALSE(c.store(2).may_forward(ClusterHarness::daemon(3)));
  EXPECT_TRUE(c.store(2).may_forward(ClusterHarness::daemon(1))) << "it arrives there before";
  c.settle();
  EXPECT_TRUE(c.store(2).may_forward(ClusterHarness::daemon(3)));
  EXPECT_EQ(c.told["Remember"], 1u);
  give(2, 3, o);
  EXPECT_TRUE(c.store(2).may_forward(ClusterHarness::daemon(3))) << "once is enough";
  c.settle();
  drop(3, o);
  drop(3, o);
  drop(2, o);
  expect_empty();
  EXPECT_EQ(c.told["Remember"], 1u);
  EXPECT_EQ(c.told["Forget"], 1u);
}

TEST_F(LineageTest, APendingResultOfADeadSubmitterIsMadeAgain) {
  ObjectId o = id(2, 1);
  record(o);
  (void)c.store(2).publish(p(2), o, ValueState::kPending, "", {}).is_ok();
  give(2, 1, o);
  c.settle();
  ask(1, o);
  EXPECT_TRUE(c.handed.empty());
  end(2);
  ASSERT_EQ(c.handed.size(), 1u);
  EXPECT_TRUE(c.store(1).made(p(1), o, ValueState::kInline, "again", {}));
  ASSERT_TRUE(c.until([&] { return answered(1, 1); }));
  EXPECT_EQ(at(1).events[p(1)].back().bytes, "again");
  c.handed.clear();
  drop(1, o);
  expect_empty();
}

TEST_F(LineageTest, WithoutAProcessOrWithoutRunsThereIsAnErrorAtOnce) {
  ObjectId o = id(2, 1), once = id(2, 2);
  make_result(3, o, kMiB);
  record(o);
  make_result(3, once, kMiB);
  record(once, {}, 0);
  for (const ObjectId& one : {o, once}) give(2, 1, one);
  c.settle();
  end(2);
  lose_node(3);
  dead = {p(1, 1), p(1, 2)};   // as far as the job goes
  EXPECT_EQ(get(1, o).bytes, "loss 6");
  EXPECT_EQ(get(1, once).bytes, "loss 7");
  drop(1, o);
  drop(1, once);
  expect_empty();
}

TEST_F(LineageTest, AnotherNodesDeathMakesMakersRunOnceMore) {
  ObjectId o = id(1, 1);
  make_result(3, o, kMiB);
  record(o);
  c.settle();
  give(1, 2, o);
  end(1);
  c.choose = [](uint16_t, const std::set<ProcessId>&) { return p(2, 1); };
  lose_node(3);
  ask(2, o);
  ASSERT_EQ(c.handed.size(), 1u);
  c.handed.clear();   // its result was on its way from a node that dies now
  c.store(1).peer_down(make_process(9, 1, 1), 0, StoreHarness::now());
  c.settle();
  ASSERT_EQ(c.handed.size(), 1u);
  run_handed(2);
  expect_value(2, o);
  drop(2, o);
  expect_empty();
}

TEST_F(LineageTest, NonsenseIsRefused) {
  EXPECT_FALSE(c.store(2).record_task(p(2), {7, 1, {}, {}, "no returns"}));
  EXPECT_FALSE(c.store(2).record_task(p(2), {7, 1, {id(3, 1)}, {}, "not its own"}));
  EXPECT_FALSE(c.store(2).made(p(2), id(2, 1), ValueState::kArena, "", {}));
  expect_empty();
}

}  // namespace
}  // namespace sheaf::objstore::lineage_test
