// Leases, workers and actors through a real daemon, with stand-in workers: forks, lanes, deaths,
// output.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "tests/launchers/daemon_process.h"
#include "tests/launchers/test_client.h"
#include "tests/processes.h"

namespace sheaf::launchers::testing {
namespace {

using protocol::MessageType;

class WorkersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(daemon.ready()) << daemon.error;
    auto connected = TestClient::connect(daemon.socket_path);
    ASSERT_TRUE(connected) << connected.status().to_string();
    client = std::move(*connected);
    auto job = client->register_job(TEST_WORKER_PATH);
    ASSERT_TRUE(job) << job.status().to_string();
  }
  void request(uint32_t backlog, const std::string& env = "",
               const std::string& language = "python", uint32_t class_id = 1) {
    protocol::LeaseRequest m;
    m.class_id = class_id;
    m.spec.resources["CPU"] = protocol::kResourceUnit;
    m.spec.runtime_env = env;
    m.spec.language = language;
    m.backlog = backlog;
    client->send(MessageType::kLeaseRequest, m);
  }
  std::optional<protocol::LeaseGrant> grant(int timeout_ms = 10000) {
    return client->expect<protocol::LeaseGrant>(MessageType::kLeaseGrant, timeout_ms);
  }
  // Sends text over the lane and waits for its echo.
  std::string echo(transport::Lane& lane, const std::string& text, bool wait = true) {
    lane.send(1, wire::as_bytes(text));
    if (!wait || !client->wait_for(lane)) return {};
    std::string answer(wire::as_text(lane.peek()->payload));
    lane.pop();
    return answer;
  }
  // 0 when no such worker is known: kill() must not see that.
  pid_t pid_of(ProcessId worker) {
    std::string rows = client->query("workers", {{"worker_id", std::to_string(worker)}});
    size_t at = rows.find("\"pid\":");
    return at == std::string::npos ? 0 : atoi(rows.c_str() + at + 6);
  }
  DaemonProcess daemon{{.worker_program = TEST_WORKER_PATH}};
  std::unique_ptr<TestClient> client;
};

TEST_F(WorkersTest, ALeaseComesWithALaneToAForkedWorker) {
  request(1);
  auto lease = grant();
  ASSERT_TRUE(lease);
  auto lane = client->open(lease->lane);
  ASSERT_TRUE(lane) << lane.status().to_string();
  EXPECT_EQ(echo(*lane, "hello"), "hello");
  EXPECT_EQ(echo(*lane, std::string(100000, 'x')), std::string(100000, 'x'));
  client->send(MessageType::kLeaseReturn, protocol::LeaseReturn{lease->lease, false});
  request(1);
  auto again = grant();
  ASSERT_TRUE(again);
  EXPECT_NE(again->lease, lease->lease);
  if (again->worker == lease->worker) {
    EXPECT_EQ(again->lane.own_lane, lease->lane.own_lane);  // the same lane serves the pair
    EXPECT_EQ(echo(*lane, "again"), "again");
  }
}

TEST_F(WorkersTest, NoMoreLeasesThanTheNodeHasCpus) {
  request(10);
  ASSERT_TRUE(grant());
  ASSERT_TRUE(grant());
  EXPECT_FALSE(grant(300));
}

TEST_F(WorkersTest, AKilledWorkerIsReportedWithItsSignal) {
  request(1);
  auto lease = grant();
  ASSERT_TRUE(lease);
  pid_t pid = pid_of(lease->worker);
  ASSERT_GT(pid, 1);
  double start = now_ms();
  ::kill(pid, SIGKILL);
  auto down = client->expect<protocol::PeerDown>(MessageType::kPeerDown);
  ASSERT_TRUE(down);
  printf("told of the death after %.1f ms\n", now_ms() - start);
  EXPECT_EQ(down->process, lease->worker);
  EXPECT_EQ(down->cause.kind, protocol::ErrorKind::kWorkerCrashed);
  EXPECT_NE(down->cause.message.find("signal 9"), std::string::npos) << down->cause.message;
  request(2);
  EXPECT_TRUE(grant());  // both CPUs are there again
  EXPECT_TRUE(grant());
}

