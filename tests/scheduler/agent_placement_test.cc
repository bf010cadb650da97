// Actors and placement groups on one node.
#include <gtest/gtest.h>

#include "machines.h"

namespace sheaf::scheduler::agent_placement_test {
namespace {

using namespace testing;
using protocol::ErrorKind;
constexpr ProcessId kDriver = 2;
const PlacementGroupId kGroup{5, 5};

std::shared_ptr<protocol::ActorSpec> actor_spec(uint64_t n, ResourceMap lifetime,
                                                ResourceMap creation = {}) {
  auto spec = std::make_shared<protocol::ActorSpec>();
  spec->actor = ActorId{1, n};
  spec->placement.resources = std::move(lifetime);
  spec->creation_resources = std::move(creation);
  return spec;
}

protocol::SchedulingClass in_group(ResourceMap resources, int32_t bundle = -1) {
  protocol::SchedulingClass spec;
  spec.resources = std::move(resources);
  spec.strategy.kind = protocol::StrategyKind::kPlacementGroup;
  spec.strategy.group = kGroup;
  spec.strategy.bundle = bundle;
  return spec;
}

TEST(AgentActorTest, NeedsACpuToBePlacedAndNoneToRun) {
  AgentBench bench(cpus(1));
  for (uint64_t n = 1; n <= 3; ++n) {
    auto spec = actor_spec(n, {}, cpus(1));
    bench.send(FromController{PlaceActor{spec->actor, 0, 1, spec, false}});
  }
  bench.register_spawned();
  EXPECT_EQ(bench.take<StartActor>().size(), 1u);
  EXPECT_EQ(bench.free("CPU"), 0);
  bench.send(FromController{ActorRunning{ActorId{1, 1}, 9}});   // another incarnation: fenced
  EXPECT_EQ(bench.free("CPU"), 0);
  bench.send(FromController{ActorRunning{ActorId{1, 1}, 0}});
  bench.register_spawned();
  EXPECT_EQ(bench.take<StartActor>().size(), 1u);
  bench.send(FromController{ActorRunning{ActorId{1, 2}, 0}});
  bench.register_spawned();
  bench.send(FromController{ActorRunning{ActorId{1, 3}, 0}});
  EXPECT_EQ(bench.free("CPU"), kResourceUnit);
  EXPECT_EQ(bench.machine.actors().size(), 3u);
}

TEST(AgentActorTest, DeathIsReportedWithItsIncarnation) {
  AgentBench bench(cpus(1));
  auto spec = actor_spec(1, cpus(1));
  bench.send(FromController{PlaceActor{spec->actor, 3, 1, spec, false}});
  auto workers = bench.register_spawned();
  auto assigned = bench.reports<ActorAssigned>();
  ASSERT_EQ(assigned.size(), 1u);
  EXPECT_EQ(assigned[0].process, workers[0]);
  bench.send(ProcessDied{workers[0], {ErrorKind::kOutOfMemory, "oom", "", {}}});
  auto lost = bench.reports<ActorLost>();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].incarnation, 3u);
  EXPECT_EQ(lost[0].cause.kind, ErrorKind::kOutOfMemory);
  EXPECT_TRUE(bench.machine.resources().unused());
}

TEST(AgentActorTest, ReleaseWorksAtEveryStage) {
  AgentBench bench(cpus(1));
  auto spec = actor_spec(1, cpus(1));
  bench.send(FromController{PlaceActor{spec->actor, 0, 1, spec, false}});
  bench.send(FromController{ReleaseActor{spec->actor, 0, false, {}}});
  EXPECT_TRUE(bench.machine.actors().empty());
  EXPECT_TRUE(bench.machine.waiting().empty());
  bench.register_spawned();
  EXPECT_TRUE(bench.take<StartActor>().empty());
  bench.send(FromController{PlaceActor{spec->actor, 1, 1, spec, false}});
  auto start = bench.take<StartActor>();
  ASSERT_EQ(start.size(), 1u);
  bench.send(FromController{ReleaseActor{spec->actor, 0, false, {}}});   // stale
  EXPECT_TRUE(bench.take<KillWorker>().empty());
  bench.send(FromController{ReleaseActor{spec->actor, 1, true, {}}});
  EXPECT_EQ(bench.take<ExitWorker>().size(), 1u);
  bench.send(FromController{ReleaseActor{spec->actor, 1, false, {}}});
  EXPECT_EQ(bench.take<KillWorker>().size(), 1u);
  bench.send(ProcessDied{start[0].worker, {}});
  EXPECT_TRUE(bench.machine.resources().unused());
}

