// Clients of a real daemon: what they can ask, and that everything comes back when they are killed.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "objstore/pins.h"
#include "tests/launchers/daemon_process.h"
#include "tests/launchers/test_client.h"

namespace sheaf::launchers::testing {
namespace {

using protocol::MessageType;

class ClientsTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(daemon.ready()) << daemon.error; }
  std::unique_ptr<TestClient> join(protocol::ClientKind kind = protocol::ClientKind::kDriver) {
    auto client = TestClient::connect(daemon.socket_path, kind);
    EXPECT_TRUE(client) << client.status().to_string();
    return client ? std::move(*client) : nullptr;
  }
  double metric(TestClient& client, const std::string& name) {
    std::string text = client.query("metrics");
    size_t at = text.find("\nsheaf_" + name + "{");
    return at == std::string::npos ? -1 : atof(text.c_str() + text.find("} ", at) + 2);
  }
  // Puts `size` bytes into the arena and seals them.
  std::optional<std::pair<ObjectId, objstore::Locator>> put(TestClient& client, size_t size,
                                                            char fill) {
    auto extent = client.ask_for<protocol::ExtentAllocReply>(MessageType::kExtentAlloc,
                                                             protocol::ExtentAlloc{size, 1000});
    if (!extent) return std::nullopt;
    objstore::Locator l = extent->locator;
    memset(client.arena() + l.offset + objstore::kHeaderBytes, fill, size);
    ObjectId id = client.new_object();
    objstore::seal_header(client.arena(), l, id);
    client.send(MessageType::kObjectSeal, protocol::ObjectSeal{id, l, 0, {}});
    return std::pair(id, l);
  }
  DaemonProcess daemon;
};

TEST_F(ClientsTest, KeysAreStoredAndWaitedFor) {
  auto a = join(), b = join();
  ASSERT_TRUE(a && b);
  b->send(MessageType::kKvGet, protocol::KvGet{"user", "later", 5000}, 1000);
  protocol::KvPut put{"user", "later", "value", true};
  auto added = a->ask_for<protocol::KvPutReply>(MessageType::kKvPut, put);
  ASSERT_TRUE(added);
  EXPECT_TRUE(added->added);
  auto reply = b->next(MessageType::kReply);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->request, 1000u);
  auto keys = a->ask_for<protocol::KvKeysReply>(MessageType::kKvKeys, protocol::KvKeys{"user", ""});
  ASSERT_TRUE(keys);
  EXPECT_EQ(keys->keys, std::vector<std::string>{"later"});
}

TEST_F(ClientsTest, AnObjectIsSharedAndOutlivesItsMaker) {
  auto reader = join();
  ObjectId id;
  {
    auto writer = join();
    ASSERT_TRUE(writer && reader);
    auto object = put(*writer, 100000, 'q');
    ASSERT_TRUE(object);
    id = object->first;
    writer->send(MessageType::kHold, protocol::Hold{reader->id(), {id}, {}});
    ASSERT_TRUE(writer->ask(MessageType::kKvKeys, protocol::KvKeys{"user", ""}));
  }
  reader->send(MessageType::kObjectSubscribe, protocol::ObjectSubscribe{{id}, true, {}});
  auto ready = reader->expect<protocol::ObjectReady>(MessageType::kObjectReady);
  ASSERT_TRUE(ready);
  EXPECT_EQ(ready->state, protocol::ValueState::kArena);
  const char* bytes =
      reinterpret_cast<char*>(reader->arena() + ready->locator.offset + objstore::kHeaderBytes);
  EXPECT_EQ(std::string(bytes, 100000), std::string(100000, 'q'));
  reader->send(MessageType::kHold, protocol::Hold{0, {}, {id}});
  EXPECT_TRUE(eventually([&] { return metric(*reader, "store_objects") == 0; }));
}

TEST_F(ClientsTest, AnUnresolvedObjectOfADeadProcessIsAnError) {
  auto reader = join();
  ObjectId id;
  {
    auto writer = join();
    ASSERT_TRUE(writer && reader);
    id = writer->new_object();
    writer->send(MessageType::kObjectPublish,
                 protocol::ObjectPublish{id, protocol::ValueState::kPending, {}, {}});
    writer->send(MessageType::kHold, protocol::Hold{reader->id(), {id}, {}});
    ASSERT_TRUE(writer->ask(MessageType::kKvKeys, protocol::KvKeys{"user", ""}));
  }
  reader->send(MessageType::kObjectSubscribe, protocol::ObjectSubscribe{{id}, true, {}});
  auto ready = reader->expect<protocol::ObjectReady>(MessageType::kObjectReady);
  ASSERT_TRUE(ready);
  EXPECT_EQ(ready->state, protocol::ValueState::kError);
  auto error = wire::decode<protocol::ErrorRecord>(ready->bytes);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, protocol::ErrorKind::kOwnerDied);
}

TEST_F(ClientsTest, SlabsAreLeased) {
  auto client = join();
  auto slab =
      client->ask_for<protocol::SlabLeaseReply>(MessageType::kSlabLease, protocol::SlabLease{});
  ASSERT_TRUE(slab) << slab.status().to_string();
  EXPECT_GT(slab->length, 0u);
}

TEST_F(ClientsTest, AFullStoreAnswersWithinTheWait) {
  auto client = join();
  auto answer = client->ask(MessageType::kExtentAlloc, protocol::ExtentAlloc{1ull << 30, 100});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.status().code(), StatusCode::kOutOfMemory);
}

