// What a controller that restarts knows of the life before: from its journal and from the nodes
// that come back.
#include <gtest/gtest.h>

#include "tests/scheduler/machines.h"

namespace sheaf::scheduler::controller_restart_test {
namespace {

using namespace testing;
using protocol::ActorState;
using protocol::GroupState;

const NodeId kHead{1, 1}, kSecond{2, 2}, kThird{3, 3};

class ControllerRestartTest : public ::testing::Test {
 protected:
  ControllerRestartTest() {
    bench.add_node(cpus(4), kHead);
    second = bench.join(kSecond, cpus(4));
    driver = make_process(second, 1, 7);
    job = bench.add_driver(driver);
    bench.sync();
  }
  protocol::ActorSpec actor(ResourceMap resources = {}) {
    protocol::ActorSpec spec;
    spec.actor = ActorId::make(driver, next++);
    spec.placement.resources = std::move(resources);
    return spec;
  }
  NodeJoin back(NodeId node, uint16_t number) {
    NodeJoin join;
    join.node = node;
    join.number = number;
    join.incarnation = 1;
    join.total = cpus(4);
    return join;
  }
  // The second node with its driver, who brings these actors along.
  NodeJoin with_driver(std::vector<CreatedActor> created) {
    NodeJoin join = back(kSecond, second);
    LiveClient live{driver, protocol::ClientKind::kDriver, job, {}, {}, {}, {}, {}, 0};
    for (const CreatedActor& c : created) live.watches.push_back(c.spec->actor);
    live.holds = live.watches;
    live.created = std::move(created);
    join.clients.push_back(std::move(live));
    return join;
  }
  static CreatedActor created(const protocol::ActorSpec& spec, bool ran) {
    return {std::make_shared<protocol::ActorSpec>(spec), ran};
  }

