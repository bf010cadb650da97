// Leases and the worker pool.
#include <gtest/gtest.h>

#include "machines.h"

namespace sheaf::scheduler::agent_lease_test {
namespace {

using namespace testing;
using protocol::ErrorKind;
constexpr ProcessId kDriver = 2;

TEST(AgentLeaseTest, SpawnsOnlyWhatFitsAndGrantsIt) {
  AgentBench bench(cpus(2));
  bench.request(kDriver, 1, cpus(1), 10);
  EXPECT_EQ(bench.machine.spawns().size(), 2u);
  auto grants = bench.grants();
  ASSERT_EQ(grants.size(), 2u);
  EXPECT_NE(grants[0].worker, grants[1].worker);
  EXPECT_EQ(bench.free("CPU"), 0);
  EXPECT_TRUE(bench.machine.spawns().empty());
  EXPECT_EQ(bench.machine.flows().at({kDriver, 1}).backlog, 8u);
}

TEST(AgentLeaseTest, ReturnedWorkerIsReused) {
  AgentBench bench(cpus(1));
  bench.request(kDriver, 1, cpus(1), 1);
  auto first = bench.grants();
  bench.send(LeaseReturned{kDriver, first[0].lease, false});
  bench.request(kDriver, 2, cpus(1), 1);
  auto second = bench.take<GrantLease>();
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].worker, first[0].worker);
  EXPECT_EQ(second[0].class_id, 2u);
  bench.send(LeaseReturned{kDriver, first[0].lease, false});   // a lease that is no more
  bench.send(LeaseReturned{99, second[0].lease, false});       // not its holder
  EXPECT_EQ(bench.machine.leases().size(), 1u);
}

TEST(AgentLeaseTest, NobodyIsLeasedToHimself) {
  AgentBench bench(cpus(1));
  bench.request(kDriver, 1, cpus(1), 1);
  auto first = bench.grants();
  bench.send(LeaseReturned{kDriver, first[0].lease, false});
  bench.request(first[0].worker, 1, cpus(1), 1);   // the idle worker has a task of its own
  auto second = bench.grants();
  ASSERT_EQ(second.size(), 1u);
  EXPECT_NE(second[0].worker, first[0].worker);
}

TEST(AgentLeaseTest, NewRequestReplacesTheOld) {
  AgentBench bench(cpus(1));
  bench.request(kDriver, 1, cpus(1), 5);
  auto grants = bench.grants();
  bench.request(kDriver, 1, cpus(1), 0);
  bench.send(LeaseReturned{kDriver, grants[0].lease, false});
  EXPECT_TRUE(bench.take<GrantLease>().empty());
  EXPECT_TRUE(bench.machine.flows().empty());
}

TEST(AgentLeaseTest, WorkersServeOneJobLanguageAndEnvironment) {
  AgentBench bench(cpus(2));
  bench.request(kDriver, 1, cpus(1), 1, 1);
  auto grants = bench.grants();
  bench.send(LeaseReturned{kDriver, grants[0].lease, false});
  bench.request(3, 1, cpus(1), 1, 2);
  ASSERT_EQ(bench.take<SpawnWorker>().size(), 1u);
  protocol::SchedulingClass other;
  other.resources = cpus(1);
  other.language = "cpp:/lib.so";
  bench.send(LeaseRequested{kDriver, 1, 2, other, 1});
  auto spawns = bench.take<SpawnWorker>();
  ASSERT_EQ(spawns.size(), 1u);
  EXPECT_EQ(spawns[0].key.language, "cpp:/lib.so");
}

TEST(AgentLeaseTest, SpawnsInFlightAreBounded) {
  AgentConfig config;
  config.max_spawns_in_flight = 3;
  AgentBench bench(cpus(64), config);
  bench.request(kDriver, 1, cpus(1), 100);
  EXPECT_EQ(bench.take<SpawnWorker>().size(), 3u);
}

