// A stand-in for the processes that sheafd starts: `-c "... sheaf._template ..."` makes it a
// template that forks, anything else a worker by exec. A worker connects, prints a line, and
// answers what comes over direct lanes: every message is sent back; "exit", "crash", "print
// <text>", "spawn" (a child that ignores everything), "stop" act first.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "core/json.h"
#include "launchers/packet.h"
#include "tests/launchers/daemon_process.h"
#include "tests/launchers/test_client.h"

namespace sheaf::launchers::testing {
namespace {

constexpr int kChannel = 3;

void say(const std::string& line) { static_cast<void>(send_packet(kChannel, line).is_ok()); }

std::string text_of(const JsonValue& json, const std::string& name) {
  const JsonValue* v = json.find(name);
  return v != nullptr && v->as_string() != nullptr ? *v->as_string() : std::string();
}

int act(const std::string& text, TestClient& client) {
  if (text == "exit") _exit(3);
  if (text == "crash") abort();
  if (text == "stop") raise(SIGSTOP);
  if (text == "shutdown") return 1;
  if (text.starts_with("print ")) {
    printf("%s\n", text.c_str() + 6);
    fflush(stdout);
  }
  if (text == "spawn" && fork() == 0) {
    signal(SIGTERM, SIG_IGN);
    for (;;) pause();
  }
  return 0;
}

int serve(const JsonValue& request) {
  auto token = static_cast<uint64_t>(*request.find("token")->as_int());
  auto connected =
      TestClient::connect(text_of(request, "socket"), protocol::ClientKind::kWorker, token);
  if (!connected) {
    fprintf(stderr, "not connected: %s\n", connected.status().to_string().c_str());
    return 1;
  }
  TestClient& client = **connected;
  static_cast<void>(client.hold_lock().is_ok());
  printf("worker %d serves\n", getpid());
  fflush(stdout);
  std::map<ProcessId, transport::Lane> lanes;
  for (;;) {
    if (client.disconnected(0)) return 0;
    if (auto exit = client.next(protocol::MessageType::kExit, 0)) return 0;
    if (auto start = client.expect<protocol::ActorStart>(protocol::MessageType::kActorStart, 0)) {
      bool ok = start->spec.class_name != "Broken";
      client.send(protocol::MessageType::kActorStarted,
                  protocol::ActorStarted{start->spec.actor, start->incarnation, ok, {}});
    }
    while (auto open = client.expect<protocol::LaneOpen>(protocol::MessageType::kLaneOpen, 0)) {
      if (auto lane = client.open(open->lane)) lanes.emplace(open->process, std::move(*lane));
    }
    while (auto down = client.expect<protocol::PeerDown>(protocol::MessageType::kPeerDown, 0))
      lanes.erase(down->process);
    for (auto& [peer, lane] : lanes) {
      lane.flush();
      while (auto message = lane.peek()) {
        std::string text(wire::as_text(message->payload));
        lane.pop();
        if (act(text, client) != 0) return 0;
        lane.send(1, wire::as_bytes(text));
      }
    }
    usleep(300);
  }
}

// The child of a template, as worker_spawner.h asks.
[[noreturn]] void become_worker(const JsonValue& request, const Packet& packet, pid_t parent) {
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  dup2(packet.fds.at(0).get(), 1);
  dup2(packet.fds.at(1).get(), 2);
  if (text_of(request, "runtime_env") == "slow") {
    say("setup " + std::to_string(*request.find("token")->as_int()));
    usleep(300000);
  }
  _exit(serve(request));
}

int be_template() {
  if (getenv("TEST_TEMPLATE_EXITS") != nullptr) return 1;
  say("ready");
  bool told = false;   // of a job
  for (;;) {
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      say("exit " + std::to_string(pid) + " " + std::to_string(status));
    }
    auto packet = receive_packet(kChannel, 256 * 1024);
    if (!packet) {
      usleep(500);
      continue;
    }
    if (packet->end) return 0;
    auto request = parse_json(packet->bytes);
    if (!request) return 2;
    if (text_of(*request, "cmd") == "job") {
      told = true;
      continue;
    }
    std::string token = std::to_string(*request->find("token")->as_int());
    if (!told) {
      say("failed " + token + " other a fork before its job");
      continue;
    }
    std::string env = text_of(*request, "runtime_env");
    if (env == "bad") {
      say("failed " + token + " runtime_env no such package");
      continue;
    }
    if (env == "unsafe") {
      say("failed " + token + " unsafe several threads");
      continue;
    }
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) become_worker(*request, *packet, parent);
    say("forked " + token + " " + std::to_string(pid));
  }
}

int be_worker() {
  std::string text(1 << 20, '\0');
  ssize_t n = read(kChannel, text.data(), text.size());
  if (n <= 0) return 1;
  auto request = parse_json(text.substr(0, static_cast<size_t>(n)));
  if (!request) return 2;
  if (text_of(*request, "runtime_env") == "dies") return 4;
  return serve(*request);
}

}  // namespace
}  // namespace sheaf::launchers::testing

int main(int argc, char** argv) {
  using namespace sheaf::launchers::testing;
  bool is_template = argc == 3 && std::strstr(argv[2], "sheaf._template") != nullptr;
  return is_template ? be_template() : be_worker();
}
