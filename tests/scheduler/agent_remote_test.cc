// An agent among others: what it asks of them, what it grants to their clients, and their deaths.
#include <gtest/gtest.h>

#include "tests/scheduler/machines.h"

namespace sheaf::scheduler::agent_remote_test {
namespace {

using namespace testing;
using protocol::ErrorKind;
using protocol::StrategyKind;

const NodeId kSecond{2, 2}, kThird{3, 3};
const ProcessId kDriver = make_process(1, 1, 5);
const ProcessId kTheirs = make_process(2, 1, 5);

NodeView view_of(uint16_t number, ResourceMap total, ResourceMap available, Labels labels = {}) {
  return {NodeId{number, number}, number, 1, "host:1", "host", std::move(total),
          std::move(available), std::move(labels), false};
}

AgentConfig config() {
  AgentConfig config;
  config.number = 1;
  return config;
}

using Asks = std::map<uint16_t, uint32_t>;

// What each node was last asked for since the last call.
Asks asked_of(AgentBench& bench) {
  Asks out;
  for (const AskNode& ask : bench.take<AskNode>()) out[ask.number] = ask.request.backlog;
  return out;
}

class AgentRemoteTest : public ::testing::Test {
 protected:
  AgentRemoteTest() : bench(cpus(1), config()) { see({}); }
  void see(std::vector<NodeView> nodes) {
    nodes.push_back(view_of(1, cpus(1), cpus(1)));
    bench.send(FromController{ClusterView{std::move(nodes), {}}});
  }
  void ask(uint32_t backlog, protocol::SchedulingClass spec,
           std::map<uint16_t, uint64_t> bytes_at = {}) {
    bench.send(LeaseRequested{kDriver, 1, 1, std::move(spec), backlog, std::move(bytes_at)});
  }
  static protocol::SchedulingClass one_cpu() {
    protocol::SchedulingClass spec;
    spec.resources = cpus(1);
    return spec;
  }
  static protocol::SchedulingClass softly_at(const NodeId& node) {
    protocol::SchedulingClass spec = one_cpu();
    spec.strategy.kind = StrategyKind::kNodeAffinity;
    spec.strategy.soft = true;
    spec.strategy.node = to_hex(node);
    return spec;
  }
  Asks asked() { return asked_of(bench); }

