// What nodes are told of each other: everything in a small cluster, room for those who look for it
// in a large one.
#include <gtest/gtest.h>

#include "tests/scheduler/machines.h"

namespace sheaf::scheduler::controller_view_test {
namespace {

using namespace testing;

NodeId id_of(uint16_t number) { return {number, number}; }

class ControllerViewTest : public ::testing::Test {
 protected:
  void join_up_to(uint16_t count) {
    for (auto n = static_cast<uint16_t>(bench.machine.nodes().size() + 1); n <= count; ++n) {
      if (n == 1) bench.add_node(cpus(8), id_of(1));
      else bench.join(id_of(n), cpus(8));
    }
    settle();
    bench.log.clear();
  }
  void settle() {
    for (int n = 0; n < 10; ++n) {
      for (const auto& [id, info] : bench.machine.nodes()) {
        bench.send(NodeHeartbeat{info.number, info.incarnation, bench.now});
      }
      bench.advance_by(100ms);
    }
  }
  void report(uint16_t number, double free, std::vector<WantedRoom> wanted = {},
              std::vector<uint16_t> named = {}) {
    bench.report(ReportResources{cpus(8), cpus(free), false, std::move(wanted), std::move(named)},
                 id_of(number));
  }
  // By who was told: whose load, the last one if several.
  std::map<uint16_t, std::map<uint16_t, ResourceMap>> loads() {
    settle();
    std::map<uint16_t, std::map<uint16_t, ResourceMap>> out;
    for (const ToNode& action : bench.take<ToNode>()) {
      const auto* view = std::get_if<ClusterView>(&action.message);
      if (!view) continue;
      for (const NodeLoad& load : view->loads) out[action.number][load.number] = load.available;
    }
    return out;
  }
  static WantedRoom one_cpu(uint32_t count) { return {cpus(1), {}, count, false}; }

  ControllerBench bench;
};

TEST_F(ControllerViewTest, InASmallClusterEverybodyHearsOfEveryLoad) {
  join_up_to(kNodesInFullViews);
  report(3, 2);
  const auto told = loads();
  EXPECT_EQ(told.size(), kNodesInFullViews);
  EXPECT_EQ(told.at(40).at(3), cpus(2));
}

TEST_F(ControllerViewTest, InALargeOneNobodyIsToldWhatItHasNoUseFor) {
  join_up_to(kNodesInFullViews + 6);
  report(3, 2);
  EXPECT_TRUE(loads().empty());
}

TEST_F(ControllerViewTest, WhoLooksForRoomIsToldOfEnough) {
  join_up_to(kNodesInFullViews + 6);
  report(3, 0, {one_cpu(32)});
  auto told = loads();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told.at(3).size(), 4u);   // of eight CPUs each
  const uint16_t one = told.at(3).begin()->first;
  EXPECT_FALSE(told.at(3).contains(3));
  report(one, 1);                     // others have been there
  told = loads();
  EXPECT_EQ(told.at(3).at(one), cpus(1));
  EXPECT_EQ(told.at(3).size(), 2u);   // and one in its stead
  report(one, 0);
  told = loads();
  EXPECT_EQ(told.at(3).at(one), ResourceMap());
  report(3, 4);                       // it looks no more: nothing of what it knows is kept true
  told = loads();
  for (const auto& [number, available] : told.at(3)) EXPECT_TRUE(available.empty());
  report(one, 8);
  EXPECT_TRUE(loads().empty());
}

TEST_F(ControllerViewTest, OneNodesRoomIsNotTheAnswerToAll) {
  join_up_to(kNodesInFullViews + 6);
  for (const bool look : {false, true}) {
    for (uint16_t number = 1; number <= kNodesInFullViews + 6; ++number) {
      std::vector<WantedRoom> wanted;
      if (look && number != 9) wanted = {one_cpu(1)};
      report(number, number == 9 ? 8 : 0, wanted);
    }
  }
  const auto first = loads();
  EXPECT_EQ(first.size(), 4u);
  for (const auto& [number, told] : first) report(number, 0);   // they have what they wanted
  const auto second = loads();
  size_t others = 0;
  for (const auto& [number, told] : second) others += !first.contains(number);
  EXPECT_EQ(others, 4u);              // whose turn it is
}

TEST_F(ControllerViewTest, WhatIsWantedApartIsManyNodes) {
  join_up_to(kNodesInFullViews + 6);
  WantedRoom apart = one_cpu(16);
  apart.apart = true;
  report(3, 8, {apart});
  EXPECT_EQ(loads().at(3).size(), 16u);
}

TEST_F(ControllerViewTest, NodesThatAreNamedAreToldOfWhateverTheirLoad) {
  join_up_to(kNodesInFullViews + 6);
  report(20, 0);
  report(3, 8, {}, {20, 21});
  auto told = loads();
  EXPECT_EQ(told.at(3).size(), 2u);
  report(20, 5);
  told = loads();
  EXPECT_EQ(told.at(3).at(20), cpus(5));
}

TEST_F(ControllerViewTest, AClusterThatGrowsAndShrinksForgetsAndTellsAllAgain) {
  join_up_to(kNodesInFullViews);
  bench.join(id_of(kNodesInFullViews + 1), cpus(8));
  auto told = loads();
  EXPECT_EQ(told.at(3).at(5), ResourceMap());
  bench.send(NodeLost{id_of(7), {}});
  report(4, 3);
  told = loads();
  EXPECT_EQ(told.at(3).at(5), cpus(8));
  EXPECT_EQ(told.at(3).at(4), cpus(3));
}

}  // namespace
}  // namespace sheaf::scheduler::controller_view_test
