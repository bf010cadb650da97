// What a `sock` listener does with those who do not belong: nothing is dispatched, memory and time
// are bounded, peers still get in, and the log says why.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <mutex>

#include "core/read_file.h"
#include "transport/fabric/frames.h"
#include "transport/fabric/sock_fabric.h"
#include "transport/fabric/sock_greeting.h"

namespace sheaf::transport {
namespace {

using Clock = EventLoop::Clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

class CaptureSink : public LogSink {
 public:
  void write(LogLevel, std::string_view, std::string_view text) override {
    lines.emplace_back(text);
  }
  void flush() override {}
  bool has(std::string_view part) const {
    for (const std::string& line : lines) {
      if (line.find(part) != std::string::npos) return true;
    }
    return false;
  }
  std::vector<std::string> lines;
};

size_t resident_bytes() {
  std::string text = read_file("/proc/self/statm");
  return std::stoull(text.substr(text.find(' ') + 1)) * static_cast<size_t>(getpagesize());
}

class SockHostileTest : public testing::Test {
 protected:
  SockHostileTest() {
    loop = std::move(EventLoop::create()).value();
    start();
  }

  SockFabricOptions options(PeerId self, FabricEvents events) {
    SockFabricOptions out;
    out.self = self;
    out.secret = secret;
    out.events = std::move(events);
    out.handshake_timeout = handshake_timeout;
    return out;
  }
  FabricEvents counting() {
    FabricEvents events;
    events.on_message = [this](const PeerId&, uint16_t, wire::Bytes) { ++messages; };
    events.on_peer = [this](const PeerId&, PeerState, const Status&) { ++changes; };
    return events;
  }
  void start() {
    SockFabricOptions made = options({1, 1}, counting());
    made.log = Logger("fabric", sink);
    made.half_open_max = 16;
    victim = std::move(make_sock_fabric(*loop, std::move(made))).value();
  }
  // For the tests in which it has to end something; the others get in on the busiest machine.
  void limit_greetings() {
    victim.reset();
    handshake_timeout = milliseconds(400);
    start();
  }
  // Refusals are told once a second, however long the machine took for the test.
  void expect_one_line_a_second() {
    auto took = std::chrono::duration_cast<seconds>(Clock::now() - begin);
    EXPECT_GE(sink->lines.size(), 1u);
    EXPECT_LE(sink->lines.size(), static_cast<size_t>(took.count()) + 1);
  }
  bool run_until(const std::function<bool()>& condition, milliseconds limit = seconds(30)) {
    for (auto end = Clock::now() + limit; Clock::now() < end;) {
      if (condition()) return true;
      loop->run_once(milliseconds(5));
    }
    return condition();
  }
  Fd raw() {
    SocketAddress to = std::move(to_socket_address(victim->address())).value();
    Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&to.storage), to.size), 0);
    return fd;
  }
  void send(const Fd& fd, std::string_view bytes) {
    (void)!::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  bool closed(const Fd& fd) {
    char c;
    for (;;) {
      ssize_t n = ::recv(fd.get(), &c, 1, MSG_DONTWAIT);
      if (n <= 0) return n == 0 || (errno != EAGAIN && errno != EINTR);
    }
  }
  // A connection that has the right key and says `hello`.
  Greeted greet(const ClusterSecret& with, const Hello& hello) {
    auto tls = std::move(TlsContext::create(with)).value();
    std::optional<Greeted> out;
    SockFabricOptions mine = options({2, 1}, {});
    auto greeting = Greeting::dial(*loop, tls, mine, victim->address(), hello,
                                   [&](Greeted greeted) { out = std::move(greeted); });
    EXPECT_TRUE(greeting.has_value());
    EXPECT_TRUE(run_until([&] { return out.has_value(); }));
    return std::move(*out);
  }
  Hello good_hello() {
    Hello hello;
    hello.self = {2, 1};
    hello.expected = {1, 0};
    hello.dial = ++dials;
    return hello;
  }
  void expect_that_peers_get_in() {
    FabricEvents events;
    events.on_message = [](const PeerId&, uint16_t, wire::Bytes) {};
    events.on_peer = [](const PeerId&, PeerState, const Status&) {};
    SockFabricOptions made = options({9, 1}, events);
    made.handshake_timeout = seconds(20);
    auto peer = std::move(make_sock_fabric(*loop, std::move(made))).value();
    bool up = false;
    peer->connect({1, 0}, victim->address(), Clock::now() + seconds(20),
                  [&](Result<PeerId> result) { up = result.has_value(); });
    EXPECT_TRUE(run_until([&] { return up; }));
  }

  ClusterSecret secret = ClusterSecret::random();
  std::shared_ptr<CaptureSink> sink = std::make_shared<CaptureSink>();
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Fabric> victim;
  size_t messages = 0, changes = 0;
  uint64_t dials = 0;
  milliseconds handshake_timeout = seconds(20);
  const Clock::time_point begin = Clock::now();
};