TEST(AgentLeaseTest, TasksWithoutCpusGrowSlowlyUpToTheProcessLimit) {
  AgentConfig config;
  config.max_workers = 20;
  AgentBench bench(cpus(2), config);
  bench.request(kDriver, 1, {}, 1000);
  EXPECT_EQ(bench.grants().size(), 2u);
  for (int i = 0; i < 200; ++i) {
    bench.advance_by(1ms);
    bench.register_spawned();
  }
  EXPECT_EQ(bench.machine.leases().size(), 20u);
  EXPECT_EQ(bench.machine.workers().size(), 20u);
  EXPECT_EQ(bench.free("CPU"), 2 * kResourceUnit);
}

TEST(AgentLeaseTest, FullProcessTableGivesUpIdleWorkersOfOtherKinds) {
  AgentConfig config;
  config.max_workers = 2;
  AgentBench bench(cpus(2), config);
  bench.request(kDriver, 1, cpus(1), 2);
  for (const GrantLease& grant : bench.grants()) {
    bench.request(kDriver, 1, cpus(1), 0);
    bench.send(LeaseReturned{kDriver, grant.lease, false});
  }
  bench.request(3, 1, cpus(1), 1, 2);
  auto exits = bench.take<ExitWorker>();
  ASSERT_EQ(exits.size(), 1u);
  EXPECT_TRUE(bench.take<SpawnWorker>().empty());
  bench.send(ProcessDied{exits[0].process, {}});
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST(AgentLeaseTest, BlockedWorkerLendsItsCpuOnly) {
  ResourceMap total = cpus(1);
  total["memory"] = 100;
  total["GPU"] = kResourceUnit;
  AgentBench bench(total);
  ResourceMap request = cpus(1);
  request["memory"] = 60;
  request["GPU"] = kResourceUnit;
  bench.request(kDriver, 1, request, 1);
  auto parent = bench.grants();
  bench.send(WorkerBlocked{parent[0].worker});
  bench.send(WorkerBlocked{parent[0].worker});
  EXPECT_EQ(bench.free("CPU"), kResourceUnit);
  EXPECT_EQ(bench.free("memory"), 40);
  EXPECT_EQ(bench.free("GPU"), 0);
  bench.request(parent[0].worker, 1, cpus(1), 1);
  auto child = bench.grants();
  ASSERT_EQ(child.size(), 1u);
  bench.send(WorkerUnblocked{parent[0].worker});
  EXPECT_EQ(bench.free("CPU"), -kResourceUnit);
  bench.request(kDriver, 2, cpus(1), 1);
  EXPECT_TRUE(bench.grants().empty());
  bench.send(LeaseReturned{parent[0].worker, child[0].lease, false});
  EXPECT_TRUE(bench.grants().empty());
  bench.send(LeaseReturned{kDriver, parent[0].lease, false});
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST(AgentLeaseTest, DeathWhileBlockedGivesEverythingBackOnce) {
  AgentBench bench(cpus(1));
  bench.request(kDriver, 1, cpus(1), 1);
  auto grants = bench.grants();
  bench.send(WorkerBlocked{grants[0].worker});
  bench.send(ProcessDied{grants[0].worker, {}});
  EXPECT_EQ(bench.free("CPU"), kResourceUnit);
  EXPECT_TRUE(bench.machine.resources().unused());
  EXPECT_TRUE(bench.machine.leases().empty());
}

TEST(AgentLeaseTest, MemoryAndDevicesComeBackWhenReaped) {
  ResourceMap total = cpus(1);
  total["GPU"] = kResourceUnit;
  AgentBench bench(total);
  ResourceMap request = total;
  bench.request(kDriver, 1, request, 1);
  auto grants = bench.grants();
  EXPECT_EQ(grants[0].devices, (Devices{{"GPU", {0}}}));
  bench.send(ProcessDied{grants[0].worker, {}, false});
  EXPECT_EQ(bench.free("CPU"), kResourceUnit);
  EXPECT_EQ(bench.free("GPU"), 0);
  bench.send(ProcessReaped{grants[0].worker});
  EXPECT_TRUE(bench.machine.resources().unused());
}

TEST(AgentLeaseTest, WorkerThatExitsAfterItsLeaseKeepsDevicesUntilGone) {
  ResourceMap total = cpus(1);
  total["GPU"] = kResourceUnit;
  AgentBench bench(total);
  bench.request(kDriver, 1, total, 2);
  auto first = bench.grants();
  bench.send(LeaseReturned{kDriver, first[0].lease, true});
  EXPECT_TRUE(bench.grants().empty());
  bench.send(ProcessDied{first[0].worker, {}});
  auto second = bench.grants();
  ASSERT_EQ(second.size(), 1u);
  EXPECT_NE(second[0].worker, first[0].worker);
}

TEST(AgentLeaseTest, DevicesGoToWorkersInWhichNoTaskHasRun) {
  ResourceMap total = cpus(2);
  total["GPU"] = kResourceUnit;
  AgentBench bench(total);
  ResourceMap request = cpus(1);
  request["GPU"] = kResourceUnit;
  bench.request(kDriver, 1, cpus(1), 1);
  auto plain = bench.grants();
  bench.send(LeaseReturned{kDriver, plain[0].lease, false});
  bench.request(kDriver, 2, request, 1);
  auto with_device = bench.grants();
  ASSERT_EQ(with_device.size(), 1u);
  EXPECT_NE(with_device[0].worker, plain[0].worker);
  bench.request(kDriver, 1, cpus(1), 1);
  auto again = bench.grants();
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].worker, plain[0].worker);
}

