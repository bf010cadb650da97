// The front door of a real daemon: who gets in, and what happens to those who do not.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <sstream>

#include "launchers/packet.h"
#include "tests/launchers/daemon_process.h"
#include "tests/launchers/test_client.h"

namespace sheaf::launchers::testing {
namespace {

constexpr int kHandshakeLimitMs = 2000;
constexpr int kPatienceMs = 30000;  // for what a busy machine does late

class HandshakeTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(daemon.ready()) << daemon.error; }
  // What the daemon answers to these bytes: a Welcome, or nothing.
  std::optional<protocol::Welcome> greet(const std::string& bytes) {
    int fd = connect_raw(daemon.socket_path);
    EXPECT_GE(fd, 0);
    EXPECT_TRUE(send_packet(fd, bytes).is_ok());
    auto answer = receive_raw(fd, kPatienceMs);
    close(fd);
    if (!answer) return std::nullopt;
    auto welcome = wire::decode<protocol::Welcome>(*answer);
    return welcome ? std::optional(*welcome) : std::nullopt;
  }
  bool serves() { return TestClient::connect(daemon.socket_path).has_value(); }
  DaemonProcess daemon;
};

TEST_F(HandshakeTest, WelcomesAClientWithItsPlaceInTheCluster) {
  auto client = TestClient::connect(daemon.socket_path);
  ASSERT_TRUE(client) << client.status().to_string();
  const protocol::Welcome& w = (*client)->welcome();
  EXPECT_GT(w.process, kDaemonProcess);
  EXPECT_EQ(w.session_dir, daemon.session_dir);
  EXPECT_GT(w.bell, 0u);
  EXPECT_GT(w.pin_slots, 0u);
  EXPECT_GT(w.incarnation, 0);
  EXPECT_EQ(w.arena_bytes, 64u << 20);
  EXPECT_FALSE(w.config.empty());
  auto second = TestClient::connect(daemon.socket_path);
  ASSERT_TRUE(second);
  EXPECT_NE((*second)->id(), (*client)->id());
}

TEST_F(HandshakeTest, CutsOffAWrongMagic) {
  protocol::Hello hello;
  hello.magic = 0x1234;
  EXPECT_FALSE(greet(wire::encode(hello)));
  EXPECT_TRUE(serves());
}

TEST_F(HandshakeTest, TellsAWrongVersion) {
  protocol::Hello hello;
  hello.version = 999;
  auto welcome = greet(wire::encode(hello));
  ASSERT_TRUE(welcome);
  EXPECT_EQ(welcome->code, StatusCode::kUnsupported);
  EXPECT_NE(welcome->message.find("999"), std::string::npos);
  EXPECT_TRUE(serves());
}

TEST_F(HandshakeTest, CutsOffGarbage) {
  EXPECT_FALSE(greet("x"));
  EXPECT_FALSE(greet(std::string(200, '\0')));
  EXPECT_FALSE(greet(std::string(10000, 'A')));
  for (uint32_t seed = 1; seed < 50; ++seed) {
    std::string noise;
    for (uint32_t i = 0, x = seed; i < seed * 4; ++i)
      noise += static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
    EXPECT_FALSE(greet(noise)) << "seed " << seed;
  }
  EXPECT_TRUE(serves());
}

TEST_F(HandshakeTest, RefusesAWorkerThatNobodyAskedFor) {
  auto worker = TestClient::connect(daemon.socket_path, protocol::ClientKind::kWorker, 4711);
  ASSERT_FALSE(worker);
  EXPECT_EQ(worker.status().code(), StatusCode::kPermissionDenied);
}

TEST_F(HandshakeTest, CutsOffThoseWhoSayNothing) {
  int silent = connect_raw(daemon.socket_path);
  ASSERT_GE(silent, 0);
  double start = now_ms();
  EXPECT_FALSE(receive_raw(silent, kPatienceMs));
  EXPECT_GT(now_ms() - start, kHandshakeLimitMs * 0.9);
  EXPECT_LT(now_ms() - start, kPatienceMs);
  close(silent);
}

TEST_F(HandshakeTest, ServesOthersWhileManyAreHalfOpen) {
  std::vector<int> silent;
  for (int i = 0; i < 60; ++i) silent.push_back(connect_raw(daemon.socket_path));
  EXPECT_TRUE(serves());
  for (int i = 0; i < 100; ++i)
    silent.push_back(connect_raw(daemon.socket_path));  // beyond the bound: they wait outside
  EXPECT_TRUE(serves());  // once the silent ones have been cut off
  for (int fd : silent) close(fd);
}

