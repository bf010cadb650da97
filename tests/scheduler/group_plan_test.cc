#include "scheduler/group_plan.h"

#include <gtest/gtest.h>

#include <set>

#include "machines.h"

namespace sheaf::scheduler::group_plan_test {
namespace {

using namespace testing;
using protocol::GroupStrategy;
const NodeId kA{1, 1}, kB{2, 2}, kC{3, 3};

std::vector<PlanNode> nodes(double a, double b, double c) {
  return {{kA, cpus(a), cpus(8), {{"rack", "1"}}},
          {kB, cpus(b), cpus(8), {{"rack", "1"}}},
          {kC, cpus(c), cpus(8), {{"rack", "2"}}}};
}

std::optional<std::vector<NodeId>> plan(GroupStrategy strategy, std::vector<ResourceMap> bundles,
                                        const std::vector<PlanNode>& on) {
  protocol::GroupCreate spec;
  spec.strategy = strategy;
  spec.bundles = std::move(bundles);
  return plan_group(spec, std::vector<NodeId>(spec.bundles.size()), on);
}

TEST(GroupPlanTest, PackUsesOneNodeWhenOneHasRoom) {
  EXPECT_EQ(plan(GroupStrategy::kPack, {cpus(2), cpus(2)}, nodes(3, 4, 8)),
            (std::vector<NodeId>{kB, kB}));
  auto two = plan(GroupStrategy::kPack, {cpus(3), cpus(3), cpus(3)}, nodes(3, 6, 0));
  ASSERT_TRUE(two);
  EXPECT_EQ(std::set<NodeId>(two->begin(), two->end()), (std::set<NodeId>{kA, kB}));
}

TEST(GroupPlanTest, StrictPackIsOneNodeOrNone) {
  EXPECT_EQ(plan(GroupStrategy::kStrictPack, {cpus(4), cpus(4)}, nodes(4, 4, 8)),
            (std::vector<NodeId>{kC, kC}));
  EXPECT_FALSE(plan(GroupStrategy::kStrictPack, {cpus(8), cpus(1)}, nodes(8, 8, 8)));
}

TEST(GroupPlanTest, SpreadUsesManyAndStrictSpreadAllDifferent) {
  auto spread = plan(GroupStrategy::kSpread, {cpus(1), cpus(1), cpus(1), cpus(1)}, nodes(4, 4, 4));
  ASSERT_TRUE(spread);
  EXPECT_EQ(std::set<NodeId>(spread->begin(), spread->end()).size(), 3u);
  EXPECT_FALSE(plan(GroupStrategy::kStrictSpread, {cpus(1), cpus(1), cpus(1), cpus(1)}, nodes(4,
                                                                                              4,
                                                                                              4)));
  EXPECT_TRUE(plan(GroupStrategy::kStrictSpread, {cpus(1), cpus(1), cpus(1)}, nodes(4, 4, 4)));
}

TEST(GroupPlanTest, CountsOnResourcesInUseWhenNothingElseWouldDo) {
  EXPECT_EQ(plan(GroupStrategy::kStrictPack, {cpus(8)}, nodes(0, 0, 0)), (std::vector<NodeId>{kA}));
  EXPECT_FALSE(plan(GroupStrategy::kPack, {cpus(9)}, nodes(8, 8, 8)));
}

TEST(GroupPlanTest, BundleLabelsAndKeptBundlesAreRespected) {
  protocol::GroupCreate spec;
  spec.bundles = {cpus(1), cpus(1)};
  spec.bundle_labels = {{{"rack", "2"}}, {{"rack", "!2"}}};
  EXPECT_EQ(plan_group(spec, {NodeId{}, NodeId{}}, nodes(8, 8, 8)), (std::vector<NodeId>{kC, kA}));
  spec.bundle_labels = {};
  spec.strategy = GroupStrategy::kStrictSpread;
  EXPECT_EQ(plan_group(spec, {kA, NodeId{}}, nodes(8, 8, 8)), (std::vector<NodeId>{kA, kB}));
}

}  // namespace
}  // namespace sheaf::scheduler::group_plan_test
