// Actors, end to end: order, names, restarts, death, threads, handles on their way.
#include "tests/runtime/cluster_fixture.h"

namespace testlib {
namespace {

class ActorsTest : public ClusterTest {};

TEST_F(ActorsTest, KeepsState) {
  auto counter = sheaf::actor<Counter>().remote(10);
  EXPECT_EQ(sheaf::get(counter.task(&Counter::add).remote(5), 20s), 15);
  EXPECT_EQ(sheaf::get(counter.task(&Counter::get).remote(), 20s), 15);
}

TEST_F(ActorsTest, CallsRunInTheirOrder) {
  auto counter = sheaf::actor<Counter>().remote(0);
  std::vector<sheaf::ObjectRef<std::vector<int64_t>>> refs;
  auto log = counter.task(&Counter::log);
  std::vector<int64_t> expected;
  for (int64_t i = 0; i < 500; ++i) {
    expected.push_back(i);
    if (i % 7 == 3) refs.push_back(log.remote(sheaf::task(slow_square).num_cpus(0.1).remote(0, 1)));
    else refs.push_back(log.remote(i));
    if (i % 7 == 3) expected.back() = 0;
  }
  EXPECT_EQ(sheaf::get(refs.back(), 60s), expected);
}

TEST_F(ActorsTest, TenThousandCallsPipelined) {
  auto counter = sheaf::actor<Counter>().remote(0);
  auto add_one = counter.task(&Counter::add);
  std::vector<sheaf::ObjectRef<int64_t>> refs;
  for (int i = 0; i < 10000; ++i) refs.push_back(add_one.remote(1));
  auto values = sheaf::get(refs, 60s);
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], static_cast<int64_t>(i) + 1);
}

TEST_F(ActorsTest, ErrorsLeaveTheActorAlive) {
  auto counter = sheaf::actor<Counter>().remote(1);
  EXPECT_THROW(sheaf::get(counter.task(&Counter::fail).remote("no"), 20s), sheaf::TaskError);
  EXPECT_EQ(sheaf::get(counter.task(&Counter::get).remote(), 20s), 1);
}

TEST_F(ActorsTest, ConstructorThatThrowsKillsTheActor) {
  auto broken = sheaf::actor<Broken>().remote();
  try {
    sheaf::get(broken.task(&Broken::get).remote(), 20s);
    FAIL();
  } catch (const sheaf::ActorDiedError& e) {
    EXPECT_NE(std::string(e.what()).find("cannot be made"), std::string::npos) << e.what();
  }
}

TEST_F(ActorsTest, NamesAreFoundAndFreed) {
  auto made = sheaf::actor<Counter>().name("tally").remote(3);
  auto found = sheaf::get_actor<Counter>("tally");
  EXPECT_EQ(sheaf::get(found.task(&Counter::add).remote(4), 20s), 7);
  EXPECT_THROW(sheaf::actor<Counter>().name("tally").remote(0), sheaf::ArgumentError);
  auto same = sheaf::actor<Counter>().name("tally").get_if_exists().remote(100);
  EXPECT_EQ(sheaf::get(same.task(&Counter::get).remote(), 20s), 7);
  EXPECT_THROW(sheaf::get_actor<Counter>("nobody"), sheaf::ArgumentError);
  made.kill();
  EXPECT_TRUE(eventually([] {
    try {
      sheaf::get_actor<Counter>("tally");
      return false;
    } catch (const sheaf::ArgumentError&) {
      return true;
    }
  }));
}

TEST_F(ActorsTest, KilledActorAnswersWithItsDeath) {
  auto counter = sheaf::actor<Counter>().remote(0);
  EXPECT_EQ(sheaf::get(counter.task(&Counter::get).remote(), 20s), 0);
  counter.kill();
  EXPECT_TRUE(eventually([&] {
    try {
      sheaf::get(counter.task(&Counter::get).remote(), 20s);
      return false;
    } catch (const sheaf::ActorDiedError&) {
      return true;
    }
  }));
}