TEST(AgentActorTest, WorkersAreStartedAheadWhereActorsComeAndGo) {
  AgentConfig config;
  config.spare_workers = 3;
  AgentBench bench(cpus(8), config);
  uint64_t next = 1;
  auto place = [&] {
    auto spec = actor_spec(next++, cpus(0.1));
    bench.send(FromController{PlaceActor{spec->actor, 0, 1, spec, false}});
  };
  for (int i = 0; i < 5; ++i) place();
  auto first = bench.register_spawned();
  EXPECT_EQ(first.size(), 5u);
  EXPECT_TRUE(bench.take<SpawnWorker>().empty()) << "those who stay need no successors";
  for (ProcessId worker : first) bench.send(ProcessDied{worker, {}});
  // While somebody waits for a worker nothing is started ahead.
  bench.take<StartActor>();
  bench.register_spawned();
  EXPECT_EQ(bench.machine.workers().size(), 3u) << "as many as have gone, up to the limit";
  for (int i = 0; i < 3; ++i) place();
  EXPECT_EQ(bench.take<StartActor>().size(), 3u) << "at once";
  bench.register_spawned();
  EXPECT_EQ(bench.machine.workers().size(), 6u);
  bench.advance_by(11s);
  EXPECT_TRUE(bench.take<ExitWorker>().empty()) << "no more than the idle ones that are kept";
  bench.send(FromController{EndJob{1}});
  EXPECT_EQ(bench.take<KillWorker>().size(), 6u);
}

TEST(AgentActorTest, DetachedOneSurvivesItsJobAndCanStillSubmit) {
  AgentBench bench(cpus(4));
  auto spec = actor_spec(1, cpus(1));
  spec->detached = true;
  bench.send(FromController{PlaceActor{spec->actor, 0, 1, spec, false}});
  auto workers = bench.register_spawned();
  bench.request(workers[0], 1, cpus(1), 1);
  auto nested = bench.grants();
  ASSERT_EQ(nested.size(), 1u);
  bench.request(kDriver, 1, cpus(1), 1);
  auto grants = bench.grants();
  bench.send(FromController{EndJob{1}});
  bench.send(ProcessDied{kDriver, {}});
  auto kills = bench.take<KillWorker>();
  ASSERT_EQ(kills.size(), 1u);
  EXPECT_EQ(kills[0].process, grants[0].worker);
  bench.send(LeaseReturned{workers[0], nested[0].lease, false});
  bench.request(workers[0], 1, cpus(1), 1);
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST(AgentActorTest, RuntimeEnvironmentFailureIsItsEnd) {
  AgentBench bench(cpus(1));
  auto spec = actor_spec(1, cpus(1));
  bench.send(FromController{PlaceActor{spec->actor, 0, 1, spec, false}});
  auto spawn = bench.take<SpawnWorker>();
  bench.send(WorkerSpawnFailed{spawn[0].token, {ErrorKind::kRuntimeEnvSetup, "no pip", "", {}}});
  auto failed = bench.reports<ActorPlaceFailed>();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].error.kind, ErrorKind::kRuntimeEnvSetup);
  EXPECT_TRUE(bench.machine.actors().empty());
}

TEST(AgentGroupTest, BundlesAreReservedTogetherAndServeTheirOwn) {
  AgentBench bench(cpus(3));
  bench.send(FromController{ReserveGroup{kGroup, 1, {{0, cpus(1)}, {1, cpus(2)}}}});
  auto reserved = bench.reports<GroupReserved>();
  ASSERT_EQ(reserved.size(), 1u);
  EXPECT_TRUE(reserved[0].ok);
  EXPECT_EQ(bench.free("CPU"), 0);
  bench.send(LeaseRequested{kDriver, 1, 1, in_group(cpus(1), 0), 5});
  EXPECT_EQ(bench.grants().size(), 1u);
  bench.send(LeaseRequested{kDriver, 1, 2, in_group(cpus(1)), 5});
  EXPECT_EQ(bench.grants().size(), 2u);
  bench.request(kDriver, 3, cpus(1), 1);
  EXPECT_TRUE(bench.grants().empty());
}

TEST(AgentGroupTest, RemovalKillsItsUsersAndReturnsEverything) {
  AgentBench bench(cpus(2));
  bench.send(FromController{ReserveGroup{kGroup, 1, {{0, cpus(1)}, {1, cpus(1)}}}});
  bench.send(LeaseRequested{kDriver, 1, 1, in_group(cpus(1)), 3});
  auto grants = bench.grants();
  ASSERT_EQ(grants.size(), 2u);
  bench.send(WorkerBlocked{grants[0].worker});
  bench.send(FromController{ReleaseGroup{kGroup, true}});
  EXPECT_EQ(bench.take<KillWorker>().size(), 2u);
  auto refused = bench.take<RefuseLease>();
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].error.kind, ErrorKind::kPlacementGroupRemoved);
  bench.send(ProcessDied{grants[0].worker, {}, false});
  bench.send(ProcessDied{grants[1].worker, {}});
  EXPECT_LT(bench.free("CPU"), 2 * kResourceUnit);
  bench.send(ProcessReaped{grants[0].worker});
  EXPECT_TRUE(bench.machine.resources().unused());
  EXPECT_TRUE(bench.machine.groups().empty());
}

