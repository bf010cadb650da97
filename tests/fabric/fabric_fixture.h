// What the conformance suite is made of: nodes that share one loop in this process, driven by the
// test, and peers that are processes of their own.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/fabric/backends.h"
#include "tests/fabric/pattern.h"

namespace sheaf::transport::test {

using Clock = EventLoop::Clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

inline constexpr uint32_t kRegion = 7;
inline constexpr uint32_t kGeneration = 3;

// Lets ranges of one generation go, and counts.
class CountingGuard : public RangeGuard {
 public:
  Status acquire(const PeerId&, const RemoteRange& range) override {
    if (range.generation != kGeneration) return {StatusCode::kCorrupt, "another generation"};
    ++acquired;
    return Status::ok();
  }
  void release(const PeerId&, const RemoteRange&) override { ++released; }
  size_t acquired = 0, released = 0;
};

struct Received {
  PeerId from;
  uint16_t type;
  std::string payload;
};
struct Change {
  PeerId peer;
  PeerState state;
  StatusCode why;
};

struct Node {
  Node(EventLoop& loop, const Backend& backend, NodeOptions options) {
    options.host = test_host();
    FabricEvents events;
    events.on_message = [this](const PeerId& from, uint16_t type, wire::Bytes payload) {
      if (hold) holds.push_back(fabric->hold_credit());
      inbox.push_back({from, type, std::string(wire::as_text(payload))});
      if (on_message) on_message(inbox.back());
    };
    events.on_peer = [this](const PeerId& peer, PeerState state, const Status& why) {
      changes.push_back({peer, state, why.code()});
    };
    events.on_room = [this](const PeerId&) { ++room; };
    auto made = backend.make(loop, options, std::move(events));
    EXPECT_TRUE(made.has_value()) << made.status().to_string();
    if (made) fabric = std::move(made).value();
  }
  ~Node() {
    holds.clear();
    fabric.reset();
    EXPECT_EQ(guard.acquired, guard.released);
  }

  void export_bytes(size_t size) {
    memory.resize(size);
    fill_pattern(memory);
    EXPECT_TRUE(fabric->export_region(kRegion, memory, &guard).is_ok());
  }
  size_t ups() const { return count(PeerState::kUp); }
  size_t downs() const { return count(PeerState::kDown); }
  size_t count(PeerState state) const {
    size_t n = 0;
    for (const Change& change : changes) n += change.state == state;
    return n;
  }

  std::vector<Received> inbox;
  std::vector<Change> changes;
  std::vector<CreditHold> holds;
  bool hold = false;
  size_t room = 0;
  std::function<void(const Received&)> on_message;
  std::vector<std::byte> memory;
  CountingGuard guard;
  std::unique_ptr<Fabric> fabric;
};

// One pull, its place and its end.
struct PullRun {
  std::vector<std::byte> into;
  PullId id = 0;
  std::vector<StatusCode> ends;
  bool ended() const { return !ends.empty(); }
  StatusCode end() const { return ends.empty() ? StatusCode::kInternal : ends.front(); }
};

class FabricTest : public testing::TestWithParam<Backend> {
 protected:
  FabricTest() {
    auto made = EventLoop::create();
    EXPECT_TRUE(made.has_value());
    loop = std::move(made).value();
  }

  NodeOptions options(uint32_t node, uint64_t incarnation = 1) const {
    NodeOptions out;
    out.self = {node, incarnation};
    out.secret = secret;
    return out;
  }
  std::unique_ptr<Node> node(uint32_t number, uint64_t incarnation = 1) {
    return std::make_unique<Node>(*loop, GetParam(), options(number, incarnation));
  }
  bool run_until(const std::function<bool()>& condition, milliseconds limit = seconds(30)) {
    for (auto end = Clock::now() + limit; Clock::now() < end;) {
      if (condition()) return true;
      loop->run_once(milliseconds(5));
    }
    return condition();
  }
  void run_for(milliseconds time) {
    run_until([] { return false; }, time);
  }
  Result<PeerId> connect(Node& from, const PeerId& to, const FabricAddress& address,
                         milliseconds limit = seconds(20)) {
    std::optional<Result<PeerId>> out;
    from.fabric->connect(to, address, Clock::now() + limit,
                         [&](Result<PeerId> result) { out = std::move(result); });
    EXPECT_FALSE(out.has_value()) << "called back inside connect()";
    EXPECT_TRUE(run_until([&] { return out.has_value(); }, limit + seconds(1)));
    return out ? *out : Result<PeerId>(Status(StatusCode::kInternal, "connect never ended"));
  }
  // Both sides know each other.
  void join(Node& from, Node& to) {
    auto up = connect(from, to.fabric->self(), to.fabric->address());
    ASSERT_TRUE(up.has_value()) << up.status().to_string();
    ASSERT_TRUE(run_until([&] { return to.fabric->is_up(from.fabric->self()); }));
  }
  std::unique_ptr<PullRun> pull(Node& reader, const PeerId& from, uint64_t offset, uint64_t length,
                                PullOptions with = {}, uint32_t generation = kGeneration,
                                uint32_t region = kRegion) {
    auto run = std::make_unique<PullRun>();
    run->into.resize(length);
    PullRun* at = run.get();
    auto id = reader.fabric->pull(from, {region, generation, offset, length}, run->into, with,
                                  [at](const Status& end) { at->ends.push_back(end.code()); });
    EXPECT_FALSE(run->ended()) << "called back inside pull()";
    if (id) {
      run->id = *id;
    } else {
      run->ends.push_back(id.status().code());
    }
    return run;
  }