// Children that allocate, seal, hold and lease until they are killed: afterwards the node is as
// empty as before.
TEST_F(ClientsTest, KilledClientsGiveEverythingBack) {
  auto watcher = join(protocol::ClientKind::kTool);
  ASSERT_TRUE(watcher);
  uint32_t seed = static_cast<uint32_t>(getpid());
  SCOPED_TRACE("seed " + std::to_string(seed));
  for (int round = 0; round < 3; ++round) {
    std::vector<pid_t> children;
    for (int i = 0; i < 6; ++i) {
      pid_t child = fork();
      if (child == 0) {
        auto client = TestClient::connect(daemon.socket_path);
        if (!client) _exit(1);
        static_cast<void>((*client)->hold_lock().is_ok());
        for (;;) {
          put(**client, 70000, 'k');
          static_cast<void>(
              (*client)->ask(MessageType::kSlabLease, protocol::SlabLease{}).has_value());
        }
      }
      children.push_back(child);
    }
    sleep_ms(50 + static_cast<int>(seed++ % 50));
    for (pid_t child : children) ::kill(child, SIGKILL);
    for (pid_t child : children) waitpid(child, nullptr, 0);
    EXPECT_TRUE(eventually([&] {
      return metric(*watcher, "clients") == 1 && metric(*watcher, "store_objects") == 0 &&
             metric(*watcher, "store_used_bytes") == 0;
    })) << watcher->query("metrics");
  }
}

TEST_F(ClientsTest, TwoHundredClientsAtATime) {
  std::vector<std::unique_ptr<TestClient>> clients;
  double start = now_ms();
  for (int i = 0; i < 200; ++i) {
    clients.push_back(join());
    ASSERT_TRUE(clients.back()) << i;
  }
  printf("200 clients joined in %.0f ms\n", now_ms() - start);
  for (auto& client : clients) {
    ASSERT_TRUE(client->ask(MessageType::kKvPut,
                            protocol::KvPut{"user", std::to_string(client->id()), "x", true}));
  }
  clients.resize(1);
  EXPECT_TRUE(eventually([&] { return metric(*clients[0], "clients") == 1; }));
}

TEST_F(ClientsTest, TheDeathLockTellsOfADeath) {
  auto watcher = join(protocol::ClientKind::kTool);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  pid_t child = fork();
  if (child == 0) {
    auto client = TestClient::connect(daemon.socket_path);
    char ok = client && (*client)->hold_lock().is_ok() ? 1 : 0;
    if (write(ends[1], &ok, 1) != 1) _exit(1);
    pause();
  }
  char ok = 0;
  ASSERT_EQ(read(ends[0], &ok, 1), 1);
  EXPECT_EQ(ok, 1);
  ::kill(child, SIGKILL);
  EXPECT_TRUE(eventually([&] { return metric(*watcher, "clients") == 1; }));
  waitpid(child, nullptr, 0);
  close(ends[0]);
  close(ends[1]);
}

TEST_F(ClientsTest, EveryQuestionHasAnAnswer) {
  auto client = join();
  ASSERT_TRUE(client->register_job());
  for (const char* what : {"nodes", "actors", "tasks", "objects", "workers", "jobs",
                           "placement_groups", "pins", "logs", "runtime_envs", "cluster_events"}) {
    std::string answer = client->query(what);
    EXPECT_TRUE(answer.starts_with("[")) << what << ": " << answer;
  }
  for (const char* what : {"cluster_resources", "available_resources", "config"}) {
    EXPECT_TRUE(client->query(what).starts_with("{")) << what;
  }
  EXPECT_NE(client->query("cluster_resources").find("\"CPU\":2"), std::string::npos)
      << client->query("cluster_resources");
  EXPECT_NE(client->query("jobs").find("\"status\":\"RUNNING\""), std::string::npos);
  EXPECT_EQ(client->query("jobs", {{"status", "FINISHED"}}), "[]");
  EXPECT_NE(client->query("nonsense").find("kInvalidArgument"), std::string::npos);
}

TEST_F(ClientsTest, TaskEventsAreListedAndMetricsSummedUp) {
  auto a = join(), b = join();
  protocol::TaskEvents events;
  events.events.push_back({TaskId::make(a->id(), 9),
                           protocol::TaskEventState::kFinished,
                           0,
                           0,
                           1000000,
                           2000000,
                           {},
                           "f",
                           ""});
  a->send(MessageType::kTaskEvents, events);
  protocol::MetricsPush push;
  push.samples.push_back({"user_requests", "requests", 0, {{"path", "/"}}, 3, {}, {}});
  a->send(MessageType::kMetricsPush, push);
  b->send(MessageType::kMetricsPush, push);
  EXPECT_NE(a->query("tasks").find("\"name\":\"f\""), std::string::npos);
  EXPECT_TRUE(eventually([&] {
    std::string text = a->query("metrics");
    return text.find("sheaf_user_requests{node_id=\"") != std::string::npos &&
           text.find("\",path=\"/\"} 6") != std::string::npos;
  })) << a->query("metrics");
}

TEST_F(ClientsTest, AToolCanEndTheCluster) {
  auto tool = join(protocol::ClientKind::kTool);
  EXPECT_TRUE(tool->ask(MessageType::kShutdownCluster, protocol::ShutdownCluster{"test"}));
  EXPECT_TRUE(daemon.wait_end(20000));
}

}  // namespace
}  // namespace sheaf::launchers::testing