TEST(AgentLeaseTest, WorkerThatSawDevicesServesOnlyTheSameOnes) {
  ResourceMap total = cpus(2);
  total["GPU"] = 2 * kResourceUnit;
  AgentBench bench(total);
  bench.request(kDriver, 1, gpus(1), 1);
  auto first = bench.grants();
  bench.send(LeaseReturned{kDriver, first[0].lease, false});
  bench.request(kDriver, 2, cpus(1), 1);
  auto plain = bench.grants();
  ASSERT_EQ(plain.size(), 1u);
  EXPECT_NE(plain[0].worker, first[0].worker);
  bench.request(kDriver, 1, gpus(1), 1);
  auto again = bench.grants();
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].worker, first[0].worker);
}

TEST(AgentLeaseTest, DeadClientsWorkersAreKilledAndItsRequestsDropped) {
  AgentBench bench(cpus(1));
  bench.request(kDriver, 1, cpus(1), 5);
  auto grants = bench.grants();
  bench.send(ProcessDied{kDriver, {}});
  auto kills = bench.take<KillWorker>();
  ASSERT_EQ(kills.size(), 1u);
  EXPECT_EQ(kills[0].process, grants[0].worker);
  EXPECT_EQ(bench.free("CPU"), 0) << "still running";
  bench.send(ProcessDied{grants[0].worker, {}});
  EXPECT_TRUE(bench.machine.resources().unused());
  EXPECT_TRUE(bench.machine.flows().empty());
}

TEST(AgentLeaseTest, EndOfJobKillsItsWorkersAndRefusesLateOnes) {
  AgentBench bench(cpus(4));
  bench.request(kDriver, 1, cpus(1), 2);
  EXPECT_EQ(bench.grants().size(), 2u);
  bench.request(kDriver, 1, cpus(1), 1);
  auto late = bench.take<SpawnWorker>();
  ASSERT_EQ(late.size(), 1u);
  bench.send(FromController{EndJob{1}});
  bench.send(ProcessDied{kDriver, {}});
  EXPECT_EQ(bench.take<KillWorker>().size(), 2u);
  bench.send(WorkerRegistered{late[0].token, 500});
  ASSERT_EQ(bench.take<KillWorker>().size(), 1u);
  for (ProcessId p : {100u, 101u, 500u}) bench.send(ProcessDied{p, {}});
  EXPECT_TRUE(bench.machine.workers().empty());
  EXPECT_TRUE(bench.machine.resources().unused());
}

