// Peers that are killed, stopped and started again, as real processes.
#include "tests/fabric/fabric_fixture.h"

namespace sheaf::transport::test {
namespace {

class FabricProcessTest : public FabricTest {};
INSTANTIATE_TEST_SUITE_P(Backends, FabricProcessTest, testing::ValuesIn(all_backends()),
                         [](const auto& one) { return one.param.name; });

constexpr uint64_t kBytes = uint64_t{32} << 20;
// Before the limit on silence (10 s) could have ended anything, on a busy machine too.
constexpr seconds kSooner(8);

TEST_P(FabricProcessTest, MessagesAndBytesComeFromAnotherProcess) {
  auto a = node(1);
  PeerProcess peer(GetParam(), options(2), kBytes);
  ASSERT_TRUE(connect(*a, {2, 1}, peer.address).has_value());
  auto run = pull(*a, {2, 1}, 0, kBytes);
  ASSERT_TRUE(a->fabric->send({2, 1}, kEcho, wire::as_bytes("hello")).is_ok());
  ASSERT_TRUE(run_until([&] { return run->ended() && a->inbox.size() == 1; }));
  EXPECT_TRUE(run->end() == StatusCode::kOk && has_pattern(run->into, 0));
  EXPECT_EQ(a->inbox[0].payload, "hello");
}

TEST_P(FabricProcessTest, AKilledExporterFailsItsPullsAtOnce) {
  for (int round = 0; round < 5; ++round) {
    auto a = node(1);
    PeerProcess peer(GetParam(), options(2), kBytes);
    ASSERT_TRUE(connect(*a, {2, 1}, peer.address).has_value());
    std::vector<std::unique_ptr<PullRun>> runs;
    for (int i = 0; i < 4; ++i) runs.push_back(pull(*a, {2, 1}, 0, kBytes));
    run_for(milliseconds(7 * round));
    peer.kill9();
    auto start = Clock::now();
    ASSERT_TRUE(run_until([&] {
      return a->downs() == 1 &&
             std::all_of(runs.begin(), runs.end(), [](auto& run) { return run->ended(); });
    }));
    EXPECT_LT(Clock::now() - start, kSooner);
    for (auto& run : runs) {
      if (run->end() == StatusCode::kOk) {
        EXPECT_TRUE(has_pattern(run->into, 0));
        continue;
      }
      EXPECT_EQ(run->end(), StatusCode::kDisconnected);
    }
  }
}

TEST_P(FabricProcessTest, AKilledReaderLeavesNothingHeld) {
  auto a = node(1);
  a->export_bytes(kBytes);
  for (int round = 0; round < 5; ++round) {
    PeerProcess peer(GetParam(), options(2, 1 + static_cast<uint64_t>(round)), 8);
    ASSERT_TRUE(connect(*a, {2, 0}, peer.address).has_value());
    uint64_t bytes = kBytes;
    std::string command(reinterpret_cast<const char*>(&bytes), sizeof bytes);
    PeerId id{2, 1 + static_cast<uint64_t>(round)};
    ASSERT_TRUE(a->fabric->send(id, kPullFromMe, wire::as_bytes(command)).is_ok());
    ASSERT_TRUE(run_until([&] { return a->fabric->stats().ranges_held == 1; }));
    run_for(milliseconds(5 * round));
    peer.kill9();
    EXPECT_TRUE(run_until([&] { return a->fabric->stats().ranges_held == 0; }, kSooner));
    EXPECT_TRUE(run_until([&] { return !a->fabric->is_up(id); }, kSooner));
  }
  EXPECT_EQ(a->guard.acquired, a->guard.released);
}

TEST_P(FabricProcessTest, AStoppedExporterMissesTheDeadlineAndItsLateBytesGoNowhere) {
  auto a = node(1);
  PeerProcess peer(GetParam(), options(2), kBytes);
  ASSERT_TRUE(connect(*a, {2, 1}, peer.address).has_value());
  auto warm = pull(*a, {2, 1}, 0, 1 << 20);
  ASSERT_TRUE(run_until([&] { return warm->ended(); }));
  peer.signal(SIGSTOP);
  auto run = pull(*a, {2, 1}, 0, kBytes,
                  {PullPriority::kTaskArgument, Clock::now() + milliseconds(100)});
  auto start = Clock::now();
  ASSERT_TRUE(run_until([&] { return run->ended(); }));
  EXPECT_LT(Clock::now() - start, kSooner);
  EXPECT_EQ(run->end(), StatusCode::kTimeout);
  std::fill(run->into.begin(), run->into.end(), std::byte{0xee});
  peer.signal(SIGCONT);
  auto after = pull(*a, {2, 1}, 17, 1 << 20);
  ASSERT_TRUE(run_until([&] { return after->ended(); }));
  EXPECT_TRUE(after->end() == StatusCode::kOk && has_pattern(after->into, 17));
  EXPECT_TRUE(std::all_of(run->into.begin(), run->into.end(),
                          [](std::byte b) { return b == std::byte{0xee}; }));
}

TEST_P(FabricProcessTest, AStoppedReceiverBoundsWhatItsSenderKeeps) {
  auto a = node(1);
  PeerProcess peer(GetParam(), options(2), 8);
  ASSERT_TRUE(connect(*a, {2, 1}, peer.address).has_value());
  peer.signal(SIGSTOP);
  std::string full(kFabricFragmentBytes, 'f');
  size_t sent = 0;
  while (sent < 100'000 && a->fabric->send({2, 1}, 9, wire::as_bytes(full)).is_ok()) {
    ++sent;
    loop->run_once(milliseconds(0));
  }
  EXPECT_LT(sent * full.size(), size_t{8} << 20);
  peer.signal(SIGCONT);
  EXPECT_TRUE(run_until([&] { return a->room == 1; }));
}

TEST_P(FabricProcessTest, APeerThatIsFailedWhileItSleepsWakesToAnEndedSession) {
  auto a = node(1);
  PeerProcess peer(GetParam(), options(2), kBytes);
  ASSERT_TRUE(connect(*a, {2, 1}, peer.address).has_value());
  auto run = pull(*a, {2, 1}, 0, kBytes);
  peer.signal(SIGSTOP);
  a->fabric->fence(2, 2);
  ASSERT_TRUE(run_until([&] { return run->ended(); }, kSooner));
  std::fill(run->into.begin(), run->into.end(), std::byte{0xee});
  peer.signal(SIGCONT);
  run_for(milliseconds(50));
  EXPECT_TRUE(std::all_of(run->into.begin(), run->into.end(),
                          [](std::byte b) { return b == std::byte{0xee}; }));
  EXPECT_FALSE(connect(*a, {2, 1}, peer.address).has_value());
}

TEST_P(FabricProcessTest, APeerStartsAgainOnItsPort) {
  auto a = node(1);
  NodeOptions where = options(2, 1);
  auto first = std::make_unique<PeerProcess>(GetParam(), where, kBytes);
  ASSERT_TRUE(connect(*a, {2, 0}, first->address).has_value());
  where.port = first->address.port;
  first->kill9();
  ASSERT_TRUE(run_until([&] { return a->downs() == 1; }));
  where.self.incarnation = 2;
  PeerProcess second(GetParam(), where, kBytes);
  ASSERT_EQ(second.address, first->address);
  EXPECT_FALSE(connect(*a, {2, 1}, second.address).has_value());
  auto up = connect(*a, {2, 0}, second.address);
  ASSERT_TRUE(up.has_value()) << up.status().to_string();
  EXPECT_EQ(up->incarnation, 2u);
  auto run = pull(*a, {2, 2}, 0, kBytes);
  ASSERT_TRUE(run_until([&] { return run->ended(); }));
  EXPECT_TRUE(run->end() == StatusCode::kOk && has_pattern(run->into, 0));
}

}  // namespace
}  // namespace sheaf::transport::test
