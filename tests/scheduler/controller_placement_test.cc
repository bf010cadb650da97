// Actors and groups over several nodes, and what a restarted controller takes over from them.
#include <gtest/gtest.h>

#include "tests/scheduler/machines.h"

namespace sheaf::scheduler::controller_placement_test {
namespace {

using namespace testing;
using protocol::ActorState;
using protocol::ErrorKind;
using protocol::GroupState;
using protocol::StrategyKind;

const NodeId kHead{1, 1}, kSecond{2, 2}, kThird{3, 3};
const ProcessId kDriver = make_process(1, 1, 5);

class ControllerPlacementTest : public ::testing::Test {
 protected:
  ControllerPlacementTest() {
    bench.add_node(cpus(4), kHead);
    second = bench.join(kSecond, cpus(4), {{"kind", "big"}});
    bench.add_driver(kDriver);
  }
  protocol::ActorSpec actor(ResourceMap resources = cpus(1)) {
    protocol::ActorSpec spec;
    spec.actor = ActorId::make(kDriver, next++);
    spec.placement.resources = std::move(resources);
    spec.creation_resources = cpus(1);
    return spec;
  }
  // Where it was sent.
  std::vector<NodeId> place(const protocol::ActorSpec& spec) {
    bench.take<ToNode>();
    bench.post(kDriver, protocol::ActorCreate{spec});
    std::vector<NodeId> out;
    for (const ToNode& action : bench.take<ToNode>()) {
      if (std::holds_alternative<PlaceActor>(action.message)) out.push_back(action.node);
    }
    return out;
  }