TEST(AgentLeaseTest, UnknownOrRepeatedRegistrationIsTurnedAway) {
  AgentBench bench(cpus(1));
  bench.request(kDriver, 1, cpus(1), 1);
  auto spawn = bench.take<SpawnWorker>();
  bench.send(WorkerRegistered{spawn[0].token, 100});
  bench.send(WorkerRegistered{spawn[0].token, 100});   // the same message twice
  EXPECT_TRUE(bench.take<KillWorker>().empty());
  bench.send(WorkerRegistered{spawn[0].token, 101});
  auto kills = bench.take<KillWorker>();
  ASSERT_EQ(kills.size(), 1u);
  EXPECT_EQ(kills[0].process, 101u);
  EXPECT_EQ(bench.machine.workers().size(), 1u);
}

TEST(AgentLeaseTest, FailedSpawnsAreRetriedThenRefused) {
  AgentBench bench(cpus(1));
  bench.request(kDriver, 1, cpus(1), 3);
  int attempts = 0;
  for (int i = 0; i < 2000 && bench.take<RefuseLease>().empty(); ++i) {
    for (const SpawnWorker& spawn : bench.take<SpawnWorker>()) {
      ++attempts;
      bench.send(WorkerSpawnFailed{spawn.token, {ErrorKind::kSystem, "fork failed", "", {}}});
      break;
    }
    if (!bench.machine.flows().empty()) bench.advance_by(1ms);
  }
  EXPECT_EQ(attempts, 4);
  EXPECT_TRUE(bench.machine.flows().empty());
  EXPECT_TRUE(bench.machine.resources().unused());
}

TEST(AgentLeaseTest, BrokenRuntimeEnvironmentIsRefusedAtOnce) {
  AgentBench bench(cpus(1));
  bench.request(kDriver, 1, cpus(1), 3);
  auto spawn = bench.take<SpawnWorker>();
  bench.send(WorkerSpawnFailed{spawn[0].token, {ErrorKind::kRuntimeEnvSetup, "pip failed", "",
             {}}});
  auto refused = bench.take<RefuseLease>();
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].error.kind, ErrorKind::kRuntimeEnvSetup);
}

TEST(AgentLeaseTest, SpawnThatNeverRegistersTimesOut) {
  AgentConfig config;
  config.spawn_timeout = 5s;
  AgentBench bench(cpus(1), config);
  bench.request(kDriver, 1, cpus(1), 1);
  auto first = bench.take<SpawnWorker>();
  bench.advance_by(6s);
  auto second = bench.take<SpawnWorker>();
  ASSERT_EQ(second.size(), 1u);
  bench.send(WorkerRegistered{first[0].token, 100});
  EXPECT_EQ(bench.take<KillWorker>().size(), 1u);
  bench.send(WorkerRegistered{second[0].token, 101});
  EXPECT_EQ(bench.take<GrantLease>().size(), 1u);
}

TEST(AgentLeaseTest, IdleWorkersAboveTheWarmOnesLeave) {
  AgentBench bench(cpus(2));
  bench.request(kDriver, 1, cpus(0.5), 4);
  auto grants = bench.grants();
  ASSERT_EQ(grants.size(), 4u);
  for (const GrantLease& grant : grants) bench.send(LeaseReturned{kDriver, grant.lease, false});
  bench.advance_by(900ms);
  EXPECT_TRUE(bench.take<ExitWorker>().empty());
  bench.advance_by(200ms);
  auto exits = bench.take<ExitWorker>();
  EXPECT_EQ(exits.size(), 2u);
  bench.advance_by(11s);
  EXPECT_EQ(bench.take<KillWorker>().size(), 2u) << "they did not leave when told";
}

TEST(AgentLeaseTest, IdleWorkerWithTasksOfItsOwnIsLeftAlone) {
  AgentConfig config;
  config.warm_workers = 1;
  AgentBench bench(cpus(3), config);
  bench.request(kDriver, 1, cpus(1), 3);
  auto grants = bench.grants();
  ASSERT_EQ(grants.size(), 3u);
  bench.request(grants[0].worker, 1, cpus(4), 1);   // waits for good
  for (const GrantLease& grant : grants) bench.send(LeaseReturned{kDriver, grant.lease, false});
  bench.advance_by(60s);
  for (const ExitWorker& exit : bench.take<ExitWorker>()) EXPECT_NE(exit.process, grants[0].worker);
}

