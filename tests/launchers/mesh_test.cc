#include "launchers/mesh.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace sheaf::launchers {
namespace {

using namespace std::chrono_literals;

// Two daemons' meshes on one loop, over real sockets.
class MeshTest : public ::testing::Test {
 protected:
  struct Node {
    std::unique_ptr<Mesh> mesh;
    std::vector<std::string> heard;
    int silences = 0, refusals = 0, rooms = 0;
  };

  void SetUp() override {
    auto loop = EventLoop::create();
    ASSERT_TRUE(loop);
    loop_ = std::move(*loop);
    secret_ = transport::ClusterSecret::random();
    make(a_, {1, 1});
    make(b_, {2, 1});
  }
  void make(Node& node, PeerId self) {
    MeshOptions options;
    options.self = self;
    options.secret = secret_;
    options.listen = {"127.0.0.1", 0};
    options.reconnect_pause = 5ms;
    options.events.on_message = [&node](const PeerId&, uint16_t, wire::Bytes payload) {
      node.heard.emplace_back(wire::as_text(payload));
    };
    options.events.on_silence = [&node](const PeerId&, bool refused, const Status&) {
      ++(refused ? node.refusals : node.silences);
    };
    options.events.on_room = [&node](const PeerId&) { ++node.rooms; };
    auto mesh = Mesh::create(*loop_, std::move(options));
    ASSERT_TRUE(mesh) << mesh.status().to_string();
    node.mesh = std::move(*mesh);
  }
  void introduce() {
    a_.mesh->know(b_.mesh->self(), b_.mesh->address());
    b_.mesh->know(a_.mesh->self(), a_.mesh->address());
  }
  void send(Node& from, uint32_t to, const std::string& text) {
    from.mesh->send(to, 20, wire::as_bytes(text));
  }
  template <class Fact>
  bool run_until(const Fact& fact) {
    auto end = EventLoop::Clock::now() + 20s;
    while (!fact()) {
      if (EventLoop::Clock::now() > end) return false;
      loop_->run_once(5ms);
    }
    return true;
  }
  void break_connection() {
    Status why(StatusCode::kDisconnected, "the test cut it");
    a_.mesh->fabric().fail(b_.mesh->self(), why);
  }

  std::unique_ptr<EventLoop> loop_;
  transport::ClusterSecret secret_;
  Node a_, b_;
};

TEST_F(MeshTest, MessagesGoBothWaysInOrder) {
  introduce();
  for (int i = 0; i < 500; ++i) {
    send(a_, 2, std::to_string(i));
    send(b_, 1, std::to_string(-i));
  }
  ASSERT_TRUE(run_until([&] { return a_.heard.size() == 500 && b_.heard.size() == 500; }));
  for (int i = 0; i < 500; ++i) {
    EXPECT_EQ(b_.heard[static_cast<size_t>(i)], std::to_string(i));
    EXPECT_EQ(a_.heard[static_cast<size_t>(i)], std::to_string(-i));
  }
  EXPECT_TRUE(run_until([&] { return a_.mesh->unconfirmed_bytes() == 0; }));
}

TEST_F(MeshTest, NothingIsLostOrRepeatedWhenConnectionsBreak) {
  introduce();
  uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  constexpr size_t kMessages = 3000;
  size_t sent = 0;
  int breaks = 0;
  while (sent < kMessages) {
    size_t burst = 1 + random() % 40;
    for (size_t i = 0; i < burst && sent < kMessages; ++i, ++sent) {
      std::string text = std::to_string(sent);
      text.resize(text.size() + random() % 3000, ' ');
      send(a_, 2, text);
      send(b_, 1, text);
    }
    size_t rounds = random() % 4;
    for (size_t i = 0; i < rounds; ++i) loop_->run_once(1ms);
    if (random() % 8 == 0) {
      break_connection();
      ++breaks;
    }
  }
  auto all_heard = [&] { return a_.heard.size() >= kMessages && b_.heard.size() >= kMessages; };
  ASSERT_TRUE(run_until(all_heard))
      << a_.heard.size() << " and " << b_.heard.size() << " after " << breaks << " breaks";
  for (int i = 0; i < 20; ++i) loop_->run_once(2ms);
  for (const Node* node : {&a_, &b_}) {
    ASSERT_EQ(node->heard.size(), kMessages);
    for (size_t i = 0; i < kMessages; ++i) ASSERT_EQ(std::stoul(node->heard[i]), i);
  }
  EXPECT_GT(breaks, 3);
}

TEST_F(MeshTest, WhoHeardFirstWaitsForTheOther) {
  a_.mesh->know(b_.mesh->self(), b_.mesh->address());
  send(a_, 2, "early");
  for (int i = 0; i < 50; ++i) loop_->run_once(2ms);
  EXPECT_TRUE(b_.heard.empty()) << "b has not heard of a";
  b_.mesh->know(a_.mesh->self(), a_.mesh->address());
  ASSERT_TRUE(run_until([&] { return !b_.heard.empty(); }));
  EXPECT_EQ(b_.heard[0], "early");
}

TEST_F(MeshTest, AClosedPortProvesADeath) {
  introduce();
  send(a_, 2, "hello");
  ASSERT_TRUE(run_until([&] { return !b_.heard.empty(); }));
  b_.mesh.reset();
  EXPECT_TRUE(run_until([&] { return a_.refusals > 0; }));
}

TEST_F(MeshTest, AForgottenLifeIsNotHeardAgain) {
  introduce();
  send(b_, 1, "alive");
  ASSERT_TRUE(run_until([&] { return a_.heard.size() == 1; }));
  a_.mesh->forget(b_.mesh->self(), Status(StatusCode::kDisconnected, "declared dead"));
  send(b_, 1, "still here");
  for (int i = 0; i < 100; ++i) loop_->run_once(2ms);
  EXPECT_EQ(a_.heard.size(), 1u);
}

TEST_F(MeshTest, CongestionIsToldAndEnds) {
  introduce();
  std::string block(512 << 10, 'x');
  while (!a_.mesh->congested(2)) send(a_, 2, block);
  ASSERT_TRUE(run_until([&] { return a_.rooms > 0; }));
  EXPECT_FALSE(a_.mesh->congested(2));
}

}  // namespace
}  // namespace sheaf::launchers
