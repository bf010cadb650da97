// A node of a fabric as a program, for tests that kill, stop and cut off real processes.
//
//   fabric_peer serve BACKEND SECRET_FILE HOST PORT NODE INCARNATION REGION_BYTES
//     exports region 7 (generation 3, tests/fabric/pattern.h), echoes, pulls when it is told to.
//   fabric_peer drive (the same) TO_NODE TO_ADDRESS
//     connects to a serving one, pulls its whole region over and over and checks every byte; each
//     end of a connect or pull is a line: "<what> <status> <ms>".
#include <sys/prctl.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "tests/fabric/backends.h"
#include "tests/fabric/pattern.h"

namespace {

using namespace sheaf;             // NOLINT: a small main
using namespace sheaf::transport;  // NOLINT
using Clock = EventLoop::Clock;
using std::chrono::milliseconds;

constexpr uint32_t kRegion = 7;
constexpr uint32_t kGeneration = 3;
constexpr auto kLimit = milliseconds(3000);
constexpr auto kPause = milliseconds(100);

struct OneGeneration : RangeGuard {
  Status acquire(const PeerId&, const RemoteRange& range) override {
    if (range.generation == kGeneration) return Status::ok();
    return {StatusCode::kCorrupt, "another generation"};
  }
  void release(const PeerId&, const RemoteRange&) override {}
};

struct Program {
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Fabric> fabric;
  std::vector<std::byte> memory, into;
  OneGeneration guard;
  PeerId to;
  FabricAddress address;
  Clock::time_point began;

  void on_message(const PeerId& from, uint16_t type, wire::Bytes payload) {
    if (type == 1) (void)fabric->send(from, 1, payload);
    uint64_t bytes = 0;
    if (type == 2 && payload.size() == sizeof bytes) {
      std::memcpy(&bytes, payload.data(), sizeof bytes);
      into.resize(bytes);
      pull_again(from);
    }
  }
  void pull_again(const PeerId& from) {
    (void)fabric->pull(from, {kRegion, kGeneration, 0, into.size()}, into, {},
                       [this, from](const Status& end) {
                         if (end.is_ok()) pull_again(from);
                       });
  }

  void say(const char* what, std::string_view status) {
    auto ms = std::chrono::duration<double, std::milli>(Clock::now() - began).count();
    std::printf("%s %.*s %.1f\n", what, static_cast<int>(status.size()), status.data(), ms);
    std::fflush(stdout);
  }
  void connect() {
    began = Clock::now();
    fabric->connect(to, address, began + kLimit, [this](Result<PeerId> peer) {
      say("connect", to_string(peer.status().code()));
      if (!peer) {
        loop->call_after(kPause, [this] { connect(); });
      } else {
        check(*peer);
      }
    });
  }
  void check(PeerId peer) {
    began = Clock::now();
    PullOptions options;
    options.deadline = began + kLimit;
    std::fill(into.begin(), into.end(), std::byte{0});
    auto id = fabric->pull(peer, {kRegion, kGeneration, 0, into.size()}, into, options,
                           [this, peer](const Status& end) {
                             bool right = !end.is_ok() || test::has_pattern(into, 0);
                             say("pull", right ? to_string(end.code()) : "WRONG-BYTES");
                             loop->call_after(milliseconds(10), [this, peer] { check(peer); });
                           });
    if (!id) {
      loop->call_after(kPause, [this] { connect(); });
    }
  }
};

int run(int argc, char** argv) {
  std::string mode = argv[1];
  const test::Backend* backend = test::find_backend(argv[2]);
  auto secret = ClusterSecret::read(argv[3]);
  auto loop = EventLoop::create();
  if (backend == nullptr || !secret || !loop) return 3;
  Program program;
  program.loop = std::move(loop).value();
  test::NodeOptions options;
  options.secret = *secret;
  options.host = argv[4];
  options.port = static_cast<uint16_t>(std::atoi(argv[5]));
  options.self = {static_cast<uint32_t>(std::atoi(argv[6])), std::strtoull(argv[7], nullptr, 10)};
  options.peer_timeout = milliseconds(2000);
  FabricEvents events;
  events.on_message = [&](const PeerId& from, uint16_t type, wire::Bytes payload) {
    program.on_message(from, type, payload);
  };
  events.on_peer = [](const PeerId&, PeerState, const Status&) {};
  auto fabric = backend->make(*program.loop, options, std::move(events));
  if (!fabric) {
    std::fprintf(stderr, "%s\n", fabric.status().to_string().c_str());
    return 4;
  }
  program.fabric = std::move(fabric).value();
  size_t bytes = std::strtoull(argv[8], nullptr, 10);
  if (mode == "drive") {
    auto address = parse_fabric_address(argv[10]);
    if (!address) return 5;
    program.to = {static_cast<uint32_t>(std::atoi(argv[9])), 0};
    program.address = *address;
    program.into.resize(bytes);
    program.connect();
  } else {
    program.memory.resize(bytes);
    test::fill_pattern(program.memory);
    if (!program.fabric->export_region(kRegion, program.memory, &program.guard).is_ok()) return 6;
    std::printf("ready %d %s\n", static_cast<int>(getpid()),
                to_string(program.fabric->address()).c_str());
    std::fflush(stdout);
  }
  program.loop->run();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (argc < 9 || (std::string(argv[1]) == "drive" && argc < 11)) {
    std::fprintf(stderr, "usage: see the first lines of fabric_peer.cc\n");
    return 2;
  }
  return run(argc, argv);
}
