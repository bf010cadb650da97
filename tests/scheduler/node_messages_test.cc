// The two variants that nodes exchange: round trips, and input that is not one of them.
#include <gtest/gtest.h>

#include "scheduler/node_lease.h"
#include "tests/scheduler/machines.h"

namespace sheaf::scheduler::node_messages_test {
namespace {

using namespace testing;

template <class T>
T round_trip(const T& message) {
  auto back = decode_node_message(wire::as_bytes(encode(NodeMessage(message))));
  SHEAF_CHECK(back.has_value() && std::holds_alternative<T>(*back));
  return std::get<T>(*back);
}

TEST(NodeMessagesTest, EveryAlternativeComesBackAsItWas) {
  auto spec = std::make_shared<protocol::ActorSpec>();
  spec->actor = {1, 2};
  spec->class_name = "Counter";
  const auto place = round_trip(PlaceActor{{1, 2}, 3, 4, spec, true, 2});
  EXPECT_EQ(place.spec->class_name, "Counter");
  EXPECT_EQ(place.incarnation, 3u);
  EXPECT_TRUE(place.job_ended);

  ClusterView view;
  view.nodes.push_back({kNode, 2, 3, "a:1", "a", cpus(2), cpus(1), {{"k", "v"}}, true});
  view.loads.push_back({5, cpus(1)});
  const auto seen = round_trip(view);
  ASSERT_EQ(seen.nodes.size(), 1u);
  EXPECT_EQ(seen.nodes[0].address, "a:1");
  EXPECT_EQ(seen.nodes[0].available, cpus(1));
  EXPECT_TRUE(seen.nodes[0].draining);
  EXPECT_EQ(seen.loads[0].number, 5);
  EXPECT_EQ(round_trip(GroupPlaced{{1, 1}, {2, 0}}).nodes, (std::vector<uint16_t>{2, 0}));
  EXPECT_EQ(round_trip(ReserveGroup{{1, 1}, 2, {{0, cpus(1)}}}).bundles[0].resources, cpus(1));

  auto report = decode_agent_report(wire::as_bytes(encode(AgentReport(BarrierReached{77}))));
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(std::get<BarrierReached>(*report).barrier, 77u);
}

TEST(NodeMessagesTest, WhatIsNoMessageIsRefused) {
  EXPECT_FALSE(decode_node_message({}).has_value());
  EXPECT_FALSE(decode_node_message(wire::as_bytes(std::string_view("\xff"))).has_value());
  const std::string whole = encode(NodeMessage(NodeGone{kNode, 2, 1, {}, 9}));
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(decode_node_message(wire::as_bytes(std::string_view(whole).substr(0, size))))
        << size;
  }
}

TEST(NodeMessagesTest, AJoinCarriesWhatTheNodeHas) {
  NodeJoin join;
  join.node = kNode;
  join.total = cpus(3);
  auto spec = std::make_shared<protocol::ActorSpec>();
  spec->name = "n";
  join.actors.push_back({{1, 1}, 4, 5, 6, true, spec});
  join.clients.push_back({9, protocol::ClientKind::kWorker, 6, {{1, 1}}, {}, {}});
  const auto back = wire::decode<NodeJoin>(wire::encode(join));
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->actors[0].spec->name, "n");
  EXPECT_TRUE(back->actors[0].running);
  EXPECT_EQ(back->clients[0].holds, join.clients[0].holds);
}

TEST(NodeLeaseTest, HeartbeatsGoOutAtTheirInterval) {
  NodeLease lease({}, 10s);
  EXPECT_FALSE(lease.heartbeat(10s + 299ms));
  EXPECT_EQ(lease.heartbeat(10s + 300ms), 10s + 300ms);
  EXPECT_FALSE(lease.heartbeat(10s + 301ms));
  EXPECT_EQ(lease.next_tick(), 10s + 600ms);
}

TEST(NodeLeaseTest, ItEndsBeforeTheControllerGivesItUp) {
  NodeLease lease({}, 10s);
  EXPECT_EQ(lease.fence_at(), 12s + 400ms);
  lease.renewed(11s);   // however late the answer comes, the time it was asked at counts
  lease.renewed(10s + 500ms);
  EXPECT_FALSE(lease.expired(13s + 399ms));
  EXPECT_TRUE(lease.expired(13s + 400ms));
  // The controller heard it at 11 s at the earliest, and waits for 3 s.
  EXPECT_LT(lease.fence_at(), 11s + NodeLeaseConfig{}.lease_time);
}

}  // namespace
}  // namespace sheaf::scheduler::node_messages_test
