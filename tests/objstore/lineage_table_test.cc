// Who makes lost objects again, and when: the pure part.
#include "objstore/lineage_table.h"

#include <gtest/gtest.h>

namespace sheaf::objstore::lineage_table_test {
namespace {

using Need = LineageTable::Need;
using Ids = std::vector<ObjectId>;

constexpr ProcessId kOne = make_process(2, 1, 101), kOther = make_process(3, 1, 102);
ObjectId id(uint64_t n) { return ObjectId::make(make_process(1, 1, 100), n); }
TaskRecord task(Ids returns, int32_t runs = -1, Ids arguments = {}) {
  return {1, runs, std::move(returns), std::move(arguments), "task"};
}

class LineageTableTest : public ::testing::Test {
 protected:
  Need lost(const ObjectId& one, Ids all) { return table.lost(one, all); }
  LineageTable table;
};

TEST_F(LineageTableTest, ARecordLivesAsLongAsAnyOfItsReturns) {
  ASSERT_NE(table.add(task({id(1), id(2)}, -1, {id(9)})), nullptr);
  EXPECT_EQ(table.add(task({id(2)})), nullptr) << "known";
  EXPECT_FALSE(table.gone(id(1)));
  EXPECT_EQ(table.find(id(1)), nullptr);
  ASSERT_NE(table.find(id(2)), nullptr);
  auto last = table.gone(id(2));
  ASSERT_TRUE(last);
  EXPECT_EQ(last->record.arguments, Ids{id(9)});
  EXPECT_TRUE(table.empty());
}

TEST_F(LineageTableTest, OneRunBringsAllThatWereLostWhenItBegan) {
  table.add(task({id(1), id(2), id(3)}));
  EXPECT_EQ(lost(id(1), {id(1), id(2)}), Need::kMaker);
  EXPECT_EQ(lost(id(2), {id(1), id(2)}), Need::kNothing);
  EXPECT_TRUE(table.found(id(1), kOne).empty());
  EXPECT_EQ(lost(id(2), {id(1), id(2)}), Need::kNothing);
  EXPECT_TRUE(table.made(id(1)).empty());
  EXPECT_TRUE(table.find(id(1))->busy());
  EXPECT_TRUE(table.made(id(2)).empty());
  EXPECT_FALSE(table.find(id(1))->busy());
  EXPECT_TRUE(table.makers().empty());
}

TEST_F(LineageTableTest, WhatIsLostWhileARunIsUnderWayGetsAnotherOne) {
  table.add(task({id(1), id(2)}));
  EXPECT_EQ(lost(id(1), {id(1)}), Need::kMaker);
  table.found(id(1), kOne);
  EXPECT_EQ(lost(id(2), {id(1), id(2)}), Need::kNothing) << "the run may have begun before";
  EXPECT_EQ(table.made(id(1)), Ids{id(2)});
  EXPECT_EQ(lost(id(2), {id(2)}), Need::kMaker);
}

TEST_F(LineageTableTest, AMakerThatDiesIsReplacedAndNotTriedAgain) {
  table.add(task({id(1)}));
  EXPECT_EQ(lost(id(1), {id(1)}), Need::kMaker);
  table.found(id(1), kOne);
  EXPECT_TRUE(table.maker_gone(kOther).empty());
  EXPECT_EQ(table.maker_gone(kOne), Ids{id(1)});
  EXPECT_EQ(lost(id(1), {id(1)}), Need::kMaker);
  EXPECT_TRUE(table.find(id(1))->tried.contains(kOne));
  table.found(id(1), kOther);
  EXPECT_EQ(table.under_way().size(), 1u);
  EXPECT_TRUE(table.made(id(1)).empty());
  EXPECT_TRUE(table.find(id(1))->tried.empty()) << "another loss is another matter";
}

TEST_F(LineageTableTest, RunsEndAndNobodyIsNobody) {
  table.add(task({id(1)}, 1));
  EXPECT_EQ(lost(id(1), {id(1)}), Need::kMaker);
  EXPECT_EQ(table.found(id(1), kNoProcess), Ids{id(1)});
  EXPECT_EQ(lost(id(1), {id(1)}), Need::kMaker) << "that was no run";
  table.found(id(1), kOne);
  table.made(id(1));
  EXPECT_EQ(lost(id(1), {id(1)}), Need::kNothingHelps);
  EXPECT_EQ(lost(id(7), {id(7)}), Need::kNothingHelps) << "not known";
  table.add(task({id(2)}));
  for (uint32_t i = 0; i < LineageTable::kRunsMax; ++i) {
    ASSERT_EQ(lost(id(2), {id(2)}), Need::kMaker);
    table.found(id(2), kOne);
    table.made(id(2));
  }
  EXPECT_EQ(lost(id(2), {id(2)}), Need::kNothingHelps);
}

TEST_F(LineageTableTest, ARecordThatGoesWhileItsTaskRunsLeavesNoMaker) {
  table.add(task({id(1)}));
  lost(id(1), {id(1)});
  table.found(id(1), kOne);
  EXPECT_TRUE(table.gone(id(1)));
  EXPECT_TRUE(table.makers().empty());
  EXPECT_TRUE(table.maker_gone(kOne).empty());
}

TEST_F(LineageTableTest, TheSinkGivesWhatItWasToldAndDidNotForget) {
  ProcessId home = make_process(2, 1, 1);
  Remember told{1, {task({id(1)}), task({id(2)})}, {}};
  told.values.push_back({id(3), ValueState::kInline, "three", {}});
  told.values.push_back({id(4), ValueState::kArena, "nonsense", {}});
  table.remember(home, told);
  table.forget(home, {{id(2)}, {}});
  table.forget(make_process(3, 1, 1), {{id(1)}, {id(3)}});   // not its own
  EXPECT_EQ(table.kept_for_others(), 2u);
  Remember kept = table.take_over(home);
  ASSERT_EQ(kept.tasks.size(), 1u);
  EXPECT_EQ(kept.tasks[0].returns, Ids{id(1)});
  ASSERT_EQ(kept.values.size(), 1u);
  EXPECT_EQ(kept.values[0].bytes, "three");
  EXPECT_EQ(table.kept_for_others(), 0u);
}

}  // namespace
}  // namespace sheaf::objstore::lineage_table_test
