// Workers and drivers killed at any moment: every value is still right, and nothing is left behind.
#include <signal.h>
#include <sys/prctl.h>

#include <random>
#include <set>

#include "tests/runtime/cluster_fixture.h"

namespace testlib {
namespace {

constexpr int kKills = 40;

class KillTest : public ClusterTest {};

TEST_F(KillTest, WorkloadSurvivesKilledWorkers) {
  uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  int kills = 0;
  auto job = sheaf::task(slow_square).max_retries(-1);
  auto make = sheaf::task(ramp).max_retries(-1);
  auto reduce = sheaf::task(total).max_retries(-1);
  for (int round = 0; kills < kKills && round < 400; ++round) {
    std::vector<sheaf::ObjectRef<int64_t>> small;
    std::vector<sheaf::ObjectRef<double>> large;
    for (int64_t i = 0; i < 60; ++i) small.push_back(job.remote(i, static_cast<int>(random() % 2)));
    for (int64_t i = 1; i <= 6; ++i) large.push_back(reduce.remote(make.remote(20000 * i)));
    for (int k = 0; k < 2; ++k) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
      auto pids = worker_pids();
      if (!pids.empty() && kill(pids[random() % pids.size()], SIGKILL) == 0) ++kills;
    }
    auto values = sheaf::get(small, 60s);
    for (int64_t i = 0; i < 60; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], i * i);
    auto sums = sheaf::get(large, 60s);
    for (size_t i = 1; i <= 6; ++i) {
      double n = 20000.0 * static_cast<double>(i);
      ASSERT_EQ(sums[i - 1], n * (n - 1) / 2);
    }
  }
  EXPECT_GE(kills, kKills);
}

TEST_F(KillTest, ResultsOfKilledWorkersStay) {
  std::vector<sheaf::ObjectRef<std::vector<double>>> refs;
  for (int64_t i = 1; i <= 10; ++i) refs.push_back(sheaf::task(ramp).remote(i * 3000));
  sheaf::wait(refs, refs.size(), 60s);
  for (int pid : worker_pids()) EXPECT_TRUE(end_process(pid));
  for (int64_t i = 1; i <= 10; ++i) EXPECT_EQ(sheaf::get(refs[static_cast<size_t>(i) - 1], 20s), ramp(i * 3000));
  EXPECT_EQ(sheaf::get(sheaf::task(square).remote(9), 30s), 81);
}

// A driver of its own, in a child process that is killed: its cluster must be gone within two seconds.
TEST(DriverDeathTest, ClusterGoesWithItsDriver) {
  use_build_tree();
  TempDir temp;
  std::string mark = "SHEAF_TEST_MARK=dying-" + std::to_string(getpid());
  pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setenv("SHEAF_TEST_MARK", mark.c_str() + 16, 1);
    sheaf::init(small_cluster());
    auto counter = sheaf::actor<Counter>().detached().name("x").remote(0);
    sheaf::get(counter.task(&Counter::get).remote());
    sheaf::get(sheaf::task(square).remote(2));
    std::ofstream(temp.file("part")) << sheaf::session_dir() << std::endl;
    rename(temp.file("part").c_str(), temp.file("ready").c_str());
    sheaf::get(sheaf::task(wait_for_file).remote("/nonexistent"));
    _exit(0);
  }
  ASSERT_TRUE(eventually([&] { return exists(temp.file("ready")); }, 30s));
  std::string dir;
  std::ifstream(temp.file("ready")) >> dir;
  EXPECT_TRUE(exists(dir));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(eventually([&] { return descendants_with(mark) == 0; }));
  EXPECT_TRUE(eventually([&] { return !exists(dir); }));
}

TEST(ClusterTest, StartsAndEndsRepeatedly) {
  use_build_tree();
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(sheaf::is_initialized());
    sheaf::init(small_cluster(1));
    auto ref = sheaf::task(square).remote(i);
    EXPECT_EQ(sheaf::get(ref, 20s), i * i);
    std::string dir = sheaf::session_dir();
    sheaf::shutdown();
    EXPECT_FALSE(exists(dir));
    EXPECT_THROW(sheaf::get(ref), sheaf::DisconnectedError);
  }
}

// Joins the cluster at `address` as a second driver and leaves it. The exit status says what was wrong.
int second_driver(const char* address) {
  sheaf::Options options;
  options.address = address;
  sheaf::init(options);
  auto counter = sheaf::get_actor<Counter>("shared", "common");
  if (sheaf::get(counter.task(&Counter::add).remote(41), 20s) != 42) return 1;
  if (sheaf::get(sheaf::task(square).remote(3), 20s) != 9) return 2;
  sheaf::shutdown();
  return 0;
}

TEST(ClusterTest, TwoDriversShareACluster) {
  use_build_tree();
  sheaf::init(small_cluster());
  std::string dir = sheaf::session_dir();
  auto counter = sheaf::actor<Counter>().name("shared", "common").remote(1);
  EXPECT_EQ(sheaf::get(counter.task(&Counter::get).remote(), 20s), 1);
  pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "second-driver", dir.c_str(), nullptr);
    _exit(99);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(sheaf::get(counter.task(&Counter::get).remote(), 20s), 42);
  sheaf::Options wrong;
  EXPECT_THROW(sheaf::init(wrong), sheaf::ArgumentError);
  sheaf::shutdown();
  wrong.address = "/nonexistent";
  EXPECT_THROW(sheaf::init(wrong), sheaf::DisconnectedError);
}

}  // namespace
}  // namespace testlib

int main(int argc, char** argv) {
  if (std::string(argv[0]) == "second-driver") return testlib::second_driver(argv[1]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
