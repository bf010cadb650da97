// Membership: numbers, leases, deaths and their barriers, views.
#include <gtest/gtest.h>

#include "tests/scheduler/machines.h"

namespace sheaf::scheduler::controller_node_test {
namespace {

using namespace testing;
using protocol::ActorState;
using protocol::ErrorKind;

const NodeId kHead{1, 1}, kSecond{2, 2}, kThird{3, 3};

NodeJoin ask_of(NodeId node, uint16_t number = 0, uint16_t incarnation = 0) {
  NodeJoin join;
  join.node = node;
  join.number = number;
  join.incarnation = incarnation;
  join.total = cpus(2);
  return join;
}

protocol::ActorSpec spec_of(ActorId id, int32_t max_restarts = 0) {
  protocol::ActorSpec spec;
  spec.actor = id;
  spec.max_restarts = max_restarts;
  spec.placement.resources = cpus(1);
  spec.creation_resources = cpus(1);
  return spec;
}

TEST(ControllerNodeTest, ANumberGoesOutWhenItIsDurable) {
  ControllerBench bench;
  bench.add_node(cpus(2), kHead);
  bench.send(NodeAsks{ask_of(kSecond)});
  bench.send(NodeAsks{ask_of(kSecond)});   // it asks again while the disk is slow
  EXPECT_TRUE(bench.take<NodeAccepted>().empty());
  bench.sync();
  auto accepted = bench.take<NodeAccepted>();
  ASSERT_EQ(accepted.size(), 1u);
  EXPECT_EQ(accepted[0].number, 2);
  EXPECT_EQ(accepted[0].incarnation, 1);
  EXPECT_FALSE(accepted[0].member);
  bench.send(NodeAsks{ask_of(kSecond)});   // the answer was lost
  accepted = bench.take<NodeAccepted>();
  ASSERT_EQ(accepted.size(), 1u);
  EXPECT_EQ(accepted[0].number, 2);
}

TEST(ControllerNodeTest, ANumberThatIsNotStoredIsRefused) {
  ControllerBench bench;
  bench.send(NodeAsks{ask_of(kSecond)});
  bench.fail_journal();
  EXPECT_EQ(bench.take<NodeRefused>().size(), 1u);
  EXPECT_TRUE(bench.take<NodeAccepted>().empty());
}

TEST(ControllerNodeTest, NumbersAreNeverGivenOutTwice) {
  ControllerBench first;
  EXPECT_EQ(first.join(kSecond, cpus(2)), 2);
  first.send(NodeLost{kSecond, {ErrorKind::kNodeDied, "killed", "", {}}});
  EXPECT_EQ(first.join(kSecond, cpus(2)), 3);
  first.send(NodeLost{kSecond, {ErrorKind::kNodeDied, "killed", "", {}}});
  first.sync();
  ControllerBench second(first);
  EXPECT_EQ(second.join(kThird, cpus(2)), 4);
}

TEST(ControllerNodeTest, TwoNodesOfOneIdAndFencedLivesAreRefused) {
  ControllerBench bench;
  const uint16_t number = bench.join(kSecond, cpus(2));
  bench.take<NodeAccepted>();
  bench.send(NodeAsks{ask_of(kSecond)});
  auto refused = bench.take<NodeRefused>();
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].status.code(), StatusCode::kAlreadyExists);
  bench.send(NodeLost{kSecond, {ErrorKind::kNodeDied, "killed", "", {}}});
  bench.send(NodeAsks{ask_of(kSecond, number, 1)});
  refused = bench.take<NodeRefused>();
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].status.code(), StatusCode::kPermissionDenied);
  EXPECT_TRUE(bench.take<NodeAccepted>().empty());
  bench.send(ClusterClosing{});
  bench.send(NodeAsks{ask_of(kThird)});
  refused = bench.take<NodeRefused>();
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].status.code(), StatusCode::kDisconnected);
}

