// Sessions: who is connected to whom, lives of a node, fences, ends.
#include "tests/fabric/fabric_fixture.h"

namespace sheaf::transport::test {
namespace {

class FabricSessionTest : public FabricTest {};
INSTANTIATE_TEST_SUITE_P(Backends, FabricSessionTest, testing::ValuesIn(all_backends()),
                         [](const auto& one) { return one.param.name; });

TEST_P(FabricSessionTest, ConnectingTwiceGivesOneSession) {
  auto a = node(1), b = node(2);
  join(*a, *b);
  EXPECT_TRUE(connect(*a, {2, 0}, b->fabric->address()).has_value());
  EXPECT_TRUE(connect(*b, {1, 1}, a->fabric->address()).has_value());
  run_for(milliseconds(20));
  EXPECT_EQ(a->ups(), 1u);
  EXPECT_EQ(b->ups(), 1u);
}

TEST_P(FabricSessionTest, SimultaneousDialsEndWithOneSession) {
  for (int i = 0; i < 30; ++i) {
    auto a = node(1), b = node(2);
    int done = 0, good = 0;
    auto count = [&](Result<PeerId> up) {
      ++done;
      good += up.has_value();
    };
    a->fabric->connect({2, 0}, b->fabric->address(), Clock::now() + seconds(20), count);
    for (int r = 0; r < i % 7; ++r) loop->run_once(milliseconds(0));
    b->fabric->connect({1, 0}, a->fabric->address(), Clock::now() + seconds(20), count);
    ASSERT_TRUE(run_until([&] { return done == 2; }));
    ASSERT_EQ(good, 2) << "round " << i;
    ASSERT_TRUE(a->fabric->send({2, 1}, 1, {}).is_ok());
    ASSERT_TRUE(b->fabric->send({1, 1}, 1, {}).is_ok());
    ASSERT_TRUE(
        run_until([&] { return a->inbox.size() == 1 && b->inbox.size() == 1; }));
    run_for(milliseconds(5));
    EXPECT_EQ(a->fabric->stats().peers_up, 1u);
    EXPECT_EQ(a->downs() + b->downs(), 0u) << "round " << i;
  }
}

TEST_P(FabricSessionTest, NobodyThereIsSaidAtOnce) {
  auto a = node(1);
  FabricAddress gone;
  {
    auto b = node(2);
    gone = b->fabric->address();
  }
  EXPECT_EQ(connect(*a, {2, 0}, gone).status().code(), StatusCode::kDisconnected);
  EXPECT_EQ(connect(*a, {2, 0}, {"not an address", 1}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(connect(*a, {1, 0}, a->fabric->address()).status().code(),
            StatusCode::kInvalidArgument);
}

TEST_P(FabricSessionTest, AnotherLifeOrNodeThanTheOneMeantIsNotTaken) {
  auto a = node(1), b = node(2, 5);
  EXPECT_EQ(connect(*a, {2, 4}, b->fabric->address()).status().code(), StatusCode::kDisconnected);
  EXPECT_EQ(connect(*a, {3, 0}, b->fabric->address()).status().code(), StatusCode::kDisconnected);
  EXPECT_TRUE(b->changes.empty());
  auto up = connect(*a, {2, 0}, b->fabric->address());
  ASSERT_TRUE(up.has_value());
  EXPECT_EQ(*up, (PeerId{2, 5}));
}

TEST_P(FabricSessionTest, ARestartedNodeReplacesItsEarlierLife) {
  auto a = node(1), b = node(2, 1);
  a->export_bytes(size_t{64} << 20);
  join(*b, *a);
  auto early = pull(*b, {1, 1}, 0, a->memory.size());
  run_until([&] { return a->fabric->stats().ranges_held == 1; });
  auto later = node(2, 2);
  join(*later, *a);
  EXPECT_FALSE(a->fabric->is_up({2, 1}));
  EXPECT_TRUE(a->fabric->is_up({2, 2}));
  ASSERT_TRUE(run_until([&] { return early->ended() && a->fabric->stats().ranges_held == 0; }));
  EXPECT_EQ(early->end(), StatusCode::kDisconnected);
  // The earlier life is refused from now on.
  ASSERT_TRUE(run_until([&] { return b->downs() == 1; }));
  auto refused = connect(*b, {1, 1}, a->fabric->address());
  EXPECT_EQ(refused.status().code(), StatusCode::kPermissionDenied)
      << refused.status().to_string();
  EXPECT_EQ(a->fabric->send({2, 1}, 1, {}).code(), StatusCode::kDisconnected);
  EXPECT_TRUE(a->fabric->send({2, 2}, 1, {}).is_ok());
}

TEST_P(FabricSessionTest, AFenceEndsAndRefusesALife) {
  auto a = node(1), b = node(2, 1);
  join(*b, *a);
  a->fabric->fence(2, 2);
  EXPECT_FALSE(a->fabric->is_up({2, 1}));
  ASSERT_TRUE(run_until([&] { return b->downs() == 1; }));
  EXPECT_FALSE(connect(*b, {1, 1}, a->fabric->address()).has_value());
  EXPECT_FALSE(connect(*a, {2, 1}, b->fabric->address()).has_value());
  auto next = node(2, 2);
  EXPECT_TRUE(connect(*next, {1, 1}, a->fabric->address()).has_value());
}

TEST_P(FabricSessionTest, FailEndsEverythingAndANewSessionWorks) {
  auto a = node(1), b = node(2);
  a->export_bytes(size_t{64} << 20);
  b->export_bytes(size_t{64} << 20);
  for (int i = 0; i < 5; ++i) {
    join(*a, *b);
    std::vector<std::unique_ptr<PullRun>> runs;
    for (int k = 0; k < 70; ++k) runs.push_back(pull(*a, {2, 1}, k, 2 << 20));
    for (int k = 0; k < 10; ++k) runs.push_back(pull(*b, {1, 1}, k, 4 << 20));
    run_for(milliseconds(3 * i));
    auto start = Clock::now();
    a->fabric->fail({2, 1}, {StatusCode::kDisconnected, "the detector says so"});
    EXPECT_FALSE(a->fabric->is_up({2, 1}));
    ASSERT_TRUE(run_until([&] {
      return std::all_of(runs.begin(), runs.end(), [](auto& run) { return run->ended(); });
    }));
    EXPECT_LT(Clock::now() - start, seconds(8));
    for (auto& run : runs) {
      EXPECT_TRUE(run->end() == StatusCode::kDisconnected || run->end() == StatusCode::kOk);
    }
    size_t due = static_cast<size_t>(i) + 1;
    ASSERT_TRUE(run_until([&] { return b->downs() == due && a->downs() == due; }));
    ASSERT_TRUE(run_until([&] {
      return a->fabric->stats().ranges_held == 0 && b->fabric->stats().ranges_held == 0;
    }));
  }
}

TEST_P(FabricSessionTest, ClosingRunsEveryCallback) {
  auto a = node(1), b = node(2);
  a->export_bytes(size_t{64} << 20);
  b->export_bytes(size_t{64} << 20);
  join(*a, *b);
  std::vector<std::unique_ptr<PullRun>> runs;
  for (int k = 0; k < 70; ++k) runs.push_back(pull(*a, {2, 1}, k, 2 << 20));
  auto other = pull(*b, {1, 1}, 0, 64 << 20);
  bool connected = false;
  a->fabric->connect({3, 0}, {"127.0.0.1", 1}, Clock::now() + seconds(20),
                     [&](Result<PeerId> up) { connected = !up.has_value(); });
  for (int i = 0; i < 10; ++i) loop->run_once(milliseconds(1));
  a->fabric->close();
  EXPECT_TRUE(connected);
  for (auto& run : runs) EXPECT_TRUE(run->ended());
  EXPECT_EQ(a->downs(), 1u);
  EXPECT_EQ(a->guard.acquired, a->guard.released);
  ASSERT_TRUE(run_until([&] { return other->ended() && b->downs() == 1; }));
}

TEST_P(FabricSessionTest, NodesWithoutANumberAreToldApart) {
  auto head = node(0), one = node(kNoNode, 111), two = node(kNoNode, 222);
  join(*one, *head);
  join(*two, *head);
  ASSERT_TRUE(head->fabric->send({kNoNode, 111}, 1, wire::as_bytes("one")).is_ok());
  ASSERT_TRUE(head->fabric->send({kNoNode, 222}, 1, wire::as_bytes("two")).is_ok());
  ASSERT_TRUE(run_until([&] { return one->inbox.size() == 1 && two->inbox.size() == 1; }));
  EXPECT_EQ(one->inbox[0].payload, "one");
  EXPECT_EQ(two->inbox[0].payload, "two");
}

TEST_P(FabricSessionTest, EightNodesInAFullMesh) {
  std::vector<std::unique_ptr<Node>> nodes;
  for (uint32_t i = 0; i < 8; ++i) {
    nodes.push_back(node(i));
    nodes.back()->export_bytes(1 << 20);
  }
  int wanted = 0, done = 0;
  for (auto& from : nodes) {
    for (auto& to : nodes) {
      if (from == to) continue;
      ++wanted;
      from->fabric->connect(to->fabric->self(), to->fabric->address(), Clock::now() + seconds(20),
                            [&](Result<PeerId> up) { done += up.has_value(); });
    }
  }
  ASSERT_TRUE(run_until([&] { return done == wanted; }));
  std::vector<std::unique_ptr<PullRun>> runs;
  for (uint32_t from = 0; from < 8; ++from) {
    for (uint32_t to = 0; to < 8; ++to) {
      if (from != to) runs.push_back(pull(*nodes[from], {to, 1}, 0, 1 << 20));
    }
  }
  ASSERT_TRUE(run_until([&] {
    return std::all_of(runs.begin(), runs.end(), [](auto& run) { return run->ended(); });
  }));
  for (auto& run : runs) EXPECT_TRUE(run->end() == StatusCode::kOk && has_pattern(run->into, 0));
}

}  // namespace
}  // namespace sheaf::transport::test