// Found by the simulator: such a request was neither refused nor asked about, and waited for ever.
TEST(AgentGroupTest, RequestDuringTheReleaseIsAskedAboutAfterIt) {
  AgentBench bench(cpus(1));
  bench.send(FromController{ReserveGroup{kGroup, 1, {{0, cpus(1)}}}});
  bench.send(LeaseRequested{kDriver, 1, 1, in_group(cpus(1)), 1});
  auto grants = bench.grants();
  ASSERT_EQ(grants.size(), 1u);
  bench.send(FromController{ReleaseGroup{kGroup, true}});
  bench.send(LeaseRequested{kDriver, 1, 1, in_group(cpus(1)), 1});
  EXPECT_TRUE(bench.reports<AskGroup>().empty());
  bench.send(ProcessDied{grants[0].worker, {}});
  EXPECT_EQ(bench.reports<AskGroup>().size(), 1u);
  bench.send(FromController{ReleaseGroup{kGroup, true}});
  EXPECT_EQ(bench.take<RefuseLease>().size(), 1u);
  EXPECT_TRUE(bench.machine.flows().empty());
}

TEST(AgentGroupTest, WaitsForResourcesInUseAndRefusesTheImpossible) {
  AgentBench bench(cpus(2));
  bench.request(kDriver, 1, cpus(1), 1);
  auto held = bench.grants();
  bench.send(FromController{ReserveGroup{kGroup, 1, {{0, cpus(2)}}}});
  EXPECT_TRUE(bench.reports<GroupReserved>().empty());
  bench.send(LeaseReturned{kDriver, held[0].lease, false});
  EXPECT_EQ(bench.reports<GroupReserved>().size(), 1u);
  bench.send(FromController{ReserveGroup{PlacementGroupId{6, 6}, 1, {{0, cpus(3)}}}});
  auto refused = bench.reports<GroupReserved>();
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_FALSE(refused[0].ok);
}

TEST(AgentGroupTest, UnknownGroupIsAskedAboutOnce) {
  AgentBench bench(cpus(2));
  bench.send(LeaseRequested{kDriver, 1, 1, in_group(cpus(1)), 1});
  bench.send(LeaseRequested{kDriver, 1, 1, in_group(cpus(1)), 2});
  EXPECT_EQ(bench.reports<AskGroup>().size(), 1u);
  EXPECT_TRUE(bench.take<WarnClient>().empty());
  bench.send(FromController{ReserveGroup{kGroup, 1, {{0, cpus(1)}}}});
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST(AgentGroupTest, TaskWithoutResourcesWaitsForItsGroup) {
  AgentBench bench(cpus(1));
  bench.send(LeaseRequested{kDriver, 1, 1, in_group({}), 1});
  EXPECT_TRUE(bench.grants().empty());
  bench.send(FromController{ReserveGroup{kGroup, 1, {{0, cpus(1)}}}});
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST(AgentGroupTest, BundleKeepsItsDevices) {
  AgentBench bench(gpus(4));
  bench.send(FromController{ReserveGroup{kGroup, 1, {{0, gpus(0.5)}, {1, gpus(2)}}}});
  bench.send(LeaseRequested{kDriver, 1, 1, in_group(gpus(2), 1), 1});
  auto whole = bench.grants();
  ASSERT_EQ(whole.size(), 1u);
  EXPECT_EQ(whole[0].devices, (Devices{{"GPU", {0, 1}}}));
  bench.send(LeaseRequested{kDriver, 1, 2, in_group(gpus(0.5), 0), 1});
  auto half = bench.grants();
  ASSERT_EQ(half.size(), 1u);
  EXPECT_EQ(half[0].devices, (Devices{{"GPU", {2}}}));
}

TEST(AgentGroupTest, ActorInsideGoesWithTheGroup) {
  AgentBench bench(cpus(1));
  bench.send(FromController{ReserveGroup{kGroup, 1, {{0, cpus(1)}}}});
  auto spec = actor_spec(1, cpus(1));
  spec->placement = in_group(cpus(1));
  bench.send(FromController{PlaceActor{spec->actor, 0, 1, spec, false}});
  auto workers = bench.register_spawned();
  ASSERT_EQ(bench.take<StartActor>().size(), 1u);
  bench.send(FromController{ReleaseGroup{kGroup, true}});
  EXPECT_EQ(bench.take<KillWorker>().size(), 1u);
  bench.send(ProcessDied{workers[0], {}});
  EXPECT_EQ(bench.reports<ActorLost>().size(), 1u);
  EXPECT_TRUE(bench.machine.resources().unused());
}

}  // namespace
}  // namespace sheaf::scheduler::agent_placement_test