TEST(ControllerNodeTest, ASilentNodeIsDeclaredDeadAndTheOthersAreTold) {
  ControllerBench bench;
  bench.add_node(cpus(2), kHead);
  const uint16_t second = bench.join(kSecond, cpus(2)), third = bench.join(kThird, cpus(2));
  for (int i = 0; i < 19; ++i) {
    bench.advance_by(300ms);
    bench.send(NodeHeartbeat{third, 1, bench.now});
    if (i < 10) bench.send(NodeHeartbeat{second, 1, bench.now});
  }
  const auto renewed = bench.take<RenewLease>();
  ASSERT_EQ(renewed.size(), 29u);
  EXPECT_EQ(renewed.back().sent_at, bench.now);
  EXPECT_TRUE(bench.take<FenceNode>().empty());   // 3 s since the last one, not more
  bench.advance_by(310ms);
  const auto fenced = bench.take<FenceNode>();
  ASSERT_EQ(fenced.size(), 1u);
  EXPECT_EQ(fenced[0].number, second);
  EXPECT_EQ(fenced[0].cause.kind, ErrorKind::kNodeDied);
  auto gone = bench.to_node<NodeGone>();
  ASSERT_EQ(gone.size(), 2u);
  EXPECT_EQ(gone[0].number, second);
  bench.send(NodeHeartbeat{second, 1, bench.now});   // it wakes up
  EXPECT_TRUE(bench.take<RenewLease>().empty());
  bench.report(BarrierReached{gone[0].barrier}, kHead);
  EXPECT_TRUE(bench.to_node<BarrierClosed>().empty());
  bench.report(BarrierReached{gone[0].barrier}, kThird);
  EXPECT_EQ(bench.to_node<BarrierClosed>().size(), 2u);
  EXPECT_TRUE(bench.machine.barriers().empty());
}

TEST(ControllerNodeTest, ABarrierDoesNotWaitForTheDead) {
  ControllerBench bench;
  bench.add_node(cpus(2), kHead);
  bench.join(kSecond, cpus(2));
  bench.join(kThird, cpus(2));
  bench.send(NodeLost{kSecond, {}});
  auto gone = bench.told<NodeGone>(kHead);
  ASSERT_EQ(gone.size(), 1u);
  bench.report(BarrierReached{gone[0].barrier}, kHead);
  EXPECT_TRUE(bench.told<BarrierClosed>(kHead).empty());
  bench.send(NodeLost{kThird, {}});
  const auto closed = bench.told<BarrierClosed>(kHead);
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_EQ(closed[0].barrier, gone[0].barrier);
  gone = bench.told<NodeGone>(kHead);
  EXPECT_EQ(bench.machine.barriers().size(), 1u);
}

// The head stood still, not the nodes: it hears what they have sent before it judges them.
TEST(ControllerNodeTest, AHeadThatStoodStillHearsTheOthersFirst) {
  ControllerBench bench;
  const uint16_t second = bench.join(kSecond, cpus(2));
  bench.now += 3500ms;
  bench.send(ControllerTick{});
  EXPECT_TRUE(bench.take<FenceNode>().empty());
  bench.send(NodeHeartbeat{second, 1, bench.now});
  bench.advance_by(2900ms);
  EXPECT_TRUE(bench.take<FenceNode>().empty());
}

TEST(ControllerNodeTest, JobsOfADeadNodesDriversEnd) {
  ControllerBench bench;
  bench.add_node(cpus(2), kHead);
  const uint16_t second = bench.join(kSecond, cpus(2));
  const ProcessId driver = make_process(second, 1, 5);
  const JobId job = bench.add_driver(driver);
  const ProcessId here = make_process(1, 1, 5);
  const JobId other = bench.add_driver(here);
  bench.send(NodeLost{kSecond, {}});
  EXPECT_FALSE(bench.machine.jobs().at(job).alive);
  EXPECT_TRUE(bench.machine.jobs().at(other).alive);
  ASSERT_EQ(bench.told<EndJob>(kHead).size(), 1u);
  EXPECT_EQ(bench.told<ForgetJob>(kHead).size(), 1u);
}

