// An embedded cluster for a test suite: real sheafd, real sheaf-worker processes. Its end is checked: no child process,
// no session directory is left.
#pragma once

#include <dirent.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "core/json.h"
#include "runtime/sheaf.h"
#include "tests/processes.h"
#include "tests/runtime/tasks_library.h"

namespace testlib {

using namespace std::chrono_literals;
using sheaf::test::end_process;

inline bool exists(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0;
}

template <class F>
bool eventually(F fact, std::chrono::milliseconds limit = 30s) {
  auto deadline = std::chrono::steady_clock::now() + limit;
  while (!fact()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

// Living descendants of this process whose parent chain is known, by the environment that they inherited.
inline int descendants_with(const std::string& mark) {
  int n = 0;
  DIR* proc = opendir("/proc");
  while (dirent* entry = proc ? readdir(proc) : nullptr) {
    int pid = std::atoi(entry->d_name);
    if (pid <= 0 || pid == getpid()) continue;
    std::ifstream file("/proc/" + std::to_string(pid) + "/environ", std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(file)), {});
    n += text.find(mark) != std::string::npos;
  }
  if (proc) closedir(proc);
  return n;
}

inline void use_build_tree() {
  setenv("SHEAF_SHEAFD", SHEAF_TEST_SHEAFD, 0);
  setenv("SHEAF_WORKER", SHEAF_TEST_WORKER, 0);
  unsetenv("SHEAF_ADDRESS");
}

// Pids of the workers that live now.
inline std::vector<int> worker_pids() {
  auto json = sheaf::parse_json(sheaf::state_json("workers"));
  std::vector<int> out;
  if (!json || !json->as_array()) return out;
  for (const auto& row : *json->as_array()) {
    const sheaf::JsonValue* pid = row.find("pid");
    if (pid && pid->as_int() && *pid->as_int() > 1 && *pid->as_int() != getpid()) {
      out.push_back(static_cast<int>(*pid->as_int()));
    }
  }
  return out;
}

class TempDir {
 public:
  TempDir() {
    char name[] = "/tmp/sheaf-test-XXXXXX";
    path_ = mkdtemp(name);
  }
  ~TempDir() { [[maybe_unused]] int status = system(("rm -rf " + path_).c_str()); }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  // None if there is no such file yet.
  int lines(const std::string& name) const {
    std::ifstream in(file(name));
    int n = 0;
    for (std::string line; std::getline(in, line);) ++n;
    return n;
  }

 private:
  std::string path_;
};

inline sheaf::Options small_cluster(double cpus = 2) {
  sheaf::Options options;
  options.num_cpus = cpus;
  options.object_store_memory = 256 << 20;
  return options;
}

// One cluster for all tests of a suite.
class ClusterTest : public ::testing::Test {
 public:
  static void SetUpTestSuite() { start(small_cluster()); }
  static void start(const sheaf::Options& options) {
    use_build_tree();
    mark() = "SHEAF_TEST_MARK=" + std::to_string(getpid()) + "-" + std::to_string(++starts());
    setenv("SHEAF_TEST_MARK", mark().c_str() + 16, 1);
    sheaf::init(options);
  }
  static void TearDownTestSuite() {
    std::string dir = sheaf::session_dir();
    sheaf::shutdown();
    EXPECT_TRUE(eventually([] { return descendants_with(mark()) == 0; })) << "processes are left";
    EXPECT_FALSE(exists(dir)) << "files are left in " << dir;
  }

 protected:
  TempDir temp_;

 private:
  static std::string& mark() {
    static std::string m;
    return m;
  }
  static int& starts() {
    static int n = 0;
    return n;
  }
};

}  // namespace testlib