TEST_F(ActorsTest, RestartsAsOftenAsPermitted) {
  auto counter = sheaf::actor<Counter>().max_restarts(1).remote(5);
  EXPECT_EQ(sheaf::get(counter.task(&Counter::add).remote(1), 20s), 6);
  int first = sheaf::get(counter.task(&Counter::pid).remote(), 20s);
  EXPECT_THROW(sheaf::get(counter.task(&Counter::die).remote(), 20s), sheaf::ActorError);
  EXPECT_TRUE(eventually([&] {
    try {
      return sheaf::get(counter.task(&Counter::pid).remote(), 20s) != first;
    } catch (const sheaf::ActorUnavailableError&) {
      return false;
    }
  }));
  EXPECT_EQ(sheaf::get(counter.task(&Counter::get).max_retries(-1).remote(), 20s), 5);   // made anew
  EXPECT_THROW(sheaf::get(counter.task(&Counter::die).remote(), 20s), sheaf::ActorError);
  EXPECT_THROW(sheaf::get(counter.task(&Counter::get).remote(), 20s), sheaf::ActorDiedError);
}

TEST_F(ActorsTest, CallsWithRetriesSurviveARestart) {
  auto counter = sheaf::actor<Counter>().max_restarts(-1).remote(0);
  for (int round = 0; round < 3; ++round) {
    int pid = sheaf::get(counter.task(&Counter::pid).max_retries(-1).remote(), 20s);
    std::vector<sheaf::ObjectRef<int64_t>> refs;
    for (int i = 0; i < 50; ++i) refs.push_back(counter.task(&Counter::sleep_and_add).max_retries(-1).remote(1, 1));
    kill(pid, SIGKILL);
    auto values = sheaf::get(refs, 60s);
    EXPECT_LE(values.back(), 50 + 50 * round);
    for (size_t i = 1; i < values.size(); ++i) EXPECT_TRUE(values[i] == values[i - 1] + 1 || values[i] == 1);
  }
}

TEST_F(ActorsTest, ThreadsOfOneActorMeet) {
  auto barrier = sheaf::actor<Barrier>().max_concurrency(4).remote(4);
  std::vector<sheaf::ObjectRef<bool>> refs;
  for (int i = 0; i < 4; ++i) refs.push_back(barrier.task(&Barrier::meet).remote(10000));
  for (const auto& ref : refs) EXPECT_TRUE(sheaf::get(ref, 20s));
}

TEST_F(ActorsTest, HandlesTravel) {
  auto counter = sheaf::actor<Counter>().remote(1);
  EXPECT_EQ(sheaf::get(sheaf::task(use_counter).remote(counter, 2), 20s), 3);
  auto stored = sheaf::put(counter);
  EXPECT_EQ(sheaf::get(sheaf::get(stored).task(&Counter::add).remote(1), 20s), 4);
}

TEST_F(ActorsTest, DroppedActorEnds) {
  int pid = 0;
  {
    auto counter = sheaf::actor<Counter>().remote(0);
    pid = sheaf::get(counter.task(&Counter::pid).remote(), 20s);
  }
  EXPECT_TRUE(eventually([&] { return kill(pid, 0) != 0; })) << "pid " << pid;
}

TEST_F(ActorsTest, ExitActorAnswersFirst) {
  auto counter = sheaf::actor<Counter>().max_restarts(-1).remote(0);
  sheaf::get(counter.task(&Counter::leave).remote(), 20s);
  EXPECT_THROW(sheaf::get(counter.task(&Counter::get).remote(), 20s), sheaf::ActorDiedError);
}

TEST_F(ActorsTest, PendingCallsAreLimited) {
  auto counter = sheaf::actor<Counter>().remote(0).max_pending_calls(5);
  auto held = sheaf::task(ramp_after).remote(temp_.file("go"), 1);   // no call ends before that
  std::vector<sheaf::ObjectRef<int64_t>> refs;
  EXPECT_THROW(
      {
        for (int i = 0; i < 100; ++i) refs.push_back(counter.task(&Counter::add_length).remote(held));
      },
      sheaf::PendingCallsError);
  EXPECT_EQ(refs.size(), 5u);
  std::ofstream(temp_.file("go")) << "x";
  sheaf::get(refs, 20s);
}

TEST_F(ActorsTest, MethodsStream) {
  auto counter = sheaf::actor<Counter>().remote(0);
  auto stream = counter.task(&Counter::count).remote(20);
  int64_t n = 0;
  while (auto item = stream.next(20s)) EXPECT_EQ(sheaf::get(*item), n++);
  EXPECT_EQ(n, 20);
}

TEST_F(ActorsTest, MoreActorsThanCpus) {
  std::vector<sheaf::ActorHandle<Counter>> actors;
  for (int i = 0; i < 8; ++i) actors.push_back(sheaf::actor<Counter>().remote(i));
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(sheaf::get(actors[static_cast<size_t>(i)].task(&Counter::get).remote(), 30s), i);
  }
}

}  // namespace
}  // namespace testlib