TEST_F(WorkersTest, AnExitCodeIsReported) {
  request(1);
  auto lease = grant();
  ASSERT_TRUE(lease);
  auto lane = client->open(lease->lane);
  ASSERT_TRUE(lane);
  echo(*lane, "exit", false);
  auto down = client->expect<protocol::PeerDown>(MessageType::kPeerDown);
  ASSERT_TRUE(down);
  EXPECT_NE(down->cause.message.find("exited with code 3"), std::string::npos)
      << down->cause.message;
}

TEST_F(WorkersTest, WhatAWorkerStartedDiesWithIt) {
  request(1);
  auto lease = grant();
  ASSERT_TRUE(lease);
  auto lane = client->open(lease->lane);
  ASSERT_TRUE(lane);
  pid_t pid = pid_of(lease->worker);
  EXPECT_EQ(echo(*lane, "spawn"), "spawn");
  std::vector<pid_t> grandchildren = children_of(pid);
  ASSERT_EQ(grandchildren.size(), 1u);
  ASSERT_TRUE(test::end_process(pid));
  EXPECT_TRUE(eventually([&] { return !exists(grandchildren[0]); }));
}

TEST_F(WorkersTest, LanesOfManyDeadPeersAreTakenBack) {
  for (int i = 0; i < 20; ++i) {
    request(1);
    auto lease = grant();
    ASSERT_TRUE(lease) << i;
    ASSERT_TRUE(test::end_process(pid_of(lease->worker))) << i;
    ASSERT_TRUE(client->expect<protocol::PeerDown>(MessageType::kPeerDown)) << i;
  }
  request(0);
  auto lanes = [&] {
    std::string text = client->query("metrics");
    size_t at = text.find("\nsheaf_lanes{");
    return at == std::string::npos ? -1 : atoi(text.c_str() + text.find("} ", at) + 2);
  };
  EXPECT_TRUE(eventually([&] { return lanes() >= 0 && lanes() < 16; })) << lanes();
}

TEST_F(WorkersTest, LinesOfWorkersReachTheDriver) {
  request(1);
  auto lease = grant();
  ASSERT_TRUE(lease);
  auto lane = client->open(lease->lane);
  ASSERT_TRUE(lane);
  EXPECT_EQ(echo(*lane, "print one line"), "print one line");
  bool found = false;
  pid_t pid = pid_of(lease->worker);
  for (double end = now_ms() + 20000; !found && now_ms() < end;) {
    auto lines = client->expect<protocol::LogLines>(MessageType::kLogLines, 100);
    if (!lines) continue;
    for (const auto& line : lines->lines)
      found = found || (line.text == "one line" && line.pid == pid && !line.is_stderr);
  }
  EXPECT_TRUE(found);
  std::ifstream file(daemon.session_dir + "/logs/worker-" + std::to_string(pid) + ".out");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  EXPECT_NE(text.find("one line\n"), std::string::npos);
}

TEST_F(WorkersTest, AFailedEnvironmentRefusesTheRequest) {
  request(1, "bad");
  auto refused = client->expect<protocol::LeaseRefused>(MessageType::kLeaseRefused);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->error.kind, protocol::ErrorKind::kRuntimeEnvSetup);
  EXPECT_NE(refused->error.message.find("no such package"), std::string::npos);
}

TEST_F(WorkersTest, ATemplateThatCannotForkIsReplacedByExec) {
  request(1, "unsafe");
  auto lease = grant();
  ASSERT_TRUE(lease);
  auto lane = client->open(lease->lane);
  ASSERT_TRUE(lane);
  EXPECT_EQ(echo(*lane, "exec"), "exec");
}

TEST_F(WorkersTest, CppWorkersAreStartedByExec) {
  request(1, "", "cpp:/lib/user.so");
  auto lease = grant();
  ASSERT_TRUE(lease);
  auto lane = client->open(lease->lane);
  ASSERT_TRUE(lane);
  EXPECT_EQ(echo(*lane, "native"), "native");
}