  ControllerBench bench;
  uint16_t second = 0;
  ProcessId driver = 0;
  JobId job = 0;
  uint64_t next = 1;
};

TEST_F(ControllerRestartTest, ActorsWithoutARecordComeBackWithTheirCreatorsNode) {
  protocol::ActorSpec waited = actor(), mortal = actor(), restarts = actor();
  restarts.max_restarts = 1;
  restarts.name = "again";
  ControllerBench life(bench);
  life.add_node(cpus(4), kHead);
  life.send(NodeAsks{
      with_driver({created(waited, false), created(mortal, true), created(restarts, true)})});
  EXPECT_FALSE(life.machine.restoring());
  const auto& actors = life.machine.actors();
  EXPECT_EQ(actors.at(mortal.actor).state, ActorState::kDead) << "its state is lost";
  std::set<ActorId> placed;
  for (const PlaceActor& place : life.to_node<PlaceActor>()) placed.insert(place.actor);
  EXPECT_EQ(placed, (std::set{waited.actor, restarts.actor}));
  const uint64_t request = life.ask(driver, protocol::ActorLookup{"again", ""});
  EXPECT_EQ(life.payload<protocol::ActorLookupReply>(request).actor, restarts.actor);
  bool told = false;
  for (const PushActorUpdate& push : life.take<PushActorUpdate>())
    told = told || (push.process == driver && push.update.actor == mortal.actor &&
                    push.update.state == ActorState::kDead);
  EXPECT_TRUE(told);
}

TEST_F(ControllerRestartTest, WhatEndedOrLeftBeforeIsNotWaitedFor) {
  protocol::ActorSpec ended = actor(), left = actor();
  left.detached = true;
  left.max_restarts = -1;
  bench.post(driver, protocol::ActorCreate{left});
  bench.sync();
  ControllerBench life(bench);
  life.add_node(cpus(4), kHead);
  NodeJoin join = with_driver({});
  join.clients[0].ended.push_back(ended.actor);
  join.exited.push_back({left.actor, "it called exit_actor()"});
  life.send(NodeAsks{join});
  life.post(driver, protocol::ActorSubscribe{ended.actor});
  const auto pushed = life.take<PushActorUpdate>();
  ASSERT_FALSE(pushed.empty());
  EXPECT_EQ(pushed.back().update.state, ActorState::kDead);
  EXPECT_EQ(life.machine.actors().at(left.actor).state, ActorState::kDead);
  EXPECT_TRUE(life.to_node<PlaceActor>().empty());
}

TEST_F(ControllerRestartTest, WhatIsAskedForWhileNodesAreMissingMayBeThereAlready) {
  bench.join(kThird, cpus(4));
  bench.sync();
  ControllerBench life(bench);
  life.add_node(cpus(4), kHead);
  life.send(NodeAsks{with_driver({})});
  EXPECT_TRUE(life.machine.restoring());
  protocol::ActorSpec there = actor(), fresh = actor();
  for (const auto& spec : {there, fresh}) life.post(driver, protocol::ActorCreate{spec});
  EXPECT_TRUE(life.to_node<PlaceActor>().empty());
  NodeJoin third = back(kThird, 3);
  const ProcessId worker = make_process(3, 1, 8);
  third.actors.push_back({there.actor, 0, worker, job, true,
                          std::make_shared<protocol::ActorSpec>(there)});
  life.send(NodeAsks{third});
  EXPECT_FALSE(life.machine.restoring());
  EXPECT_EQ(life.machine.actors().at(there.actor).process, worker);
  const auto placed = life.to_node<PlaceActor>();
  ASSERT_EQ(placed.size(), 1u);
  EXPECT_EQ(placed[0].actor, fresh.actor);
}

TEST_F(ControllerRestartTest, ADeathIsSaidAgainUntilAllHaveHeardOfIt) {
  const uint16_t third = bench.join(kThird, cpus(4));
  bench.sync();
  bench.send(NodeLost{kThird, {}});
  bench.sync();
  ControllerBench life(bench);   // nobody had reached the barrier
  life.add_node(cpus(4), kHead);
  life.send(NodeAsks{with_driver({})});
  bool again = false;
  uint64_t barrier = 0;
  for (const NodeGone& gone : life.told<NodeGone>(kSecond)) {
    if (gone.number != third) continue;
    again = true;
    barrier = gone.barrier;
  }
  EXPECT_TRUE(again);
  life.report(BarrierReached{barrier}, kHead);
  life.report(BarrierReached{barrier}, kSecond);
  life.sync();
  ControllerBench later(life);
  EXPECT_EQ(later.machine.expected().size(), 1u);
  later.add_node(cpus(4), kHead);
  later.send(NodeAsks{with_driver({})});
  for (const NodeGone& gone : later.told<NodeGone>(kSecond)) EXPECT_EQ(gone.number, 1);
}

TEST_F(ControllerRestartTest, WhoComesBackLateHearsOfThoseThatDiedMeanwhile) {
  bench.join(kThird, cpus(4));
  bench.sync();
  ControllerBench life(bench);
  life.add_node(cpus(4), kHead);
  life.send(NodeAsks{back(kThird, 3)});
  life.send(NodeLost{kThird, {}});
  EXPECT_TRUE(life.machine.restoring());
  EXPECT_TRUE(life.told<NodeGone>(kHead).empty()) << "the barrier would close without the second";
  life.send(NodeAsks{with_driver({})});
  EXPECT_FALSE(life.machine.restoring());
  std::vector<uint16_t> gone;
  for (const NodeGone& message : life.told<NodeGone>(kSecond)) gone.push_back(message.number);
  EXPECT_EQ(gone, (std::vector<uint16_t>{1, 3})) << "first that this is the head";
}

TEST_F(ControllerRestartTest, WhoIsKnownToHaveDiedIsNotWaitedFor) {
  bench.join(kThird, cpus(4));
  bench.sync();
  ControllerBench life(bench);
  life.add_node(cpus(4), kHead);
  life.send(NodeAsks{with_driver({})});
  EXPECT_TRUE(life.machine.restoring());
  life.send(NodeLost{kThird, {}});   // nobody listens there
  EXPECT_FALSE(life.machine.restoring());
  EXPECT_EQ(life.told<NodeGone>(kSecond).size(), 2u);
  life.send(NodeAsks{back(kThird, 3)});
  EXPECT_EQ(life.take<NodeRefused>().size(), 1u) << "it has to start anew";
}

TEST_F(ControllerRestartTest, RestartsStayCounted) {
  protocol::ActorSpec there = actor(), lost = actor();
  there.max_restarts = lost.max_restarts = 1;
  ControllerBench life(bench);
  life.add_node(cpus(4), kHead);
  NodeJoin join = with_driver({created(there, true), created(lost, true)});
  for (CreatedActor& made : join.clients[0].created) made.restarts = 1;
  const ProcessId worker = make_process(second, 1, 8);
  join.actors.push_back({there.actor, 3, worker, job, true,
                         std::make_shared<protocol::ActorSpec>(there), 1});
  life.send(NodeAsks{join});
  EXPECT_EQ(life.machine.actors().at(there.actor).restarts, 1u);
  EXPECT_EQ(life.machine.actors().at(lost.actor).restarts, 1u);
  life.report(ActorLost{there.actor, 3, {}}, kSecond);
  EXPECT_EQ(life.machine.actors().at(there.actor).state, ActorState::kDead);
}

TEST_F(ControllerRestartTest, GroupsLiveAsLongAsTheirJob) {
  protocol::GroupCreate mine, detached;
  mine.group = PlacementGroupId::make(driver, 100);
  detached.group = PlacementGroupId::make(driver, 101);
  mine.bundles = detached.bundles = {cpus(1)};
  detached.detached = true;
  for (const auto& spec : {mine, detached}) bench.post(driver, spec);
  bench.sync();
  ControllerBench life(bench);
  life.add_node(cpus(4), kHead);
  NodeJoin join = with_driver({});
  join.groups.push_back({mine.group, 1, {0}});
  life.send(NodeAsks{join});
  EXPECT_EQ(life.machine.groups().at(mine.group).state, GroupState::kCreated);
  life.sync();
  ControllerBench alone(life);
  alone.add_node(cpus(4), kHead);
  alone.advance_by(4s);   // the driver's node does not come back
  EXPECT_FALSE(alone.machine.restoring());
  EXPECT_EQ(alone.machine.groups().at(mine.group).state, GroupState::kRemoved);
  EXPECT_NE(alone.machine.groups().at(detached.group).state, GroupState::kRemoved);
}

TEST_F(ControllerRestartTest, WhoAsksForAGroupBeforeItsNodesAreBackIsToldWhenTheyAre) {
  bench.join(kThird, cpus(4));
  protocol::GroupCreate spec;
  spec.group = PlacementGroupId::make(driver, 100);
  spec.bundles = {cpus(1), cpus(1)};
  spec.detached = true;
  bench.post(driver, spec);
  bench.sync();
  ControllerBench life(bench);
  life.add_node(cpus(4), kHead);
  NodeJoin join = with_driver({});
  join.groups.push_back({spec.group, 1, {0}});
  life.send(NodeAsks{join});
  life.report(AskGroup{spec.group}, kSecond);
  EXPECT_TRUE(life.told<GroupPlaced>(kSecond).empty());
  NodeJoin third = back(kThird, 3);
  third.groups.push_back({spec.group, 1, {1}});
  life.send(NodeAsks{third});
  const auto placed = life.told<GroupPlaced>(kSecond);
  ASSERT_EQ(placed.size(), 1u);
  EXPECT_EQ(placed[0].nodes, (std::vector<uint16_t>{second, 3}));
}

TEST_F(ControllerRestartTest, ADetachedActorThatNeverRanIsNotLost) {
  protocol::ActorSpec spec = actor();
  spec.detached = true;
  bench.post(driver, protocol::ActorCreate{spec});
  bench.sync();
  ControllerBench life(bench);
  life.add_node(cpus(4), kHead);
  life.send(NodeAsks{with_driver({})});
  const auto placed = life.to_node<PlaceActor>();
  ASSERT_EQ(placed.size(), 1u);
  EXPECT_EQ(placed[0].actor, spec.actor);
}

TEST_F(ControllerRestartTest, AFunctionOfAnotherNodesDriverIsOnDiskBeforeItIsAcknowledged) {
  const uint64_t put = bench.ask(driver, protocol::KvPut{"fn", "f", "code", true});
  EXPECT_FALSE(bench.answer(put).has_value());
  bench.sync();
  EXPECT_EQ(bench.answer(put)->code, StatusCode::kOk);
  const uint64_t second_put = bench.ask(driver, protocol::KvPut{"fn", "g", "code", true});
  bench.fail_journal();   // a full disk takes nothing, and the cluster goes on
  EXPECT_EQ(bench.answer(second_put)->code, StatusCode::kOk);
}

TEST(ControllerIdentityTest, AJournalKeepsItsNameAndItsAddress) {
  ControllerConfig config;
  config.cluster = 17;
  ControllerBench bench(config);
  bench.send(NodeJoined{kHead, cpus(1), {}, "host", "10.0.0.1:7000", 1, 0});
  bench.sync();
  EXPECT_EQ(bench.machine.cluster(), 17u);
  config.cluster = 18;
  Controller next(config);
  EXPECT_TRUE(next.restore(bench.disk_records()).empty());
  EXPECT_EQ(next.cluster(), 17u);
  EXPECT_EQ(next.head_address(), "10.0.0.1:7000");
  EXPECT_EQ(next.boot(), 2u);
}

}  // namespace
}  // namespace sheaf::scheduler::controller_restart_test
