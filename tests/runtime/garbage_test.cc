// Nonsense on a lane between two processes: whoever wrote it counts as dead, and nobody waits for ever.
#include <signal.h>

#include <optional>

#include "tests/runtime/cluster_fixture.h"
#include "tests/runtime/garbage_library.h"
#include "tests/runtime/lane_access.h"

namespace testlib {
namespace {

using sheaf::runtime::LaneType;
using sheaf::runtime::Locked;
using sheaf::runtime::Peer;
using sheaf::runtime::Runtime;
using sheaf::runtime::TaskHead;

class GarbageTest : public ClusterTest {
 public:
  static void SetUpTestSuite() {
    sheaf::Options options = small_cluster();
    options.library = SHEAF_TEST_GARBAGE;
    start(options);
  }

 protected:
  // A task that runs on a worker until release(), and what identifies it on the lane.
  void start_held() {
    held_ = sheaf::task(testgarbage::hold).remote(temp_.file("started"), temp_.file("go"));
    ASSERT_TRUE(eventually([&] { return exists(temp_.file("started")); }, 30s));
  }
  void release() { std::ofstream(temp_.file("go")) << "go"; }
  // Sends a record to the worker that runs it.
  template <class Make>
  void send_task(Make make) {
    auto& rt = Runtime::current()->impl();
    Locked guard(rt);
    rt.peers.for_each([&](Peer& peer) {
      if (peer.in_flight.size == 0) return;
      const std::string record = make(peer.in_flight.head->cookie);
      peer.lane.send(static_cast<uint16_t>(LaneType::kTask), sheaf::wire::as_bytes(record));
    });
  }
  static std::string bytes_of(const TaskHead& head) {
    return std::string(reinterpret_cast<const char*>(&head), sizeof head);
  }
  void expect_refused(const std::string& why) {
    try {
      sheaf::get(*held_, 30s);
      FAIL() << "a record that says nothing was run";
    } catch (const sheaf::Error& error) {
      EXPECT_EQ(error.kind(), sheaf::ErrorKind::kSystem);
      EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
    }
  }
  std::optional<sheaf::ObjectRef<int>> held_;
};

TEST_F(GarbageTest, TaskThatCannotBeParsedIsAnswered) {
  start_held();
  send_task([](uint64_t cookie) {
    TaskHead head{};
    head.cookie = cookie;
    head.n_returns = 1;
    head.n_deps = 1000;   // and none of them follows
    return bytes_of(head);
  });
  expect_refused("cannot be parsed");
  release();
  EXPECT_GT(sheaf::get(sheaf::task(testgarbage::pid_of).remote(0), 30s), 0) << "the worker goes on";
}

TEST_F(GarbageTest, TaskOfUnknownFunctionIsAnswered) {
  start_held();
  send_task([](uint64_t cookie) {
    TaskHead head{};
    head.cookie = cookie;
    head.n_returns = 1;
    head.template_index = 9999;
    return bytes_of(head);
  });
  expect_refused("never described");
  release();
}

TEST_F(GarbageTest, WorkerLeavesADriverThatItCannotUnderstand) {
  start_held();
  send_task([](uint64_t) { return std::string("xyz"); });
  release();
  EXPECT_EQ(sheaf::get(*held_, 30s), 7) << "lost with its worker, and run again";
  EXPECT_GT(sheaf::get(sheaf::task(testgarbage::pid_of).remote(0), 30s), 0);
}

TEST_F(GarbageTest, WorkerThatSpoilsItsRingCountsAsDead) {
  const std::string marker = temp_.file("spoiled");
  auto ref = sheaf::task(testgarbage::break_lane).max_retries(1).remote(marker);
  const int second = sheaf::get(ref, 30s);
  int first = 0;
  std::ifstream(marker) >> first;
  EXPECT_NE(first, second) << "run again by another worker";
  EXPECT_TRUE(eventually([&] { return ::kill(first, 0) != 0; })) << "the daemon ended it";
}

TEST_F(GarbageTest, WithoutRetriesTheCallFails) {
  auto ref = sheaf::task(testgarbage::break_lane).max_retries(0).remote(temp_.file("spoiled"));
  EXPECT_THROW(sheaf::get(ref, 30s), sheaf::WorkerCrashedError);
  EXPECT_GT(sheaf::get(sheaf::task(testgarbage::pid_of).remote(0), 30s), 0);
}

}  // namespace
}  // namespace testlib
