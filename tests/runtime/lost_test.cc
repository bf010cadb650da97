// Objects whose bytes are gone: spill files are overwritten on disk, and whoever needs the objects gets them made again.
#include <signal.h>

#include <filesystem>
#include <random>

#include "tests/runtime/cluster_fixture.h"

namespace testlib {
namespace {

using Ramp = std::vector<double>;
constexpr int64_t kNumbers = 1 << 20;   // 8 MB, of a store of 64 MB
constexpr double kTotal = double(kNumbers) * (kNumbers - 1) / 2;

class LostTest : public ClusterTest {
 public:
  static void SetUpTestSuite() {
    start([] {
      sheaf::Options options = small_cluster();
      options.object_store_memory = 64 << 20;
      return options;
    }());
  }

 protected:
  // Pushes everything that exists out to disk and overwrites it there.
  static void lose_everything() {
    std::vector<sheaf::ObjectRef<Ramp>> fillers;
    for (int i = 0; i < 16; ++i) fillers.push_back(sheaf::put(Ramp(kNumbers, i)));
    int overwritten = 0;
    for (const auto& file : std::filesystem::recursive_directory_iterator(sheaf::session_dir() + "/spill")) {
      if (!file.is_regular_file()) continue;
      std::fstream out(file.path(), std::ios::in | std::ios::out | std::ios::binary);
      std::string junk(file.file_size(), 'Z');
      out.write(junk.data(), static_cast<std::streamsize>(junk.size()));
      ++overwritten;
    }
    ASSERT_GT(overwritten, 0);
  }
  int runs(const std::string& name) { return temp_.lines(name); }
};

TEST_F(LostTest, LostArgumentIsMadeAgainWithoutARetryOfItsConsumer) {
  auto made = sheaf::task(noted_ramp).remote(temp_.file("made"), kNumbers);
  sheaf::wait(std::vector{made});
  lose_everything();
  auto sum = sheaf::task(noted_total).max_retries(0).remote(temp_.file("sum"), made);
  EXPECT_EQ(sheaf::get(sum, 60s), kTotal);
  EXPECT_EQ(runs("made"), 2);
  EXPECT_EQ(runs("sum"), 1);
  EXPECT_EQ(sheaf::get(made, 20s).back(), kNumbers - 1);
  EXPECT_EQ(runs("made"), 2);
}

TEST_F(LostTest, ArgumentsOfArgumentsAreMadeAgainThoughNobodyHoldsThem) {
  auto chain = sheaf::task(noted_ramp).remote(temp_.file("made"), kNumbers);
  for (int i = 0; i < 3; ++i) chain = sheaf::task(shifted).remote(chain, 1.0);
  sheaf::wait(std::vector{chain});
  lose_everything();
  auto sums = std::vector{sheaf::task(total).max_retries(0).remote(chain), sheaf::task(total).remote(chain)};
  for (double sum : sheaf::get(sums, 60s)) EXPECT_EQ(sum, kTotal + 3.0 * kNumbers);
  EXPECT_EQ(runs("made"), 2);
  lose_everything();
  EXPECT_EQ(sheaf::get(chain, 60s)[0], 3.0);
  EXPECT_EQ(runs("made"), 3);
}

TEST_F(LostTest, BorrowersWaitForTheMaker) {
  std::vector<sheaf::ObjectRef<Ramp>> refs;
  for (int i = 0; i < 3; ++i) refs.push_back(sheaf::task(noted_ramp).remote(temp_.file("made"), kNumbers));
  sheaf::wait(refs, refs.size());
  lose_everything();
  EXPECT_EQ(sheaf::get(sheaf::task(total_of_refs).max_retries(0).remote(refs), 60s), 3 * kTotal);
  EXPECT_EQ(runs("made"), 6);
}

TEST_F(LostTest, ActorCallsKeepTheirOrder) {
  auto made = sheaf::task(noted_ramp).remote(temp_.file("made"), kNumbers);
  auto actor = sheaf::actor<Counter>().remote(0);
  sheaf::wait(std::vector{made});
  lose_everything();
  auto first = actor.task(&Counter::add_length).remote(made);
  auto second = actor.task(&Counter::add).remote(1);
  EXPECT_EQ(sheaf::get(first, 60s), kNumbers);
  EXPECT_EQ(sheaf::get(second, 20s), kNumbers + 1);
  EXPECT_EQ(runs("made"), 2);
}

TEST_F(LostTest, WhatCannotBeMadeAgainIsAnErrorForEverybody) {
  auto stored = sheaf::put(Ramp(kNumbers, 1.0));
  auto once = sheaf::task(noted_ramp).max_retries(0).remote(temp_.file("made"), kNumbers);
  sheaf::wait(std::vector{once});
  lose_everything();
  auto borrowed = sheaf::task(total_of_refs).max_retries(0).remote(std::vector{stored});
  EXPECT_THROW(sheaf::get(sheaf::task(total).remote(stored), 30s), sheaf::ObjectLostError);
  EXPECT_THROW(sheaf::get(sheaf::task(total).remote(once), 30s), sheaf::ObjectLostError);
  EXPECT_THROW(sheaf::get(stored, 30s), sheaf::ObjectLostError);
  EXPECT_THROW(sheaf::get(borrowed, 30s), sheaf::TaskError);
  EXPECT_EQ(runs("made"), 1);
}

TEST_F(LostTest, ObjectsOfADeadSubmitterAreMadeAgainByTheDriver) {
  auto inner = sheaf::get(sheaf::task(make_ramp_and_pid).remote(kNumbers), 20s);
  lose_everything();
  ASSERT_TRUE(end_process(inner.pid));
  EXPECT_EQ(sheaf::get(sheaf::task(total).max_retries(0).remote(inner.ref), 60s), kTotal);
  lose_everything();
  EXPECT_EQ(sheaf::get(inner.ref, 60s).back(), kNumbers - 1);
}

TEST_F(LostTest, WorkersMayDieWhileObjectsAreMadeAgain) {
  uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::vector<sheaf::ObjectRef<Ramp>> refs;
  auto make = sheaf::task(ramp).max_retries(-1);
  auto shift = sheaf::task(shifted).max_retries(-1);
  for (int i = 0; i < 4; ++i) refs.push_back(shift.remote(make.remote(kNumbers), double(i)));
  sheaf::wait(refs, refs.size());
  lose_everything();
  std::vector<sheaf::ObjectRef<double>> sums;
  for (const auto& ref : refs) sums.push_back(sheaf::task(total).max_retries(-1).remote(ref));
  for (int k = 0; k < 12; ++k) {
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
    auto pids = worker_pids();
    if (!pids.empty()) kill(pids[random() % pids.size()], SIGKILL);
  }
  auto values = sheaf::get(sums, 60s);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], kTotal + double(i) * kNumbers);
}

}  // namespace
}  // namespace testlib