TEST(AgentLeaseTest, InfeasibleRequestWarnsNowAndThenAndRunsWhenItCan) {
  AgentBench bench(cpus(2));
  bench.request(kDriver, 1, gpus(1), 1);
  auto warnings = bench.take<WarnClient>();
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].text.find("lacks {GPU: 1}"), std::string::npos) << warnings[0].text;
  bench.request(kDriver, 1, gpus(1), 2);
  bench.advance_by(29s);
  EXPECT_TRUE(bench.take<WarnClient>().empty());
  bench.advance_by(2s);
  EXPECT_EQ(bench.take<WarnClient>().size(), 1u);
  ResourceMap more = cpus(2);
  more["GPU"] = kResourceUnit;
  bench.send(CapacityChanged{more, {}});
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST(AgentLeaseTest, StrategiesOfOtherNodesAndLabels) {
  AgentBench bench(cpus(2));
  bench.send(CapacityChanged{cpus(2), {{"zone", "a"}}});
  protocol::SchedulingClass spec;
  spec.resources = cpus(1);
  spec.strategy.kind = protocol::StrategyKind::kNodeAffinity;
  spec.strategy.node = to_hex(NodeId{9, 9});
  bench.send(LeaseRequested{kDriver, 1, 1, spec, 1});
  auto refused = bench.take<RefuseLease>();
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].error.kind, ErrorKind::kUnschedulable);
  spec.strategy.soft = true;
  bench.send(LeaseRequested{kDriver, 1, 1, spec, 1});
  EXPECT_EQ(bench.grants().size(), 1u);
  spec.strategy = {};
  spec.strategy.kind = protocol::StrategyKind::kNodeLabel;
  spec.strategy.hard_labels = {{"zone", "!a"}};
  bench.send(LeaseRequested{kDriver, 1, 2, spec, 1});
  EXPECT_TRUE(bench.grants().empty());
  EXPECT_EQ(bench.take<WarnClient>().size(), 1u);
  spec.strategy.hard_labels = {{"zone", "in(a,b)"}};
  bench.send(LeaseRequested{kDriver, 1, 2, spec, 1});
  EXPECT_EQ(bench.grants().size(), 1u);
}

TEST(AgentLeaseTest, PrestartMakesIdleWorkers) {
  AgentBench bench(cpus(2));
  bench.send(Prestart{{1, "python", ""}, 2});
  EXPECT_EQ(bench.register_spawned().size(), 2u);
  bench.request(kDriver, 1, cpus(1), 2);
  EXPECT_EQ(bench.take<GrantLease>().size(), 2u);
  EXPECT_TRUE(bench.take<SpawnWorker>().empty());
}

TEST(AgentLeaseTest, ForceCancelKillsOnlyWorkersOfTheJob) {
  AgentBench bench(cpus(1));
  bench.request(kDriver, 1, cpus(1), 1);
  auto grants = bench.grants();
  bench.send(KillRequested{2, grants[0].worker});
  EXPECT_TRUE(bench.take<KillWorker>().empty());
  bench.send(KillRequested{1, grants[0].worker});
  EXPECT_EQ(bench.take<KillWorker>().size(), 1u);
}

TEST(AgentLeaseTest, TicksComeToRest) {
  AgentBench bench(cpus(2));
  bench.request(kDriver, 1, cpus(1), 2);
  for (const GrantLease& grant : bench.grants()) bench.send(LeaseReturned{kDriver, grant.lease,
                                                            false});
  bench.advance_by(5s);
  EXPECT_EQ(bench.machine.next_tick(), std::nullopt);
}

}  // namespace
}  // namespace sheaf::scheduler::agent_lease_test
