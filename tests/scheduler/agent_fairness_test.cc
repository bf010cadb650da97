// Turns, recalls, and what starved actors and groups are given.
#include <gtest/gtest.h>

#include "machines.h"

namespace sheaf::scheduler::agent_fairness_test {
namespace {

using namespace testing;

TEST(AgentFairnessTest, ClientsTakeTurns) {
  AgentBench bench(cpus(4));
  bench.send(Prestart{{1, "python", ""}, 4});
  bench.register_spawned();
  bench.send(WorkerBlocked{0});
  bench.request(2, 1, cpus(4), 1);
  auto hog = bench.take<GrantLease>();
  ASSERT_EQ(hog.size(), 1u);
  bench.request(3, 1, cpus(1), 10);
  bench.request(4, 1, cpus(1), 10);
  bench.send(LeaseReturned{2, hog[0].lease, false});
  std::map<ProcessId, int> by_client;
  for (const GrantLease& grant : bench.grants()) ++by_client[grant.client];
  EXPECT_EQ(by_client, (std::map<ProcessId, int>{{3, 2}, {4, 2}}));
}

TEST(AgentFairnessTest, StarvedClientGetsAFairShareBack) {
  AgentBench bench(cpus(4));
  bench.request(2, 1, cpus(1), 1000);
  auto held = bench.grants();
  ASSERT_EQ(held.size(), 4u);
  bench.request(3, 1, cpus(1), 1000);
  bench.advance_by(9ms);
  EXPECT_TRUE(bench.take<RecallLease>().empty());
  bench.advance_by(2ms);
  auto recalls = bench.take<RecallLease>();
  EXPECT_EQ(recalls.size(), 2u);
  for (const RecallLease& recall : recalls) {
    EXPECT_EQ(recall.client, 2u);
    bench.send(LeaseReturned{2, recall.lease, false});
  }
  std::map<ProcessId, int> by_client;
  for (const auto& [id, lease] : bench.machine.leases()) ++by_client[lease.client];
  EXPECT_EQ(by_client, (std::map<ProcessId, int>{{2, 2}, {3, 2}}));
  bench.advance_by(1s);
  EXPECT_TRUE(bench.take<RecallLease>().empty()) << "even shares are left alone";
}

TEST(AgentFairnessTest, OneTaskOfAnotherClassIsNotStuckBehindAFlood) {
  AgentBench bench(cpus(1));
  bench.request(2, 1, cpus(1), 100000);
  auto flood = bench.grants();
  bench.request(2, 2, cpus(1), 1);
  bench.advance_by(11ms);
  ASSERT_EQ(bench.take<RecallLease>().size(), 1u);
  bench.send(LeaseReturned{2, flood[0].lease, false});
  auto next = bench.grants();
  ASSERT_EQ(next.size(), 1u);
  EXPECT_EQ(next[0].class_id, 2u);
}

TEST(AgentFairnessTest, NothingIsRecalledThatWouldNotHelp) {
  ResourceMap total = cpus(1);
  total["GPU"] = kResourceUnit;
  AgentBench bench(total);
  ResourceMap both = total;
  bench.request(2, 1, cpus(1), 100);
  EXPECT_EQ(bench.grants().size(), 1u);
  bench.request(3, 1, gpus(1), 1);
  EXPECT_EQ(bench.grants().size(), 1u);
  bench.request(4, 1, gpus(1), 1);
  bench.advance_by(11ms);
  auto recalls = bench.take<RecallLease>();
  ASSERT_EQ(recalls.size(), 1u);
  EXPECT_EQ(recalls[0].client, 3u);
}

TEST(AgentFairnessTest, WaitingActorRecallsLeasesAndKeepsWhatComesBack) {
  AgentBench bench(cpus(4));
  bench.request(2, 1, cpus(1), 100000);
  auto held = bench.grants();
  ASSERT_EQ(held.size(), 4u);
  auto spec = std::make_shared<protocol::ActorSpec>();
  spec->actor = ActorId{1, 1};
  spec->placement.resources = cpus(3);
  bench.send(FromController{PlaceActor{spec->actor, 0, 1, spec, false}});
  bench.advance_by(11ms);
  auto recalls = bench.take<RecallLease>();
  ASSERT_EQ(recalls.size(), 3u);
  for (const RecallLease& recall : recalls) bench.send(LeaseReturned{2, recall.lease, false});
  bench.register_spawned();
  EXPECT_TRUE(bench.take<GrantLease>().empty()) << "the flood must not snatch them";
  EXPECT_EQ(bench.take<StartActor>().size(), 1u);
}

TEST(AgentFairnessTest, AStarvedGroupDoesNotStopEverybodyForEver) {
  AgentBench bench(cpus(2));
  auto spec = std::make_shared<protocol::ActorSpec>();
  spec->actor = ActorId{1, 1};
  spec->placement.resources = cpus(1);
  bench.send(FromController{PlaceActor{spec->actor, 0, 1, spec, false}});
  bench.register_spawned();
  bench.request(2, 1, cpus(1), 1000);
  auto held = bench.grants();
  bench.send(FromController{ReserveGroup{PlacementGroupId{1, 2}, 1, {{0, cpus(2)}}}});
  bench.advance_by(20ms);
  EXPECT_EQ(bench.take<RecallLease>().size(), 1u);
  bench.send(LeaseReturned{2, held[0].lease, false});
  EXPECT_TRUE(bench.grants().empty());
  bench.advance_by(250ms);
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST(AgentFairnessTest, LongWaitIsExplained) {
  AgentBench bench(cpus(1));
  auto spec = std::make_shared<protocol::ActorSpec>();
  spec->actor = ActorId{1, 1};
  spec->placement.resources = cpus(1);
  bench.send(FromController{PlaceActor{spec->actor, 0, 1, spec, false}});
  bench.register_spawned();
  bench.request(2, 1, cpus(1), 1);
  bench.advance_by(29s);
  EXPECT_TRUE(bench.take<WarnClient>().empty());
  bench.advance_by(2s);
  auto warnings = bench.take<WarnClient>();
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].text.find("waiting for 30 s"), std::string::npos) << warnings[0].text;
}

}  // namespace
}  // namespace sheaf::scheduler::agent_fairness_test