TEST_F(WorkersTest, AWorkerThatNeverComesUpIsReported) {
  request(1, "dies", "cpp:/lib/user.so");
  auto refused = client->expect<protocol::LeaseRefused>(MessageType::kLeaseRefused, 15000);
  ASSERT_TRUE(refused);
  EXPECT_NE(refused->error.message.find("exited with code 4"), std::string::npos)
      << refused->error.message;
}

TEST_F(WorkersTest, TheTemplatesDeathDoesNotEndTheService) {
  request(1);
  ASSERT_TRUE(grant());
  pid_t found = 0;
  for (pid_t child : children_of(daemon.pid)) {
    std::ifstream file("/proc/" + std::to_string(child) + "/cmdline");
    std::string line((std::istreambuf_iterator<char>(file)), {});
    if (line.find("sheaf._template") != std::string::npos) found = child;
  }
  ASSERT_GT(found, 0);
  ::kill(found, SIGKILL);
  EXPECT_TRUE(
      client->expect<protocol::PeerDown>(MessageType::kPeerDown));  // its workers die with it
  request(1);
  EXPECT_TRUE(grant(15000));
}

TEST_F(WorkersTest, AnActorLivesAndItsSubscribersGetALane) {
  protocol::ActorCreate create;
  create.spec.actor = ActorId::make(client->id(), 1);
  create.spec.class_name = "Counter";
  create.spec.name = "c";
  ASSERT_TRUE(client->ask(MessageType::kActorCreate, create));
  client->send(MessageType::kActorHold, protocol::ActorHold{create.spec.actor, 1});
  client->send(MessageType::kActorSubscribe, protocol::ActorSubscribe{create.spec.actor});
  std::optional<protocol::ActorUpdate> update;
  do update = client->expect<protocol::ActorUpdate>(MessageType::kActorUpdate, 10000);
  while (update && update->state != protocol::ActorState::kAlive);
  ASSERT_TRUE(update);
  auto lane = client->open(update->lane);
  ASSERT_TRUE(lane) << lane.status().to_string();
  EXPECT_EQ(echo(*lane, "call"), "call");
  EXPECT_NE(client->query("actors").find("\"state\":\"ALIVE\""), std::string::npos);
  ASSERT_TRUE(client->ask(MessageType::kActorKill, protocol::ActorKill{create.spec.actor, true}));
  do update = client->expect<protocol::ActorUpdate>(MessageType::kActorUpdate, 10000);
  while (update && update->state != protocol::ActorState::kDead);
  ASSERT_TRUE(update);
  EXPECT_EQ(update->cause.kind, protocol::ErrorKind::kActorDied);
}

TEST_F(WorkersTest, AKilledDaemonTakesItsWorkersAlong) {
  request(2);
  auto a = grant(), b = grant();
  ASSERT_TRUE(a && b);
  std::vector<pid_t> pids = {pid_of(a->worker), pid_of(b->worker)};
  for (pid_t child : children_of(daemon.pid)) pids.push_back(child);
  EXPECT_GE(pids.size(), 3u);
  daemon.kill9();
  for (pid_t pid : pids) EXPECT_TRUE(eventually([&] { return !exists(pid); })) << pid;
  EXPECT_TRUE(client->disconnected(20000));
}

TEST_F(WorkersTest, AStopKillsEvenWhatHidesInSessionsOfItsOwn) {
  request(1);
  auto lease = grant();
  ASSERT_TRUE(lease);
  auto lane = client->open(lease->lane);
  ASSERT_TRUE(lane);
  EXPECT_EQ(echo(*lane, "spawn"), "spawn");
  pid_t worker = pid_of(lease->worker);
  std::vector<pid_t> pids = children_of(worker);
  pids.push_back(worker);
  EXPECT_EQ(daemon.stop(), 0);
  for (pid_t pid : pids) EXPECT_FALSE(exists(pid));
}

TEST_F(WorkersTest, AFrozenWorkerDoesNotHoldUpTheEnd) {
  request(1);
  auto lease = grant();
  ASSERT_TRUE(lease);
  pid_t worker = pid_of(lease->worker);
  ASSERT_GT(worker, 1);
  ::kill(worker, SIGSTOP);
  EXPECT_EQ(daemon.stop(), 0);
}

}  // namespace
}  // namespace sheaf::launchers::testing