  ControllerBench bench;
  uint16_t second = 0;
  uint64_t next = 1;
};

TEST_F(ControllerPlacementTest, ActorsStayWithTheirCreatorUntilItIsHalfFullAndThenSpread) {
  std::map<NodeId, int> count;
  for (int i = 0; i < 6; ++i) {
    for (const NodeId& node : place(actor())) ++count[node];
  }
  EXPECT_EQ(count[kHead], 3);
  EXPECT_EQ(count[kSecond], 3);
}

TEST_F(ControllerPlacementTest, ActorsWithoutGpusLeaveThemToOthers) {
  ResourceMap with_gpu = cpus(4);
  with_gpu["GPU"] = kResourceUnit;
  bench.join(kThird, with_gpu);
  const ProcessId creator = make_process(3, 1, 5);
  bench.add_driver(creator);
  protocol::ActorSpec spec = actor();
  spec.actor = ActorId::make(creator, 1);
  EXPECT_NE(place(spec), std::vector{kThird});
  spec = actor();
  spec.placement.resources["GPU"] = kResourceUnit;
  EXPECT_EQ(place(spec), std::vector{kThird});
}

TEST_F(ControllerPlacementTest, SpreadTakesTheNodeWithTheFewest) {
  std::map<NodeId, int> count;
  for (int i = 0; i < 4; ++i) {
    protocol::ActorSpec spec = actor({});
    spec.placement.strategy.kind = StrategyKind::kSpread;
    for (const NodeId& node : place(spec)) ++count[node];
  }
  EXPECT_EQ(count[kHead], 2);
  EXPECT_EQ(count[kSecond], 2);
}

TEST_F(ControllerPlacementTest, AffinityAndLabelsDecide) {
  protocol::ActorSpec spec = actor();
  spec.placement.strategy.kind = StrategyKind::kNodeAffinity;
  spec.placement.strategy.node = to_hex(kSecond);
  EXPECT_EQ(place(spec), std::vector{kSecond});
  spec = actor();
  spec.placement.strategy.hard_labels = {{"kind", "big"}};
  EXPECT_EQ(place(spec), std::vector{kSecond});
  spec = actor();
  spec.placement.strategy.kind = StrategyKind::kNodeAffinity;
  spec.placement.strategy.node = to_hex(kThird);
  EXPECT_TRUE(place(spec).empty());
  EXPECT_EQ(bench.machine.actors().at(spec.actor).cause.kind, ErrorKind::kUnschedulable);
  spec = actor();
  spec.placement.strategy.kind = StrategyKind::kNodeAffinity;
  spec.placement.strategy.node = to_hex(kThird);
  spec.placement.strategy.soft = true;
  EXPECT_EQ(place(spec).size(), 1u);
}

TEST_F(ControllerPlacementTest, WhoWaitsAtAFullNodeMovesWhereThereIsRoom) {
  bench.report(ReportResources{cpus(4), {}}, kHead);
  bench.report(ReportResources{cpus(4), {}}, kSecond);
  const protocol::ActorSpec spec = actor();
  const auto waits_at = place(spec);
  ASSERT_EQ(waits_at.size(), 1u);
  const NodeId other = waits_at[0] == kHead ? kSecond : kHead;
  bench.report(ReportResources{cpus(4), cpus(2)}, other);
  const auto back = bench.told<TakeBackActor>(waits_at[0]);
  ASSERT_EQ(back.size(), 1u);
  EXPECT_TRUE(bench.to_node<PlaceActor>().empty());   // not before the first has let go
  bench.report(ActorTakenBack{spec.actor, 0}, waits_at[0]);
  EXPECT_EQ(bench.told<PlaceActor>(other).size(), 1u);
}

TEST_F(ControllerPlacementTest, ADrainedNodeGetsNothingAndGivesBackWhatWaits) {
  protocol::ActorSpec spec = actor();
  spec.placement.strategy.hard_labels = {{"kind", "big"}};
  ASSERT_EQ(place(spec), std::vector{kSecond});
  bench.send(DrainAsked{second, true});
  EXPECT_EQ(bench.told<TakeBackActor>(kSecond).size(), 1u);
  for (int i = 0; i < 6; ++i) {
    for (const NodeId& node : place(actor())) EXPECT_EQ(node, kHead);
  }
}

// ---- Groups

protocol::GroupCreate group_of(size_t bundles, protocol::GroupStrategy strategy) {
  protocol::GroupCreate spec;
  spec.group = PlacementGroupId::make(kDriver, 100);
  spec.bundles.assign(bundles, cpus(1));
  spec.strategy = strategy;
  return spec;
}

TEST_F(ControllerPlacementTest, AStrictlySpreadGroupIsRescheduledWhenANodeIsLost) {
  const auto spec = group_of(2, protocol::GroupStrategy::kStrictSpread);
  bench.post(kDriver, spec);
  bench.post(kDriver, protocol::GroupSubscribe{spec.group});
  bench.report(AskGroup{spec.group}, kHead);
  const auto& group = bench.machine.groups().at(spec.group);
  bench.report(GroupReserved{spec.group, group.attempt, true}, kHead);
  EXPECT_TRUE(bench.told<GroupPlaced>(kHead).empty());
  bench.report(GroupReserved{spec.group, group.attempt, true}, kSecond);
  EXPECT_EQ(group.state, GroupState::kCreated);
  auto placed = bench.told<GroupPlaced>(kHead);
  ASSERT_EQ(placed.size(), 1u);
  EXPECT_EQ(std::set(placed[0].nodes.begin(), placed[0].nodes.end()),
            (std::set<uint16_t>{1, second}));

  bench.take<ToNode>();
  bench.send(NodeLost{kSecond, {}});
  EXPECT_EQ(group.state, GroupState::kRescheduling);
  EXPECT_TRUE(bench.to_node<ReleaseGroup>().empty());   // the other bundle stays as it is
  const uint16_t third = bench.join(kThird, cpus(2));
  const auto reserve = bench.told<ReserveGroup>(kThird);
  ASSERT_EQ(reserve.size(), 1u);
  ASSERT_EQ(reserve[0].bundles.size(), 1u);
  bench.report(GroupReserved{spec.group, reserve[0].attempt, true}, kThird);
  EXPECT_EQ(group.state, GroupState::kCreated);
  placed = bench.told<GroupPlaced>(kHead);
  ASSERT_FALSE(placed.empty());
  EXPECT_EQ(std::count(placed.back().nodes.begin(), placed.back().nodes.end(), third), 1);
}

TEST_F(ControllerPlacementTest, OnlyTheNewBundlesOfARescheduleAreGivenUp) {
  const auto spec = group_of(2, protocol::GroupStrategy::kStrictSpread);
  bench.post(kDriver, spec);
  const auto& group = bench.machine.groups().at(spec.group);
  bench.report(GroupReserved{spec.group, group.attempt, true}, kHead);
  bench.report(GroupReserved{spec.group, group.attempt, true}, kSecond);
  bench.send(NodeLost{kSecond, {}});
  bench.join(kThird, cpus(2));
  bench.take<ToNode>();
  bench.report(GroupReserved{spec.group, group.attempt, false}, kThird);
  for (const ToNode& action : bench.take<ToNode>()) {
    if (!std::holds_alternative<ReleaseGroup>(action.message)) continue;
    EXPECT_EQ(action.node, kThird);
    EXPECT_EQ(std::get<ReleaseGroup>(action.message).bundles.size(), 1u);
  }
}

TEST_F(ControllerPlacementTest, ActorsOfAGroupGoWhereItHasRoomLeft) {
  const auto spec = group_of(2, protocol::GroupStrategy::kStrictSpread);
  bench.post(kDriver, spec);
  const auto& group = bench.machine.groups().at(spec.group);
  bench.report(GroupReserved{spec.group, group.attempt, true}, kHead);
  bench.report(GroupReserved{spec.group, group.attempt, true}, kSecond);
  std::set<NodeId> nodes;
  for (int i = 0; i < 2; ++i) {
    protocol::ActorSpec member = actor();
    member.placement.strategy.kind = StrategyKind::kPlacementGroup;
    member.placement.strategy.group = spec.group;
    for (const NodeId& node : place(member)) nodes.insert(node);
  }
  EXPECT_EQ(nodes, (std::set{kHead, kSecond}));
}

// ---- After a restart

TEST_F(ControllerPlacementTest, ARestartedControllerTakesOverWhatLivesOnOtherNodes) {
  const ProcessId driver = make_process(second, 1, 7);
  const JobId job = bench.add_driver(driver);
  protocol::ActorSpec plain = actor(), kept = actor({}), lost = actor({});
  kept.detached = lost.detached = true;
  lost.max_restarts = 1;
  kept.name = "kept";
  for (const auto& spec : {kept, lost}) bench.post(driver, protocol::ActorCreate{spec});
  bench.sync();

  ControllerBench next_life(bench);
  next_life.add_node(cpus(4), kHead);
  EXPECT_TRUE(next_life.machine.restoring());
  EXPECT_EQ(next_life.machine.actors().at(kept.actor).state, ActorState::kRestarting);
  EXPECT_TRUE(next_life.to_node<PlaceActor>().empty());

  NodeJoin join;
  join.node = kSecond;
  join.number = second;
  join.incarnation = 1;
  join.total = cpus(4);
  const ProcessId worker = make_process(second, 1, 8), other = make_process(second, 1, 9);
  join.actors.push_back({kept.actor, 0, worker, job, true,
                         std::make_shared<protocol::ActorSpec>(kept)});
  join.actors.push_back({plain.actor, 3, other, job, true,
                         std::make_shared<protocol::ActorSpec>(plain)});
  join.clients.push_back(
      {driver, protocol::ClientKind::kDriver, job, {plain.actor}, {}, {}, {}, {}, 0});
  next_life.send(NodeAsks{join});
  EXPECT_FALSE(next_life.machine.restoring());
  const auto& actors = next_life.machine.actors();
  EXPECT_EQ(actors.at(kept.actor).state, ActorState::kAlive);
  EXPECT_EQ(actors.at(kept.actor).process, worker);
  EXPECT_EQ(actors.at(plain.actor).state, ActorState::kAlive);
  EXPECT_EQ(actors.at(plain.actor).incarnation, 3u);
  EXPECT_TRUE(actors.at(plain.actor).holders.contains(driver));
  EXPECT_TRUE(next_life.machine.jobs().at(job).alive);
  // Nobody has the third: it starts again, with a number that no earlier life has given out.
  EXPECT_EQ(actors.at(lost.actor).state, ActorState::kRestarting);
  const auto placed = next_life.to_node<PlaceActor>();
  ASSERT_EQ(placed.size(), 1u);
  EXPECT_EQ(placed[0].actor, lost.actor);
  EXPECT_GE(placed[0].incarnation, 2u << 16);
  next_life.advance_by(200ms);
  EXPECT_EQ(actors.at(plain.actor).state, ActorState::kAlive);
}

TEST_F(ControllerPlacementTest, NodesThatDoNotComeBackAreDeclaredDead) {
  protocol::ActorSpec kept = actor({});
  kept.detached = true;
  bench.post(kDriver, protocol::ActorCreate{kept});
  bench.sync();
  const NodeId at = bench.machine.actors().at(kept.actor).node;
  const ProcessId worker = make_process(at == kHead ? 1 : second, 1, 9);
  bench.send(ClientJoined{worker, protocol::ClientKind::kWorker, 1});
  bench.report(ActorAssigned{kept.actor, 0, worker}, at);
  bench.post(worker, protocol::ActorStarted{kept.actor, 0, true, {}});
  EXPECT_NE(bench.machine.actors().at(kept.actor).state, ActorState::kAlive) << "not on disk yet";
  bench.sync();
  EXPECT_EQ(bench.machine.actors().at(kept.actor).state, ActorState::kAlive);
  ControllerBench next_life(bench);
  next_life.add_node(cpus(4), kHead);
  next_life.advance_by(2900ms);
  EXPECT_TRUE(next_life.machine.restoring());
  next_life.advance_by(200ms);
  EXPECT_FALSE(next_life.machine.restoring());
  const auto fenced = next_life.take<FenceNode>();
  ASSERT_EQ(fenced.size(), 1u);
  EXPECT_EQ(fenced[0].number, second);
  EXPECT_EQ(next_life.machine.actors().at(kept.actor).state, ActorState::kDead);
  NodeJoin late;
  late.node = kSecond;
  late.number = second;
  late.incarnation = 1;
  next_life.send(NodeAsks{late});
  EXPECT_EQ(next_life.take<NodeRefused>().size(), 1u);
}

}  // namespace
}  // namespace sheaf::scheduler::controller_placement_test