TEST(ControllerNodeTest, JobsAreKnownEverywhereBeforeTheirWorkIs) {
  ControllerBench bench;
  bench.add_node(cpus(2), kHead);
  bench.join(kSecond, cpus(2));
  const JobId job = bench.add_driver(make_process(1, 1, 5), "space");
  auto started = bench.told<JobStarted>(kSecond);
  ASSERT_EQ(started.size(), 1u);
  EXPECT_EQ(started[0].job, job);
  EXPECT_EQ(started[0].spec.name_space, "space");
  bench.join(kThird, cpus(2));
  EXPECT_EQ(bench.told<JobStarted>(kThird).size(), 1u);
}

TEST(ControllerNodeTest, AnActorOfADeadNodeRestartsElsewhere) {
  ControllerBench bench;
  bench.add_node(cpus(1), kHead);
  const uint16_t second = bench.join(kSecond, cpus(2));
  const ProcessId driver = make_process(1, 1, 5);
  bench.add_driver(driver);
  for (uint64_t i = 1; i <= 2; ++i) {   // the head holds a driver's only CPU
    bench.post(driver, protocol::ActorCreate{spec_of({driver, i}, i == 2 ? 1 : 0)});
  }
  const auto on_second = bench.told<PlaceActor>(kSecond);
  ASSERT_EQ(on_second.size(), 1u);
  const ActorId id = on_second[0].actor;
  const ProcessId worker = make_process(second, 1, 9);
  bench.report(ActorAssigned{id, 0, worker}, kSecond);
  bench.send(ClientJoined{worker, protocol::ClientKind::kWorker, 1});
  bench.post(worker, protocol::ActorStarted{id, 0, true, {}});
  EXPECT_EQ(bench.machine.actors().at(id).state, ActorState::kAlive);
  bench.join(kThird, cpus(2));
  bench.send(NodeLost{kSecond, {ErrorKind::kNodeDied, "killed", "", {}}});
  const bool restarts = id.lo == 2;
  EXPECT_EQ(bench.machine.actors().at(id).state,
            restarts ? ActorState::kRestarting : ActorState::kDead);
  EXPECT_EQ(bench.machine.actors().at(id).cause.kind, ErrorKind::kNodeDied);
  EXPECT_EQ(bench.told<PlaceActor>(kThird).size(), restarts ? 1u : 0u);
}

TEST(ControllerNodeTest, ViewsHoldEverybodyAtFirstAndThenWhatChanged) {
  ControllerBench bench;
  bench.add_node(cpus(4), kHead);
  auto first = bench.told<ClusterView>(kHead);
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].nodes.size(), 1u);
  const uint16_t second = bench.join(kSecond, cpus(2), {{"zone", "b"}});
  first = bench.told<ClusterView>(kSecond);
  ASSERT_GE(first.size(), 1u);
  EXPECT_EQ(first[0].nodes.size(), 2u);
  bench.advance_by(200ms);
  bench.report(ReportResources{cpus(2), cpus(1)}, kSecond);
  bench.report(ReportResources{cpus(2), cpus(0.5)}, kSecond);
  bench.advance_by(200ms);
  const auto views = bench.told<ClusterView>(kHead);
  ASSERT_EQ(views.size(), 2u);   // the newcomer; then its load, once
  ASSERT_EQ(views[0].nodes.size(), 1u);
  EXPECT_EQ(views[0].nodes[0].labels.at("zone"), "b");
  EXPECT_TRUE(views[1].nodes.empty());
  ASSERT_EQ(views[1].loads.size(), 1u);
  EXPECT_EQ(views[1].loads[0].number, second);
  EXPECT_EQ(views[1].loads[0].available, cpus(0.5));
}

}  // namespace
}  // namespace sheaf::scheduler::controller_node_test