  ClusterSecret secret = ClusterSecret::random();
  std::unique_ptr<EventLoop> loop;
};

// A node in a process of its own (fabric_peer.cc). SHEAF_TEST_FABRIC_EXEC: words that go in front
// of its command, to start it on another host; SHEAF_TEST_FABRIC_PEER_HOST: where it listens then;
// SHEAF_TEST_FABRIC_PEER: the program, where it lies elsewhere.
class PeerProcess {
 public:
  PeerProcess(const Backend& backend, const NodeOptions& options, uint64_t region_bytes) {
    dir_ = std::filesystem::temp_directory_path() / ("sheaf-fabric-" + std::to_string(getpid()) +
                                                     "-" + std::to_string(next_++));
    std::filesystem::create_directory(dir_);
    std::string file = dir_ / "secret";
    EXPECT_TRUE(options.secret.write_new(file).is_ok());
    const char* prefix = std::getenv("SHEAF_TEST_FABRIC_EXEC");
    const char* host = std::getenv("SHEAF_TEST_FABRIC_PEER_HOST");
    const char* program = std::getenv("SHEAF_TEST_FABRIC_PEER");
    std::vector<std::string> words;
    std::istringstream before(prefix != nullptr ? prefix : "");
    for (std::string word; before >> word;) words.push_back(word);
    words.push_back(program != nullptr ? program : SHEAF_FABRIC_PEER);
    for (std::string word :
         {std::string("serve"), backend.name, file,
          std::string(host != nullptr ? host : test_host()), std::to_string(options.port),
          std::to_string(options.self.node), std::to_string(options.self.incarnation),
          std::to_string(region_bytes)}) {
      words.push_back(word);
    }
    start(words);
  }
  ~PeerProcess() {
    kill9();
    std::filesystem::remove_all(dir_);
  }
  PeerProcess(const PeerProcess&) = delete;

  // Only ever our own child: a wrong number given to kill() as root can end the machine.
  void signal(int number) const {
    ASSERT_GT(pid, 1);
    ::kill(pid, number);
    if (number != SIGSTOP) return;
    ASSERT_EQ(::waitpid(pid, nullptr, WUNTRACED), pid);  // it stands still
  }
  void kill9() {
    if (pid <= 1) return;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    pid = -1;
  }

  pid_t pid = -1;
  FabricAddress address;

 private:
  void start(const std::vector<std::string>& words) {
    int out[2];
    ASSERT_EQ(pipe(out), 0);
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    pid = fork();
    if (pid == 0) {
      dup2(out[1], 1);
      ::close(out[0]);
      ::close(out[1]);
      execvp(argv[0], argv.data());
      _exit(127);
    }
    ::close(out[1]);
    std::string line;
    for (char c; ::read(out[0], &c, 1) == 1 && c != '\n';) line += c;
    ::close(out[0]);
    std::istringstream words_of(line);  // "ready <pid> <address>"
    std::string ready, where;
    pid_t said = -1;
    words_of >> ready >> said >> where;
    auto parsed = parse_fabric_address(where);
    // What stands in front of the peer has become the peer: its number is our child's.
    ASSERT_TRUE(ready == "ready" && said == pid && parsed.has_value()) << "the peer says: " << line;
    address = *parsed;
  }

  static inline int next_ = 0;
  std::filesystem::path dir_;
};

// What a peer process does with a message.
enum PeerCommand : uint16_t {
  kEcho = 1,      // the payload comes back as kEcho
  kPullFromMe = 2,  // payload: u64 bytes. It pulls them from the sender, again and again
};

}  // namespace sheaf::transport::test
