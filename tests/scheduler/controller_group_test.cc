#include <gtest/gtest.h>

#include "machines.h"

namespace sheaf::scheduler::controller_group_test {
namespace {

using namespace testing;
using protocol::GroupState;
constexpr ProcessId kDriver = 2, kOther = 3;
const PlacementGroupId kGroup{1, 1}, kSecond{1, 2};
const NodeId kNode2{8, 8};

protocol::GroupCreate group_of(PlacementGroupId id, std::vector<ResourceMap> bundles) {
  protocol::GroupCreate spec;
  spec.group = id;
  spec.bundles = std::move(bundles);
  return spec;
}

class ControllerGroupTest : public ::testing::Test {
 protected:
  ControllerGroupTest() {
    bench.add_node();
    bench.add_driver(kDriver, "space");
    bench.sync();
    bench.log.clear();
  }
  const GroupInfo& group(const PlacementGroupId& id) { return bench.machine.groups().at(id); }

  ControllerBench bench;
};

TEST_F(ControllerGroupTest, IsReservedPushedAndRemoved) {
  const auto request = bench.ask(kDriver, group_of(kGroup, {cpus(1), cpus(1)}));
  EXPECT_TRUE(bench.answer(request));
  bench.post(kDriver, protocol::GroupSubscribe{kGroup});
  auto reserve = bench.to_node<ReserveGroup>();
  ASSERT_EQ(reserve.size(), 1u);
  EXPECT_EQ(reserve[0].bundles.size(), 2u);
  bench.take<PushGroupUpdate>();
  bench.report(GroupReserved{kGroup, reserve[0].attempt + 1, true});   // stale
  EXPECT_EQ(group(kGroup).state, GroupState::kPending);
  bench.report(GroupReserved{kGroup, reserve[0].attempt, true});
  auto push = bench.take<PushGroupUpdate>();
  ASSERT_EQ(push.size(), 1u);
  EXPECT_EQ(push[0].update.state, GroupState::kCreated);
  bench.ask(kDriver, protocol::GroupRemove{kGroup});
  auto release = bench.to_node<ReleaseGroup>();
  ASSERT_EQ(release.size(), 1u);
  EXPECT_TRUE(release[0].gone);
  EXPECT_EQ(bench.take<PushGroupUpdate>()[0].update.state, GroupState::kRemoved);
  bench.sync();
  for (const JournalRecord& record : bench.disk_records()) EXPECT_NE(record.kind,
                                                                    RecordKind::kGroup);
}

TEST_F(ControllerGroupTest, BadRequestsAreRefused) {
  EXPECT_EQ(bench.answer(bench.ask(kDriver, group_of(kGroup, {})))->code,
  StatusCode::kInvalidArgument);
  EXPECT_EQ(bench.answer(bench.ask(kDriver, group_of({}, {cpus(1)})))->code,
  StatusCode::kInvalidArgument);
  EXPECT_EQ(bench.answer(bench.ask(kDriver, group_of(kGroup, {{}})))->code,
  StatusCode::kInvalidArgument);
  auto named = group_of(kGroup, {cpus(1)});
  named.name = "g";
  EXPECT_EQ(bench.answer(bench.ask(kDriver, named))->code, StatusCode::kOk);
  named.group = kSecond;
  EXPECT_EQ(bench.answer(bench.ask(kDriver, named))->code, StatusCode::kAlreadyExists);
}

TEST_F(ControllerGroupTest, InfeasibleOneWaitsForANode) {
  auto spec = group_of(kGroup, {cpus(3), cpus(3)});
  spec.strategy = protocol::GroupStrategy::kStrictSpread;
  bench.ask(kDriver, spec);
  EXPECT_EQ(bench.take<WarnJob>().size(), 1u);
  EXPECT_TRUE(bench.to_node<ReserveGroup>().empty());
  bench.add_node(cpus(4), kNode2);
  EXPECT_EQ(bench.to_node<ReserveGroup>().size(), 2u);
  bench.report(GroupReserved{kGroup, 1, true});
  EXPECT_EQ(group(kGroup).state, GroupState::kPending);
  bench.report(GroupReserved{kGroup, 1, true}, kNode2);
  EXPECT_EQ(group(kGroup).state, GroupState::kCreated);
}

TEST_F(ControllerGroupTest, HalfAReservationIsGivenUpAndTriedAgain) {
  bench.add_node(cpus(4), kNode2);
  auto spec = group_of(kGroup, {cpus(3), cpus(3)});
  bench.ask(kDriver, spec);
  ASSERT_EQ(bench.to_node<ReserveGroup>().size(), 2u);
  bench.report(GroupReserved{kGroup, 1, true});
  bench.advance_by(1100ms);
  EXPECT_EQ(bench.to_node<ReleaseGroup>().size(), 2u);
  EXPECT_EQ(bench.to_node<ReserveGroup>().size(), 2u);
  bench.report(GroupReserved{kGroup, 1, true}, kNode2);   // the old attempt
  EXPECT_EQ(group(kGroup).state, GroupState::kPending);
  bench.report(GroupReserved{kGroup, 2, true});
  bench.report(GroupReserved{kGroup, 2, true}, kNode2);
  EXPECT_EQ(group(kGroup).state, GroupState::kCreated);
}

TEST_F(ControllerGroupTest, ActorsWaitForItAndEndWithIt) {
  bench.ask(kDriver, group_of(kGroup, {cpus(1)}));
  protocol::ActorSpec spec;
  spec.actor = ActorId::make(kDriver, 1);
  spec.placement.resources = cpus(1);
  spec.placement.strategy.kind = protocol::StrategyKind::kPlacementGroup;
  spec.placement.strategy.group = kGroup;
  bench.ask(kDriver, protocol::ActorCreate{spec});
  EXPECT_TRUE(bench.to_node<PlaceActor>().empty());
  bench.report(GroupReserved{kGroup, 1, true});
  EXPECT_EQ(bench.to_node<PlaceActor>().size(), 1u);
  bench.ask(kDriver, protocol::GroupRemove{kGroup});
  const ActorInfo& actor = bench.machine.actors().at(spec.actor);
  EXPECT_EQ(actor.state, protocol::ActorState::kDead);
  EXPECT_EQ(actor.cause.kind, protocol::ErrorKind::kActorPlacementGroupRemoved);
  spec.actor = ActorId::make(kDriver, 2);
  bench.ask(kDriver, protocol::ActorCreate{spec});
  EXPECT_EQ(bench.machine.actors().at(spec.actor).state, protocol::ActorState::kDead);
}

TEST_F(ControllerGroupTest, AgentsLearnOfGroupsThatAreGone) {
  bench.report(AskGroup{kGroup});
  EXPECT_EQ(bench.to_node<ReleaseGroup>().size(), 1u);
  bench.ask(kDriver, group_of(kSecond, {cpus(1)}));
  bench.report(AskGroup{kSecond});
  EXPECT_TRUE(bench.to_node<ReleaseGroup>().empty());
}

TEST_F(ControllerGroupTest, EndsWithItsJobUnlessDetached) {
  bench.ask(kDriver, group_of(kGroup, {cpus(1)}));
  auto detached = group_of(kSecond, {cpus(1)});
  detached.detached = true;
  detached.name = "kept";
  const auto request = bench.ask(kDriver, detached);
  EXPECT_FALSE(bench.answer(request));
  bench.sync();
  EXPECT_TRUE(bench.answer(request));
  bench.send(ClientLeft{kDriver, {}});
  EXPECT_EQ(group(kGroup).state, GroupState::kRemoved);
  EXPECT_EQ(group(kSecond).state, GroupState::kPending);
  bench.sync();

  ControllerBench next(bench);
  next.add_node();
  auto reserve = next.to_node<ReserveGroup>();
  ASSERT_EQ(reserve.size(), 1u);
  EXPECT_EQ(reserve[0].group, kSecond);
  next.add_driver(kOther);
  const auto removal = next.ask(kOther, protocol::GroupRemove{kSecond});
  EXPECT_FALSE(next.answer(removal));
  next.sync();
  EXPECT_TRUE(next.answer(removal));
  for (const JournalRecord& record : next.disk_records()) EXPECT_NE(record.kind,
                                                                    RecordKind::kGroup);
}

TEST_F(ControllerGroupTest, BundlesOfADrainedNodeGoElsewhere) {
  bench.ask(kDriver, group_of(kGroup, {cpus(1), cpus(1)}));
  bench.report(GroupReserved{kGroup, 1, true});
  bench.add_node(cpus(4), kNode2);
  bench.to_node<ReserveGroup>();
  bench.send(DrainAsked{1, true});
  bench.report(BundlesLeft{kGroup, 1, {1}});
  EXPECT_EQ(group(kGroup).state, GroupState::kRescheduling);
  auto reserve = bench.told<ReserveGroup>(kNode2);
  ASSERT_EQ(reserve.size(), 1u);
  ASSERT_EQ(reserve[0].bundles.size(), 1u);
  EXPECT_EQ(reserve[0].bundles[0].index, 1);
  bench.report(GroupReserved{kGroup, reserve[0].attempt, true}, kNode2);
  EXPECT_EQ(group(kGroup).state, GroupState::kCreated);
  EXPECT_EQ(group(kGroup).placed, (std::vector<NodeId>{kNode, kNode2}));
}

// A node answers, and dies before the others have answered too.
TEST_F(ControllerGroupTest, AHoleInAReservationIsFilled) {
  bench.add_node(cpus(4), kNode2);
  const NodeId third{9, 9};
  protocol::GroupCreate spread = group_of(kGroup, {cpus(1), cpus(1)});
  spread.strategy = protocol::GroupStrategy::kStrictSpread;
  bench.ask(kDriver, spread);
  bench.add_node(cpus(4), third);
  const std::vector<NodeId> placed = group(kGroup).placed;
  bench.report(GroupReserved{kGroup, 1, true}, placed[0]);
  bench.send(NodeLost{placed[0], {protocol::ErrorKind::kNodeDied, "gone", "", {}}});
  bench.to_node<ReserveGroup>();
  bench.report(GroupReserved{kGroup, 1, true}, placed[1]);
  EXPECT_NE(group(kGroup).state, GroupState::kCreated);
  auto reserve = bench.told<ReserveGroup>(third);
  ASSERT_EQ(reserve.size(), 1u);
  bench.report(GroupReserved{kGroup, reserve[0].attempt, true}, third);
  EXPECT_EQ(group(kGroup).state, GroupState::kCreated);
}

TEST_F(ControllerGroupTest, LostNodeMeansRescheduling) {
  bench.ask(kDriver, group_of(kGroup, {cpus(1)}));
  bench.report(GroupReserved{kGroup, 1, true});
  bench.send(NodeLost{kNode, {protocol::ErrorKind::kNodeDied, "gone", "", {}}});
  EXPECT_EQ(group(kGroup).state, GroupState::kRescheduling);
  bench.to_node<ReserveGroup>();
  bench.add_node(cpus(4), kNode2);
  auto reserve = bench.to_node<ReserveGroup>();
  ASSERT_EQ(reserve.size(), 1u);
  bench.report(GroupReserved{kGroup, reserve[0].attempt, true}, kNode2);
  EXPECT_EQ(group(kGroup).state, GroupState::kCreated);
}

}  // namespace
}  // namespace sheaf::scheduler::controller_group_test
