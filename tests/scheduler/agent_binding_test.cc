// The agent and CPUs: workers are bound before they are handed out, anew when the class changes.
#include <gtest/gtest.h>

#include "machines.h"
#include "topology_fixture.h"

namespace sheaf::scheduler::agent_binding_test {
namespace {

using namespace testing;
constexpr ProcessId kDriver = 2;

AgentConfig on(std::shared_ptr<const Topology> topology, BindingMode mode = BindingMode::kAuto) {
  AgentConfig config;
  config.topology = std::move(topology);
  config.binding = mode;
  return config;
}

TEST(AgentBindingTest, OneNumaNodeIsLeftAlone) {
  AgentBench bench(cpus(4), on(machine(1, 4)));
  bench.request(kDriver, 1, cpus(1), 4);
  for (const GrantLease& grant : bench.grants()) EXPECT_FALSE(grant.bind);
}

TEST(AgentBindingTest, WorkersAreBoundWithTheirLease) {
  AgentBench bench(cpus(4), on(machine(2, 4)));
  bench.request(kDriver, 1, cpus(1), 4);
  std::map<CpuList, int> seen;
  for (const GrantLease& grant : bench.grants()) {
    ASSERT_TRUE(grant.bind);
    ++seen[*grant.bind];
    EXPECT_EQ(bench.machine.workers().at(grant.worker).bound, *grant.bind);
  }
  EXPECT_EQ(seen, (std::map<CpuList, int>{{{0, 1, 2, 3}, 2}, {{4, 5, 6, 7}, 2}}));
}

TEST(AgentBindingTest, AReusedWorkerIsBoundAnewOnlyWhereItMustBe) {
  AgentBench bench(cpus(2), on(machine(2, 4)));
  bench.request(kDriver, 1, cpus(1), 1);
  const auto first = bench.grants();
  EXPECT_EQ(first.at(0).bind, (CpuList{0, 1, 2, 3}));
  bench.send(LeaseReturned{kDriver, first[0].lease, false});
  bench.request(kDriver, 1, cpus(1), 1);
  const auto again = bench.grants();
  EXPECT_EQ(again.at(0).worker, first[0].worker);
  EXPECT_FALSE(again[0].bind);
  bench.send(LeaseReturned{kDriver, again[0].lease, false});
  bench.request(kDriver, 2, cpus(0.5), 1);     // roams
  const auto free = bench.grants();
  EXPECT_EQ(free.at(0).worker, first[0].worker);
  EXPECT_EQ(free[0].bind, CpuList{});
  EXPECT_TRUE(bench.machine.workers().at(free[0].worker).bound.empty());
  bench.send(LeaseReturned{kDriver, free[0].lease, false});
  EXPECT_TRUE(bench.machine.binder().unused());
}

TEST(AgentBindingTest, TheIdleWorkerThatIsThereAlreadyIsPreferred) {
  AgentBench bench(cpus(2), on(machine(2, 4)));
  bench.request(kDriver, 1, cpus(1), 2);
  const auto both = bench.grants();
  ASSERT_EQ(both.size(), 2u);
  for (const GrantLease& grant : both) bench.send(LeaseReturned{kDriver, grant.lease, false});
  bench.request(kDriver, 1, cpus(1), 2);
  for (const GrantLease& grant : bench.grants()) EXPECT_FALSE(grant.bind);
}

TEST(AgentBindingTest, GpusAndCpusComeFromOnePlace) {
  ResourceMap total = cpus(8);
  total["GPU"] = 8 * kResourceUnit;
  AgentBench bench(total, on(machine(2, 4, 1, 4)));
  ResourceMap one = cpus(1), four = cpus(2);
  one["GPU"] = kResourceUnit;
  four["GPU"] = 4 * kResourceUnit;
  bench.request(kDriver, 1, one, 1);
  const auto first = bench.grants();
  EXPECT_EQ(first.at(0).devices.at("GPU"), (std::vector<uint32_t>{0}));
  EXPECT_EQ(first[0].bind, (CpuList{0, 1, 2, 3}));
  bench.request(kDriver, 2, four, 1);
  const auto second = bench.grants();
  EXPECT_EQ(second.at(0).devices.at("GPU"), (std::vector<uint32_t>{4, 5, 6, 7}));
  EXPECT_EQ(second[0].bind, (CpuList{4, 5, 6, 7}));
}

TEST(AgentBindingTest, AnActorIsBoundByWhatItKeeps) {
  AgentBench bench(cpus(4), on(machine(2, 4)));
  const auto place = [&](ActorId id, ResourceMap kept) {
    auto spec = std::make_shared<protocol::ActorSpec>();
    spec->actor = id;
    spec->placement.resources = std::move(kept);
    spec->creation_resources = cpus(1);
    PlaceActor message;
    message.actor = id;
    message.incarnation = 1;
    message.job = 1;
    message.spec = spec;
    bench.send(FromController{message});
    bench.register_spawned();
    return bench.take<StartActor>();
  };
  const auto idle = place({1, 1}, {});
  ASSERT_EQ(idle.size(), 1u);
  EXPECT_FALSE(idle[0].bind);
  const auto busy = place({2, 2}, cpus(2));
  ASSERT_EQ(busy.size(), 1u);
  EXPECT_EQ(busy[0].bind, (CpuList{0, 1, 2, 3}));
  bench.send(FromController{ActorRunning{{2, 2}, 1}});
  bench.send(ProcessDied{busy[0].worker, {}});
  bench.send(ProcessDied{idle[0].worker, {}});
  EXPECT_TRUE(bench.machine.binder().unused());
}

TEST(AgentBindingTest, ABlockedWorkerLendsItsCores) {
  AgentBench bench(cpus(2), on(machine(1, 2), BindingMode::kCore));
  bench.request(kDriver, 1, cpus(1), 3);
  auto grants = bench.grants();
  ASSERT_EQ(grants.size(), 2u);
  EXPECT_NE(grants[0].bind, grants[1].bind);
  bench.send(WorkerBlocked{grants[0].worker});
  auto third = bench.grants();
  ASSERT_EQ(third.size(), 1u);
  EXPECT_EQ(third[0].bind, grants[0].bind);
  bench.send(WorkerUnblocked{grants[0].worker});    // both run on that core for a while
  bench.send(LeaseReturned{kDriver, third[0].lease, false});
  for (int i : {0, 1}) bench.send(LeaseReturned{kDriver, grants[i].lease, false});
  EXPECT_TRUE(bench.machine.binder().unused());
}

TEST(AgentBindingTest, ABlockedWorkerStillCountsOnItsNumaNode) {
  AgentBench bench(cpus(2), on(machine(2, 4)));
  bench.request(kDriver, 1, cpus(1), 1);
  const auto first = bench.grants();
  EXPECT_EQ(first.at(0).bind, (CpuList{0, 1, 2, 3}));
  bench.send(WorkerBlocked{first[0].worker});
  bench.request(kDriver, 1, cpus(1), 1);
  const auto second = bench.grants();
  EXPECT_EQ(second.at(0).bind, (CpuList{4, 5, 6, 7}));
  bench.send(WorkerUnblocked{first[0].worker});
  for (const auto& grants : {first, second}) {
    bench.send(LeaseReturned{kDriver, grants[0].lease, false});
  }
  EXPECT_TRUE(bench.machine.binder().unused());
}

TEST(AgentBindingTest, DeadWorkersGiveTheirCoresBackOnce) {
  AgentBench bench(cpus(4), on(machine(2, 2), BindingMode::kCore));
  bench.request(kDriver, 1, cpus(2), 2);
  auto grants = bench.grants();
  ASSERT_EQ(grants.size(), 2u);
  bench.send(WorkerBlocked{grants[0].worker});
  bench.send(ProcessDied{grants[0].worker, {}, false});
  bench.send(ProcessReaped{grants[0].worker});
  bench.send(ProcessDied{grants[1].worker, {}});
  EXPECT_TRUE(bench.machine.binder().unused());
}

}  // namespace
}  // namespace sheaf::scheduler::agent_binding_test