  AgentBench bench;
};

TEST_F(AgentRemoteTest, LeasesCarryTheNodesNumber) {
  ask(1, one_cpu());
  const auto grants = bench.grants();
  ASSERT_EQ(grants.size(), 1u);
  EXPECT_EQ(grants[0].lease >> 48, 1u);
  EXPECT_TRUE(asked().empty());
}

TEST_F(AgentRemoteTest, WhatDoesNotFitHereIsAskedWhereThereIsRoom) {
  see({view_of(2, cpus(4), cpus(2)), view_of(3, cpus(4), cpus(4))});
  ask(10, one_cpu());
  EXPECT_EQ(asked(), (Asks{{2, 2}, {3, 4}}));
  EXPECT_EQ(bench.grants().size(), 1u);
  ask(9, one_cpu());
  EXPECT_TRUE(asked().empty());   // nothing has changed for them
}

TEST_F(AgentRemoteTest, GrantsFromElsewhereCountAndComeBackThere) {
  see({view_of(2, cpus(4), cpus(2))});
  ask(4, one_cpu());
  EXPECT_EQ(asked(), (Asks{{2, 2}}));
  EXPECT_EQ(bench.grants().size(), 1u);
  const uint64_t lease = uint64_t{2} << 48 | 1;
  bench.send(RemoteGrant{kDriver, 1, lease, 2, make_process(2, 1, 9)});
  EXPECT_TRUE(asked().empty());   // it counts by itself
  const FlowInfo& flow = bench.machine.flows().at({kDriver, 1});
  EXPECT_EQ(flow.backlog, 2u);
  EXPECT_EQ(flow.held_at.at(2), 1u);
  ask(0, one_cpu());
  EXPECT_EQ(asked(), (Asks{{2, 0}}));
  bench.send(LeaseReturned{kDriver, lease, false});
  const auto back = bench.take<ReturnToNode>();
  ASSERT_EQ(back.size(), 1u);
  EXPECT_EQ(back[0].number, 2);
  EXPECT_EQ(back[0].lease.lease, lease);
  EXPECT_TRUE(bench.machine.remote_leases().empty());
}

TEST_F(AgentRemoteTest, AWorkerThatDiesElsewhereTakesItsLeaseWithIt) {
  see({view_of(2, cpus(4), cpus(2))});
  protocol::SchedulingClass spec;
  spec.resources = cpus(2);
  ask(1, spec);
  EXPECT_EQ(asked(), (Asks{{2, 1}}));
  const ProcessId worker = make_process(2, 1, 9);
  bench.send(RemoteGrant{kDriver, 1, uint64_t{2} << 48 | 1, 2, worker});
  bench.send(ProcessDied{worker, {}, true});
  EXPECT_TRUE(bench.machine.remote_leases().empty());
  EXPECT_TRUE(bench.machine.flows().empty());
}

TEST_F(AgentRemoteTest, WhatThisNodeCanNeverRunWaitsAtOneThatCan) {
  protocol::SchedulingClass spec;
  spec.resources = gpus(1);
  see({view_of(2, cpus(4), cpus(4)), view_of(3, gpus(2), {})});
  ask(3, spec);
  EXPECT_EQ(asked(), (Asks{{3, 3}}));
  see({view_of(4, gpus(1), gpus(1))});   // a newcomer has room
  EXPECT_EQ(asked(), (Asks{{3, 1}, {4, 2}}));   // what it cannot take now waits at both
}

TEST_F(AgentRemoteTest, ANewViewMovesWhatStillWaits) {
  see({view_of(2, cpus(4), cpus(4))});
  ask(3, one_cpu());
  EXPECT_EQ(asked(), (Asks{{2, 2}}));
  bench.send(FromController{ClusterView{{}, {{2, cpus(0.5)}}}});
  EXPECT_EQ(asked(), (Asks{{2, 0}}));
  bench.send(FromController{ClusterView{{}, {{2, cpus(1)}}}});
  EXPECT_EQ(asked(), (Asks{{2, 1}}));
}

TEST_F(AgentRemoteTest, HardAffinityGoesToThatNodeOrIsRefused) {
  see({view_of(2, cpus(4), {})});
  protocol::SchedulingClass spec = one_cpu();
  spec.strategy.kind = StrategyKind::kNodeAffinity;
  spec.strategy.node = to_hex(kSecond);
  ask(2, spec);
  EXPECT_EQ(asked(), (Asks{{2, 2}}));
  EXPECT_TRUE(bench.grants().empty());   // not here, though there is room
  bench.send(FromController{NodeGone{kSecond, 2, 1, {}, 1}});
  const auto refused = bench.take<RefuseLease>();
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].error.kind, ErrorKind::kUnschedulable);

  spec.strategy.node = to_hex(kThird);   // it may be in the next view
  ask(1, spec);
  bench.advance_by(400ms);
  EXPECT_TRUE(bench.take<RefuseLease>().empty());
  see({view_of(3, cpus(4), cpus(4))});
  EXPECT_EQ(asked(), (Asks{{3, 1}}));
  spec.strategy.node = to_hex(NodeId{9, 9});
  bench.send(LeaseRequested{kDriver, 1, 2, spec, 1, {}});
  bench.advance_by(600ms);
  EXPECT_EQ(bench.take<RefuseLease>().size(), 1u);
}

