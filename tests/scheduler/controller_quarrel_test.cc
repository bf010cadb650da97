// Members that reach the head and not each other: who has to go, when, and when nobody has to.
#include <gtest/gtest.h>

#include "tests/scheduler/machines.h"

namespace sheaf::scheduler::controller_quarrel_test {
namespace {

using namespace testing;

class ControllerQuarrelTest : public ::testing::Test {
 protected:
  ControllerQuarrelTest() {
    bench.add_node(cpus(2), id(1));
    for (uint16_t number = 2; number <= 6; ++number) {
      EXPECT_EQ(bench.join(id(number), cpus(2)), number);
    }
    bench.log.clear();
  }
  static NodeId id(uint16_t number) { return {number, number}; }
  void complain(uint16_t number, std::vector<uint16_t> about) {
    bench.report(PeersSilent{std::move(about)}, id(number));
  }
  // Of all members but `silent`.
  void beat(uint16_t silent = 0) {
    for (uint16_t number = 2; number <= 6; ++number) {
      if (number != silent) bench.send(NodeHeartbeat{number, 1, bench.now});
    }
  }
  void pass(Time time, uint16_t silent = 0) {
    for (Time end = bench.now + time; bench.now < end;) {
      beat(silent);
      bench.advance_by(100ms);
    }
  }
  // Who has been told to go since the last call, in order.
  std::vector<uint16_t> told_to_go() {
    std::vector<uint16_t> out;
    for (const ToNode& action : bench.take<ToNode>()) {
      const auto* gone = std::get_if<NodeGone>(&action.message);
      if (gone && gone->number == action.number) out.push_back(gone->number);
    }
    return out;
  }
  using Numbers = std::vector<uint16_t>;

  ControllerBench bench;
};

TEST_F(ControllerQuarrelTest, TheYoungerOfTwoHasToGoAfterALeasesTime) {
  complain(3, {5});
  pass(2900ms);
  EXPECT_EQ(told_to_go(), Numbers());
  pass(300ms);
  EXPECT_EQ(told_to_go(), Numbers{5});
  EXPECT_TRUE(bench.take<FenceNode>().empty());   // it may not have heard of it
  EXPECT_TRUE(bench.machine.nodes().at(id(5)).draining);
  bench.send(NodeLost{id(5), {protocol::ErrorKind::kNodeDied, "refused", "", {}}});
  const auto fenced = bench.take<FenceNode>();
  ASSERT_EQ(fenced.size(), 1u);
  EXPECT_NE(fenced[0].cause.message.find("could not reach each other"), std::string::npos);
  pass(4s);
  EXPECT_EQ(told_to_go(), Numbers());
  EXPECT_EQ(bench.machine.nodes().size(), 5u);
}

TEST_F(ControllerQuarrelTest, OneThatCannotBeToldEndsWithItsLease) {
  complain(3, {5});
  pass(3200ms);
  bench.take<RenewLease>();
  beat();
  for (const RenewLease& renewed : bench.take<RenewLease>()) EXPECT_NE(renewed.number, 5);
  NodeJoin again;
  again.node = id(5);
  again.number = 5;
  again.incarnation = 1;
  bench.send(NodeAsks{again});
  EXPECT_EQ(bench.take<NodeRefused>().size(), 1u);
  pass(2600ms);
  EXPECT_TRUE(bench.take<FenceNode>().empty());
  pass(500ms);
  EXPECT_EQ(bench.take<FenceNode>().size(), 1u);
}

TEST_F(ControllerQuarrelTest, ALinkThatComesBackHurtsNobody) {
  complain(3, {5});
  complain(5, {3});
  pass(2s);
  complain(3, {});
  pass(500ms);
  complain(5, {});
  pass(6s);
  EXPECT_EQ(told_to_go(), Numbers());
  EXPECT_EQ(bench.machine.nodes().size(), 6u);
}

TEST_F(ControllerQuarrelTest, TheOneWithMostQuarrelsGoesAndTheOthersStay) {
  complain(3, {2});
  complain(2, {4, 6});
  pass(3200ms);
  EXPECT_EQ(told_to_go(), Numbers{2});
}

TEST_F(ControllerQuarrelTest, TwoHalvesLoseTheSmallerOne) {
  for (uint16_t number : {2, 3}) complain(number, {4, 5, 6});
  pass(3200ms);
  EXPECT_EQ(told_to_go(), (Numbers{3, 2}));
}

TEST_F(ControllerQuarrelTest, TheOneWithActorsStays) {
  const ProcessId driver = make_process(1, 1, 5);
  bench.add_driver(driver);
  bench.sync();
  protocol::ActorSpec spec;
  spec.actor = {driver, 1};
  spec.placement.resources = cpus(1);
  spec.placement.strategy.kind = protocol::StrategyKind::kNodeAffinity;
  spec.placement.strategy.node = to_hex(id(5));
  bench.ask(driver, protocol::ActorCreate{spec});
  complain(5, {3});
  pass(3200ms);
  EXPECT_EQ(told_to_go(), Numbers{3});
}

TEST_F(ControllerQuarrelTest, WhoIsCutOffAltogetherTakesNobodyAlong) {
  complain(3, {2, 4, 5, 6});
  pass(2s);
  pass(4s, 3);   // the head does not hear it any more either
  EXPECT_EQ(told_to_go(), Numbers());
  EXPECT_EQ(bench.take<FenceNode>().size(), 1u);   // its lease
  EXPECT_EQ(bench.machine.nodes().size(), 5u);
}

TEST_F(ControllerQuarrelTest, TheHeadsOwnLinkIsNotForAQuarrel) {
  complain(3, {1, 3, 77});
  bench.report(PeersSilent{{4}}, id(1));
  pass(8s);
  EXPECT_EQ(told_to_go(), Numbers());
}

}  // namespace
}  // namespace sheaf::scheduler::controller_quarrel_test