TEST_F(SockHostileTest, GarbageIsDroppedAtOnce) {
  const std::string kinds[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", std::string(100'000, 'A'),
                               std::string(5, '\0') + "\xff\xff\xff\xff",
                               std::string("\x16\x03\x01\xff\xff", 5) + std::string(60'000, '\1'),
                               "SSH-2.0-OpenSSH_9.2\r\n"};
  uint64_t want = 0;
  for (const std::string& garbage : kinds) {
    Fd fd = raw();
    send(fd, garbage);
    ++want;
    EXPECT_TRUE(run_until([&] { return victim->stats().refused == want; }))
        << garbage.substr(0, 20);
    EXPECT_TRUE(run_until([&] { return closed(fd); }));
  }
  EXPECT_EQ(victim->stats().half_open, 0u);
  EXPECT_EQ(messages + changes, 0u);
  EXPECT_TRUE(sink->has("does not speak TLS 1.3"));
  EXPECT_TRUE(sink->has("refused a connection from 127.0.0.1:"));
  expect_one_line_a_second();  // the rest is only counted
  expect_that_peers_get_in();
}

TEST_F(SockHostileTest, ARecordThatNeverEndsIsCutByBytesAndByTime) {
  limit_greetings();
  // A handshake record that announces 16 KB, byte by byte.
  Fd slow = raw();
  send(slow, std::string("\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03", 11));
  bool cut = run_until([&] {
    send(slow, "a");
    return closed(slow);
  });
  EXPECT_TRUE(cut);
  EXPECT_EQ(victim->stats().half_open, 0u);
}

TEST_F(SockHostileTest, HalfOpenConnectionsNeitherGrowNorKeepPeersOut) {
  limit_greetings();
  std::vector<Fd> idle;
  size_t before = resident_bytes();
  for (int i = 0; i < 300; ++i) {
    idle.push_back(raw());
    loop->run_once(milliseconds(0));
    EXPECT_LE(victim->stats().half_open, 16u);
  }
  expect_that_peers_get_in();
  EXPECT_LT(resident_bytes() - std::min(before, resident_bytes()), size_t{16} << 20);
  EXPECT_TRUE(run_until([&] { return victim->stats().half_open == 0; }));
}

TEST_F(SockHostileTest, APortScanIsOneLine) {
  for (int i = 0; i < 50; ++i) {
    Fd fd = raw();
    loop->run_once(milliseconds(0));
    fd.reset();
    loop->run_once(milliseconds(1));
  }
  EXPECT_TRUE(run_until([&] { return victim->stats().refused == 50; }));
  expect_one_line_a_second();
  EXPECT_TRUE(sink->has("closed by the other side"));
}

TEST_F(SockHostileTest, AWrongTokenIsRefusedOnBothSides) {
  ClusterSecret other = ClusterSecret::random();
  other.cluster = secret.cluster;
  Greeted result = greet(other, good_hello());
  EXPECT_EQ(result.status.code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(result.status.message(), "the other side refuses our cluster token");
  EXPECT_TRUE(run_until([&] { return victim->stats().refused == 1; }));
  EXPECT_TRUE(sink->has("wrong cluster token")) << sink->lines.back();
  EXPECT_EQ(messages + changes, 0u);
}

TEST_F(SockHostileTest, AnotherClusterIsRefused) {
  Greeted result = greet(ClusterSecret::random(), good_hello());
  EXPECT_EQ(result.status.code(), StatusCode::kPermissionDenied);
  EXPECT_TRUE(run_until([&] { return victim->stats().refused == 1; }));
  EXPECT_TRUE(sink->has("belongs to another cluster")) << sink->lines.back();
}

TEST_F(SockHostileTest, AnotherVersionIsToldSo) {
  Hello hello = good_hello();
  hello.version = kFabricVersion + 1;
  Greeted result = greet(secret, hello);
  EXPECT_EQ(result.status.code(), StatusCode::kUnsupported);
  EXPECT_NE(result.status.message().find("version 3"), std::string::npos)
      << result.status.message();
  EXPECT_TRUE(run_until([&] { return sink->has("speaks version 3"); }));
  EXPECT_EQ(changes, 0u);
}

TEST_F(SockHostileTest, AnImpostorServerIsNotTalkedTo) {
  // Listens, and has the cluster's id but not its token.
  ClusterSecret other = ClusterSecret::random();
  other.cluster = secret.cluster;
  FabricEvents events = counting();
  SockFabricOptions made = options({5, 1}, events);
  made.secret = other;
  auto impostor = std::move(make_sock_fabric(*loop, std::move(made))).value();
  std::optional<Status> end;
  victim->connect({5, 0}, impostor->address(), Clock::now() + seconds(20),
                  [&](Result<PeerId> up) { end = up.status(); });
  ASSERT_TRUE(run_until([&] { return end.has_value(); }));
  EXPECT_EQ(end->code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(changes, 0u);
}

TEST_F(SockHostileTest, ASilentServerIsGivenUpInTime) {
  limit_greetings();
  Fd listener;
  FabricAddress where;
  listener = std::move(listen_on({"127.0.0.1", 0}, &where)).value();
  std::optional<Status> end;
  auto start = Clock::now();
  victim->connect({5, 0}, where, start + seconds(20),
                  [&](Result<PeerId> up) { end = up.status(); });
  ASSERT_TRUE(run_until([&] { return end.has_value(); }));
  EXPECT_EQ(end->code(), StatusCode::kTimeout);
  EXPECT_LT(Clock::now() - start, seconds(15));  // the greeting's own limit comes first
}

// Records a whole session's bytes on their way to the victim, then sends them again.
TEST_F(SockHostileTest, AReplayedSessionAuthenticatesNobody) {
  FabricAddress at;
  Fd door = std::move(listen_on({"127.0.0.1", 0}, &at)).value();
  FabricEvents quiet;
  quiet.on_message = [](const PeerId&, uint16_t, wire::Bytes) {};
  quiet.on_peer = [](const PeerId&, PeerState, const Status&) {};
  auto client = std::move(make_sock_fabric(*loop, options({3, 1}, quiet))).value();
  bool up = false;
  client->connect({1, 0}, at, Clock::now() + seconds(20),
                  [&](Result<PeerId> result) { up = result.has_value(); });
  Fd near, far = raw();
  std::string recorded;
  auto relay = [](const Fd& from, const Fd& to, std::string* copy) {
    char buffer[4096];
    ssize_t n = from ? ::recv(from.get(), buffer, sizeof buffer, MSG_DONTWAIT) : -1;
    if (n <= 0) return;
    if (copy != nullptr) copy->append(buffer, static_cast<size_t>(n));
    (void)!::send(to.get(), buffer, static_cast<size_t>(n), MSG_NOSIGNAL);
  };
  bool sent = false;
  ASSERT_TRUE(run_until([&] {
    if (!near) near = Fd(::accept(door.get(), nullptr, nullptr));
    relay(near, far, &recorded);
    relay(far, near, nullptr);
    if (up && !sent) sent = client->send({1, 1}, 1, wire::as_bytes("once")).is_ok();
    return messages == 1;
  }));
  client->fail({1, 1}, {StatusCode::kDisconnected, "test"});
  far.reset();
  ASSERT_TRUE(run_until([&] { return changes == 2; }));
  Fd again = raw();
  send(again, recorded);
  EXPECT_TRUE(run_until([&] { return victim->stats().refused >= 1; }));
  EXPECT_EQ(messages, 1u);
  EXPECT_EQ(changes, 2u);
}

// An authenticated peer that breaks the rules loses its session, and nothing else happens.
TEST_F(SockHostileTest, AMemberThatBreaksTheRulesIsCutOff) {
  std::vector<std::string> offences(5);
  append_frame(offences[0], FrameKind::kPullOpen, PullOpen{0, {1, 1, 0, 5}, {}, 0});
  append_frame(offences[1], FrameKind::kPullOpen, PullOpen{1, {1, 1, 0, 5}, {}, 6});
  append_frame(offences[2], FrameKind::kCredit, Credit{1, 0});
  append_frame(offences[3], static_cast<FrameKind>(99), 0, 0, {});
  offences[4] = std::string("\xff\xff\xff\x7f\x10\0\0\0", 8);
  std::string flood;
  for (uint64_t i = 0; i < kFabricCreditMessages + 1; ++i) {
    append_frame(flood, FrameKind::kMessage, kMoreFragments, 1, wire::as_bytes("x"));
    if (i % 2 != 0) append_frame(flood, FrameKind::kMessage, 0, 2, wire::as_bytes("x"));
  }
  offences.push_back(flood);  // fragments of different messages
  size_t ends = 0;
  for (const std::string& offence : offences) {
    Greeted result = greet(secret, good_hello());
    ASSERT_TRUE(result.status.is_ok()) << result.status.to_string();
    ASSERT_TRUE(run_until([&] { return victim->is_up({2, 1}); }));
    size_t done = 0;
    ASSERT_EQ(result.stream->write(offence.data(), offence.size(), &done), TlsStream::Io::kDone);
    ends += 2;  // up and down
    EXPECT_TRUE(run_until([&] { return changes == ends; })) << "offence " << ends / 2;
    EXPECT_FALSE(victim->is_up({2, 1}));
  }
  EXPECT_EQ(messages, 0u);
}

TEST_F(SockHostileTest, ABulkConnectionNeedsASessionsName) {
  Hello hello = good_hello();
  hello.purpose = ConnectionPurpose::kBulk;
  hello.session = 12345;
  EXPECT_EQ(greet(secret, hello).status.code(), StatusCode::kDisconnected);
  Greeted control = greet(secret, good_hello());
  ASSERT_TRUE(control.status.is_ok());
  EXPECT_EQ(greet(secret, hello).status.code(), StatusCode::kDisconnected);
  hello.session = control.welcome.session;
  EXPECT_TRUE(greet(secret, hello).status.is_ok());
  EXPECT_EQ(greet(secret, hello).status.code(), StatusCode::kDisconnected);  // only once
}

}  // namespace
}  // namespace sheaf::transport