TEST_F(HandshakeTest, EndsAClientThatTalksOnTheSocketAfterwards) {
  auto client = TestClient::connect(daemon.socket_path);
  ASSERT_TRUE(client);
  int fd = connect_raw(daemon.socket_path);
  ASSERT_TRUE(send_packet(fd, wire::encode(protocol::Hello{})).is_ok());
  ASSERT_TRUE(receive_raw(fd, kPatienceMs));
  ASSERT_TRUE(send_packet(fd, "more").is_ok());
  EXPECT_FALSE(receive_raw(fd, kPatienceMs));
  close(fd);
  EXPECT_TRUE((*client)->ask(protocol::MessageType::kKvKeys, protocol::KvKeys{"user", ""}));
}

TEST_F(HandshakeTest, EndsOnlyTheClientThatSendsNonsense) {
  auto good = TestClient::connect(daemon.socket_path),
       bad = TestClient::connect(daemon.socket_path),
       worse = TestClient::connect(daemon.socket_path);
  ASSERT_TRUE(good && bad && worse);
  (*bad)->send_bytes(static_cast<uint16_t>(protocol::MessageType::kKvPut), 1, "\xff\xff\xff\xff");
  (*worse)->send_bytes(0x7777, 1, "");
  EXPECT_TRUE((*bad)->disconnected(kPatienceMs));
  EXPECT_TRUE((*worse)->disconnected(kPatienceMs));
  EXPECT_TRUE((*good)->ask(protocol::MessageType::kKvKeys, protocol::KvKeys{"user", ""}));
}

TEST_F(HandshakeTest, KeepsOtherUsersOut) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  // Even if the directories were open: the kernel says who connects.
  ASSERT_EQ(chmod(daemon.root.c_str(), 0755), 0);
  ASSERT_EQ(chmod(daemon.session_dir.c_str(), 0755), 0);
  ASSERT_EQ(chmod(daemon.socket_path.c_str(), 0777), 0);
  pid_t child = fork();
  if (child == 0) {
    if (setgid(12345) != 0 || setuid(12345) != 0) _exit(2);
    int fd = connect_raw(daemon.socket_path);
    if (fd < 0) _exit(3);
    static_cast<void>(send_packet(fd, wire::encode(protocol::Hello{})).is_ok());
    _exit(receive_raw(fd, 1000) ? 4 : 0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "exit " << WEXITSTATUS(status);
  EXPECT_TRUE(serves());
}

TEST_F(HandshakeTest, OtherUsersSeeNothing) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  ASSERT_EQ(chmod(daemon.root.c_str(), 0755),
            0);  // the session directory itself must keep them out
  pid_t child = fork();
  if (child == 0) {
    if (setgid(12345) != 0 || setuid(12345) != 0) _exit(2);
    for (const char* name :
         {"/sheafd.sock", "/cluster.json", "/logs/sheafd.log", "/bells/1", "/lock"}) {
      if (open((daemon.session_dir + name).c_str(), O_RDONLY | O_NONBLOCK) >= 0) _exit(3);
    }
    if (connect_raw(daemon.socket_path) >= 0) _exit(4);
    std::string fds = "/proc/" + std::to_string(daemon.pid) + "/fd";
    _exit(opendir(fds.c_str()) == nullptr ? 0 : 5);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "exit " << WEXITSTATUS(status);
}

// Inodes of the sockets that a process has open.
std::set<std::string> socket_inodes(pid_t pid) {
  std::set<std::string> out;
  std::string directory = "/proc/" + std::to_string(pid) + "/fd";
  DIR* dir = opendir(directory.c_str());
  if (dir == nullptr) return out;
  while (dirent* e = readdir(dir)) {
    char target[256] = {};
    if (readlink((directory + "/" + e->d_name).c_str(), target, sizeof target - 1) <= 0) continue;
    std::string text = target;
    if (text.starts_with("socket:[")) out.insert(text.substr(8, text.size() - 9));
  }
  closedir(dir);
  return out;
}

TEST_F(HandshakeTest, ListensOnItsSocketAndNothingElse) {
  auto client = TestClient::connect(daemon.socket_path);
  ASSERT_TRUE(client);
  std::set<std::string> own = socket_inodes(daemon.pid);
  ASSERT_FALSE(own.empty());
  for (const char* table :
       {"/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6", "/proc/net/raw"}) {
    std::ifstream file(table);
    std::string line;
    std::getline(file, line);
    while (std::getline(file, line)) {
      std::istringstream words(line);
      std::string word;
      for (int i = 0; i < 10; ++i) words >> word;
      EXPECT_FALSE(own.contains(word)) << table << ": " << line;
    }
  }
  std::ifstream file("/proc/net/unix");
  std::string line;
  int named = 0;
  std::getline(file, line);
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string word, path;
    for (int i = 0; i < 7; ++i) words >> word;
    words >> path;
    if (!own.contains(word) || path.empty()) continue;
    EXPECT_EQ(path, daemon.socket_path);  // an abstract name would begin with @
    ++named;
  }
  EXPECT_GE(named, 1);
}

}  // namespace
}  // namespace sheaf::launchers::testing