TEST_F(AgentRemoteTest, SoftAffinityToANodeThatIsGoneRunsAnywhere) {
  see({view_of(2, cpus(4), {})});
  bench.send(FromController{NodeGone{kSecond, 2, 1, {}, 1}});
  ask(1, softly_at(kSecond));
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST_F(AgentRemoteTest, SoftAffinityAwaitsANodeThatTheNextViewMayBring) {
  ask(1, softly_at(kThird));
  bench.advance_by(400ms);
  EXPECT_TRUE(bench.grants().empty());   // though there is room
  see({view_of(2, cpus(4), cpus(4)), view_of(3, cpus(4), cpus(4))});
  EXPECT_EQ(asked(), (Asks{{3, 1}}));
  EXPECT_TRUE(bench.grants().empty());
}

TEST_F(AgentRemoteTest, SoftAffinityToANodeThatNeverComesAwaitsItOnce) {
  ask(1, softly_at(NodeId{9, 9}));
  bench.advance_by(600ms);
  const auto grants = bench.grants();
  ASSERT_EQ(grants.size(), 1u);
  bench.send(LeaseReturned{kDriver, grants[0].lease, false});
  ask(1, softly_at(NodeId{9, 9}));
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST_F(AgentRemoteTest, SpreadTakesTurns) {
  see({view_of(2, cpus(4), cpus(4)), view_of(3, cpus(4), cpus(4))});
  protocol::SchedulingClass spec;
  spec.resources = cpus(0.1);
  spec.strategy.kind = StrategyKind::kSpread;
  ask(9, spec);
  EXPECT_EQ(asked(), (Asks{{2, 3}, {3, 3}}));
  EXPECT_EQ(bench.grants().size(), 3u);
}

// One task at a time, each given back before the next: they go round all the same.
TEST_F(AgentRemoteTest, SpreadGoesRoundWithSingleTasksToo) {
  see({view_of(2, cpus(4), cpus(4))});
  protocol::SchedulingClass spec;
  spec.resources = cpus(0.1);
  spec.strategy.kind = StrategyKind::kSpread;
  std::vector<int> turns;
  uint64_t next = 1;
  for (int i = 0; i < 4; ++i) {
    ask(1, spec);
    const auto grants = bench.grants();
    uint64_t lease = grants.empty() ? uint64_t{2} << 48 | next++ : grants[0].lease;
    if (grants.empty()) {
      ASSERT_EQ(asked(), (Asks{{2, 1}}));
      bench.send(RemoteGrant{kDriver, 1, lease, 2, make_process(2, 1, 9)});
    }
    turns.push_back(grants.empty() ? 2 : 1);
    bench.send(LeaseReturned{kDriver, lease, false});
  }
  EXPECT_NE(turns[0], turns[1]);
  EXPECT_EQ(turns[0], turns[2]);
  EXPECT_EQ(turns[1], turns[3]);
}

TEST_F(AgentRemoteTest, TasksGoToTheirArgumentsWhileThereIsRoom) {
  see({view_of(2, cpus(4), cpus(4)), view_of(3, cpus(4), cpus(1))});
  ask(1, one_cpu(), {{1, 1000}, {2, 10}, {3, 100 << 20}});
  EXPECT_EQ(asked(), (Asks{{3, 1}}));
  EXPECT_TRUE(bench.grants().empty());
  bench.advance_by(100ms);   // it did not answer: here will do
  EXPECT_EQ(bench.grants().size(), 1u);
  EXPECT_EQ(asked(), (Asks{{3, 0}}));
}

TEST_F(AgentRemoteTest, SoftLabelsComeBeforeThisNode) {
  see({view_of(2, cpus(4), cpus(4), {{"kind", "big"}})});
  protocol::SchedulingClass spec = one_cpu();
  spec.strategy.soft_labels = {{"kind", "big"}};
  ask(1, spec);
  EXPECT_EQ(asked(), (Asks{{2, 1}}));
}

class AgentWithGpusTest : public ::testing::Test {
 protected:
  AgentWithGpusTest() : bench({{"CPU", 2 * kResourceUnit}, {"GPU", kResourceUnit}}, config()) {
    see();
  }
  void see() {
    const ResourceMap gpus{{"CPU", 2 * kResourceUnit}, {"GPU", kResourceUnit}};
    bench.send(FromController{
        ClusterView{{view_of(1, gpus, gpus), view_of(2, gpus, gpus), view_of(3, cpus(2), cpus(2))},
                    {}}});
  }
  Asks ask(uint32_t backlog, ResourceMap resources,
           std::map<uint16_t, uint64_t> bytes_at = {}) {
    protocol::SchedulingClass spec;
    spec.resources = std::move(resources);
    bench.send(LeaseRequested{kDriver, 1, 1, std::move(spec), backlog, std::move(bytes_at)});
    return asked_of(bench);
  }

  AgentBench bench;
};

TEST_F(AgentWithGpusTest, WorkWithoutGpusGoesWhereThereAreNone) {
  EXPECT_EQ(ask(1, cpus(1)), (Asks{{3, 1}}));
  bench.advance_by(100ms);
  EXPECT_TRUE(bench.grants().empty());
  bench.advance_by(900ms);   // it did not answer: here will do
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST_F(AgentWithGpusTest, ThenHereAndThenToOthersWithGpus) {
  EXPECT_EQ(ask(6, cpus(1)), (Asks{{2, 2}, {3, 2}}));
  EXPECT_EQ(bench.grants().size(), 2u);
}

TEST_F(AgentWithGpusTest, GpuWorkStays) {
  EXPECT_TRUE(ask(1, {{"CPU", kResourceUnit}, {"GPU", kResourceUnit}}).empty());
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST_F(AgentWithGpusTest, DataHoldsWorkHere) {
  EXPECT_TRUE(ask(1, cpus(1), {{1, 1 << 20}, {3, 1000}}).empty());
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST_F(AgentRemoteTest, GroupsAreAskedWhereTheirBundlesAre) {
  see({view_of(2, cpus(4), {}), view_of(3, cpus(4), {})});
  protocol::SchedulingClass spec = one_cpu();
  spec.strategy.kind = StrategyKind::kPlacementGroup;
  spec.strategy.group = {7, 7};
  spec.strategy.bundle = 1;
  ask(2, spec);
  EXPECT_EQ(bench.reports<AskGroup>().size(), 1u);
  EXPECT_TRUE(asked().empty());
  bench.send(FromController{GroupPlaced{{7, 7}, {2, 3}}});
  EXPECT_EQ(asked(), (Asks{{3, 2}}));
  bench.send(FromController{NodeGone{kThird, 3, 1, {}, 1}});
  EXPECT_TRUE(asked().empty());
  bench.send(FromController{GroupPlaced{{7, 7}, {2, 2}}});
  EXPECT_EQ(asked(), (Asks{{2, 2}}));
  bench.send(FromController{ReleaseGroup{{7, 7}, true, {}}});
  EXPECT_EQ(bench.take<RefuseLease>().size(), 1u);
  EXPECT_EQ(asked(), (Asks{{2, 0}}));
}

TEST_F(AgentRemoteTest, ANodeThatCannotStartWorkersIsLeftAlone) {
  see({view_of(2, cpus(2), cpus(2)), view_of(3, cpus(2), cpus(2))});
  protocol::SchedulingClass spec;
  spec.resources = cpus(2);
  ask(1, spec);
  EXPECT_EQ(asked(), (Asks{{2, 1}}));
  bench.send(RemoteRefused{kDriver, 1, 2, {ErrorKind::kSystem, "no fork", "", {}}});
  EXPECT_EQ(asked(), (Asks{{3, 1}}));
  EXPECT_TRUE(bench.take<RefuseLease>().empty());
  bench.send(RemoteRefused{kDriver, 1, 3, {ErrorKind::kRuntimeEnvSetup, "no pip", "", {}}});
  EXPECT_EQ(bench.take<RefuseLease>().size(), 1u);
}

TEST_F(AgentRemoteTest, ClientsOfOtherNodesAreServedAndNeverSentOn) {
  see({view_of(2, cpus(4), cpus(4))});
  bench.send(LeaseRequested{kTheirs, 1, 1, one_cpu(), 3, {}});
  const auto grants = bench.grants();
  ASSERT_EQ(grants.size(), 1u);
  EXPECT_EQ(grants[0].client, kTheirs);
  EXPECT_TRUE(asked().empty());
  bench.send(FromController{NodeGone{kSecond, 2, 1, {}, 1}});
  const auto killed = bench.take<KillWorker>();
  ASSERT_EQ(killed.size(), 1u);
  EXPECT_EQ(killed[0].process, grants[0].worker);
  bench.send(ProcessDied{grants[0].worker, {}, true});
  EXPECT_TRUE(bench.machine.flows().empty());
  EXPECT_EQ(bench.free("CPU"), kResourceUnit);
}

TEST_F(AgentRemoteTest, ADrainedNodeAsksOthersForAll) {
  see({view_of(2, cpus(4), cpus(4))});
  bench.send(FromController{DrainNode{true}});
  const auto reports = bench.reports<ReportResources>();
  ask(2, one_cpu());
  EXPECT_EQ(asked(), (Asks{{2, 2}}));
  EXPECT_TRUE(bench.grants().empty());
  bench.send(FromController{DrainNode{false}});
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST_F(AgentRemoteTest, AGroupGrowsWhenBundlesOfItComeBackHere) {
  AgentBench node(cpus(3), config());
  node.send(FromController{ReserveGroup{{7, 7}, 1, {{0, cpus(1)}}}});
  node.send(FromController{ReserveGroup{{7, 7}, 2, {{1, cpus(1)}}}});
  EXPECT_EQ(node.reports<GroupReserved>().size(), 2u);
  EXPECT_EQ(node.machine.groups().at({7, 7}).bundles.size(), 2u);
  node.send(FromController{ReleaseGroup{{7, 7}, false, {1}}});
  EXPECT_EQ(node.machine.groups().at({7, 7}).bundles.size(), 1u);
  EXPECT_EQ(node.free("CPU"), 2 * kResourceUnit);
  node.send(FromController{ReleaseGroup{{7, 7}, true, {}}});
  EXPECT_TRUE(node.machine.groups().empty());
}

TEST_F(AgentRemoteTest, ADrainedNodeLeavesBundlesThatNobodyUses) {
  AgentBench node(cpus(3), config());
  node.send(FromController{ReserveGroup{{7, 7}, 1, {{0, cpus(1)}, {1, cpus(1)}}}});
  protocol::SchedulingClass inside = one_cpu();
  inside.strategy.kind = StrategyKind::kPlacementGroup;
  inside.strategy.group = {7, 7};
  inside.strategy.bundle = 1;
  node.send(LeaseRequested{kDriver, 1, 1, inside, 1});
  const auto grants = node.grants();
  ASSERT_EQ(grants.size(), 1u);
  node.send(FromController{DrainNode{true}});
  auto left = node.reports<BundlesLeft>();
  ASSERT_EQ(left.size(), 1u);
  EXPECT_EQ(left[0].bundles, (std::vector<int32_t>{0}));
  EXPECT_EQ(node.machine.groups().at({7, 7}).bundles.size(), 1u);
  node.send(LeaseReturned{kDriver, grants[0].lease, false});
  left = node.reports<BundlesLeft>();
  ASSERT_EQ(left.size(), 1u);
  EXPECT_EQ(left[0].bundles, (std::vector<int32_t>{1}));
  EXPECT_TRUE(node.machine.groups().empty());
  EXPECT_EQ(node.free("CPU"), 3 * kResourceUnit);
}

TEST_F(AgentRemoteTest, InALargeClusterItSaysWhatItLooksFor) {
  std::vector<NodeView> views;
  for (uint16_t number = 2; number <= kNodesInFullViews + 2; ++number) {
    views.push_back(view_of(number, cpus(4), {}, {{"zone", number == 9 ? "a" : "b"}}));
  }
  see(std::move(views));
  bench.advance_by(200ms);
  bench.reports<ReportResources>();
  ask(5, one_cpu(), {{7, 1 << 20}});
  EXPECT_EQ(asked(), Asks());   // of nobody is anything known
  bench.grants();
  bench.advance_by(200ms);
  auto reports = bench.reports<ReportResources>();
  ASSERT_FALSE(reports.empty());
  ASSERT_EQ(reports.back().wanted.size(), 1u);
  EXPECT_EQ(reports.back().wanted[0].resources, cpus(1));
  EXPECT_EQ(reports.back().wanted[0].count, 4u);
  EXPECT_EQ(reports.back().named, (std::vector<uint16_t>{7}));
  bench.send(FromController{ClusterView{{}, {{30, cpus(3)}}}});
  EXPECT_EQ(asked(), (Asks{{30, 3}}));
  bench.send(FromController{ClusterView{{}, {{30, {}}, {31, cpus(4)}}}});
  EXPECT_EQ(asked(), (Asks{{30, 0}, {31, 4}}));
  ask(0, one_cpu());
  bench.advance_by(200ms);
  reports = bench.reports<ReportResources>();
  ASSERT_FALSE(reports.empty());
  EXPECT_TRUE(reports.back().wanted.empty());
}

TEST_F(AgentRemoteTest, AWaitingActorIsGivenBackAndARunningOneIsNot) {
  auto spec = std::make_shared<protocol::ActorSpec>();
  spec->actor = {1, 1};
  spec->placement.resources = cpus(2);
  bench.send(FromController{PlaceActor{{1, 1}, 4, 1, spec, false}});
  bench.send(FromController{TakeBackActor{{1, 1}, 3}});
  EXPECT_TRUE(bench.reports<ActorTakenBack>().empty());
  bench.send(FromController{TakeBackActor{{1, 1}, 4}});
  EXPECT_EQ(bench.reports<ActorTakenBack>().size(), 1u);
  EXPECT_TRUE(bench.machine.actors().empty());
  EXPECT_TRUE(bench.machine.waiting().empty());
}

}  // namespace
}  // namespace sheaf::scheduler::agent_remote_test
