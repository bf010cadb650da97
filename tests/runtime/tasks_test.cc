// Tasks and objects, end to end through a real daemon and real workers.
#include <atomic>
#include <numeric>
#include <set>

#include "runtime/impl.h"
#include "tests/runtime/cluster_fixture.h"

namespace testlib {
namespace {

class TasksTest : public ClusterTest {};

TEST_F(TasksTest, OneTaskOneObject) {
  EXPECT_EQ(sheaf::get(sheaf::task(square).remote(7)), 49);
  EXPECT_EQ(sheaf::get(sheaf::put(std::string("kept"))), "kept");
}

TEST_F(TasksTest, VoidTaskIsWaitedFor) {
  sheaf::ObjectRef<void> ref = sheaf::task(nothing).remote();
  sheaf::get(ref);
  EXPECT_TRUE(ref.is_ready());
}

TEST_F(TasksTest, ReferencesStandForValues) {
  auto a = sheaf::task(square).remote(3);
  auto b = sheaf::put(int64_t{5});
  EXPECT_EQ(sheaf::get(sheaf::task(add).remote(a, b)), 14);
  auto chain = sheaf::task(add).remote(1, 1);
  for (int i = 0; i < 100; ++i) chain = sheaf::task(add).remote(chain, 1);
  EXPECT_EQ(sheaf::get(chain), 102);
}

TEST_F(TasksTest, TenThousandPipelined) {
  std::vector<sheaf::ObjectRef<int64_t>> refs;
  auto remote_square = sheaf::task(square);
  for (int64_t i = 0; i < 10000; ++i) refs.push_back(remote_square.remote(i));
  auto values = sheaf::get(refs, 60s);
  for (int64_t i = 0; i < 10000; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], i * i);
}

// Programs make the options of a call anew each time: what is measured of a function must hold for all of them, as tasks
// of a template that was never measured go to a worker one at a time.
TEST_F(TasksTest, EqualTemplatesAreOneAndNamesShareMeasurements) {
  auto& rt = *sheaf::runtime::Runtime::current();
  sheaf::runtime::TaskTemplate plain;
  plain.function = {7, 7};
  plain.name = "some name";
  sheaf::runtime::TaskTemplate other_name = plain, other_function = plain, other_resources = plain;
  other_name.name = "another name";
  other_function.function = {7, 8};
  other_resources.placement.resources["CPU"] = 20000;
  auto id = rt.define_template(plain);
  EXPECT_EQ(rt.define_template(plain), id);
  EXPECT_NE(rt.define_template(other_name), id);
  EXPECT_NE(rt.define_template(other_resources), id);
  auto mean = [&](const sheaf::runtime::TaskTemplate& t) {
    return rt.impl().submitter.definition(rt.define_template(t)).mean_us;
  };
  EXPECT_EQ(mean(other_name), mean(plain));
  EXPECT_EQ(mean(other_resources), mean(plain));
  EXPECT_NE(mean(other_function), mean(plain));
  EXPECT_LT(*mean(plain), 0) << "never run";
}

TEST_F(TasksTest, LargeArgumentsAndResults) {
  auto ref = sheaf::task(ramp).remote(1000000);
  EXPECT_EQ(sheaf::get(sheaf::task(total).remote(ref)), 999999.0 * 1000000 / 2);
  EXPECT_EQ(sheaf::get(sheaf::task(total).remote(std::vector<double>(20000, 0.5))), 10000.0);   // becomes an object
  EXPECT_EQ(sheaf::get(sheaf::task(total).remote(std::vector<double>(20, 0.5))), 10.0);         // travels in the call
  EXPECT_EQ(sheaf::get(sheaf::task(repeat).remote(std::string(10000, 'x'), 30)).size(), 300000u);
  for (int64_t n : {900, 1000, 1100, 8000, 9000}) {   // around the limits of inline values and slabs
    EXPECT_EQ(sheaf::get(sheaf::task(ramp).remote(n)), ramp(n));
  }
}

TEST_F(TasksTest, ViewsReadInPlaceAndOutliveTheReference) {
  sheaf::View<double> view;
  {
    auto ref = sheaf::put(ramp(100000));
    view = sheaf::get_view(ref);
    sheaf::View<double> again = sheaf::get_view(ref);
    EXPECT_EQ(view.data(), again.data());
  }
  for (int i = 0; i < 20; ++i) sheaf::put(std::vector<double>(100000, -1.0));   // the memory is not given to others
  EXPECT_EQ(view.to_vector(), ramp(100000));
}

TEST_F(TasksTest, ReferencesInsideValues) {
  auto refs = sheaf::get(sheaf::task(make_refs).remote(10));
  ASSERT_EQ(refs.size(), 10u);
  int64_t expected = 0;
  for (int64_t i = 0; i < 10; ++i) expected += i % 2 ? i : i * i;
  EXPECT_EQ(sheaf::get(sheaf::task(sum_of_refs).remote(refs)), expected);
  auto stored = sheaf::put(refs);
  refs.clear();
  EXPECT_EQ(sheaf::get(sheaf::task(sum_of_refs).remote(stored)), expected);
  EXPECT_EQ(sheaf::get(sheaf::task(length_of_ref).remote(sheaf::put(std::string(20000, 'a')))), 20000);
  EXPECT_EQ(sheaf::get(sheaf::task(length_of_ref).remote(sheaf::put(std::string("short")))), 5);
}

TEST_F(TasksTest, ErrorsKeepTypeAndText) {
  auto ref = sheaf::task(fail).remote("the reason");
  try {
    sheaf::get(ref);
    FAIL();
  } catch (const sheaf::TaskError& e) {
    EXPECT_EQ(e.kind(), sheaf::ErrorKind::kUserException);
    EXPECT_NE(std::string(e.what()).find("fail: std::invalid_argument: the reason"), std::string::npos) << e.what();
  }
  EXPECT_THROW(sheaf::get(sheaf::task(fail_oddly).remote()), sheaf::TaskError);
  EXPECT_THROW(sheaf::get(sheaf::task(add).remote(sheaf::task(fail_oddly).remote(), 1)), sheaf::TaskError);
}

TEST_F(TasksTest, WrongUseIsRefused) {
  EXPECT_THROW(sheaf::get(sheaf::ObjectRef<int>()), sheaf::ArgumentError);
  EXPECT_THROW(sheaf::task(add).remote(sheaf::ObjectRef<int64_t>(), 1), sheaf::ArgumentError);
  EXPECT_THROW(sheaf::task(+[](int x) { return x; }).remote(1), sheaf::ArgumentError);
  EXPECT_THROW(sheaf::init(), sheaf::ArgumentError);
  auto text = sheaf::put(std::string("text"));
  sheaf::ObjectRef<int64_t> lie(text.runtime(), text.slot());
  text.runtime()->retain(text.slot());
  EXPECT_THROW(sheaf::get(lie), sheaf::DecodeError);
  EXPECT_THROW(sheaf::get(sheaf::task(square).remote(lie)), sheaf::TaskError);
}

TEST_F(TasksTest, RetriesUserExceptionsWhenAsked) {
  EXPECT_EQ(sheaf::get(sheaf::task(flaky).retry_exceptions().max_retries(3).remote(temp_.file("a"), 3)), 3);
  EXPECT_THROW(sheaf::get(sheaf::task(flaky).retry_exceptions().max_retries(2).remote(temp_.file("b"), 3)),
               sheaf::TaskError);
  EXPECT_THROW(sheaf::get(sheaf::task(flaky).remote(temp_.file("c"), 1)), sheaf::TaskError);
}

TEST_F(TasksTest, CrashedWorkersAreReplaced) {
  EXPECT_EQ(sheaf::get(sheaf::task(die_once).remote(temp_.file("died")), 30s), 1);
  EXPECT_THROW(sheaf::get(sheaf::task(die).max_retries(0).remote(SIGKILL), 30s), sheaf::WorkerCrashedError);
  EXPECT_THROW(sheaf::get(sheaf::task(die).max_retries(1).remote(SIGABRT), 30s), sheaf::WorkerCrashedError);
  EXPECT_EQ(sheaf::get(sheaf::task(square).remote(4), 30s), 16);
}

TEST_F(TasksTest, NestedTasksDeeperThanTheCpus) {
  EXPECT_EQ(sheaf::get(sheaf::task(depth).remote(12), 60s), 12);
  EXPECT_EQ(sheaf::get(sheaf::task(fibonacci).remote(7), 60s), 13);
}

TEST_F(TasksTest, WaitSplitsReadyFromPending) {
  std::vector<sheaf::ObjectRef<int>> refs = {
      sheaf::task(wait_for_file).num_cpus(0).remote(temp_.file("go")), sheaf::put(1), sheaf::put(2)};
  auto [ready, pending] = sheaf::wait(refs, 2, 10s);
  EXPECT_EQ(ready.size(), 2u);
  ASSERT_EQ(pending.size(), 1u);
  EXPECT_TRUE(pending[0] == refs[0]);
  auto [none, all] = sheaf::wait(pending, 1, 20ms);
  EXPECT_TRUE(none.empty());
  EXPECT_THROW(sheaf::get(refs[0], 20ms), sheaf::GetTimeoutError);
  std::ofstream(temp_.file("go")) << "x";
  EXPECT_EQ(sheaf::wait(refs, 3, 20s).first.size(), 3u);
}

TEST_F(TasksTest, CancelQueuedRunningAndForced) {
  auto blockers = sheaf::task(wait_for_file).num_cpus(2).remote(temp_.file("never"));
  auto queued = sheaf::task(square).num_cpus(2).remote(3);
  EXPECT_TRUE(sheaf::cancel(queued));
  EXPECT_THROW(sheaf::get(queued, 10s), sheaf::TaskCancelledError);
  EXPECT_TRUE(sheaf::cancel(blockers, true));
  EXPECT_THROW(sheaf::get(blockers, 10s), sheaf::TaskCancelledError);
  auto running = sheaf::task(sleep_until_cancelled).remote(20000);
  std::this_thread::sleep_for(100ms);
  EXPECT_TRUE(sheaf::cancel(running));
  EXPECT_THROW(sheaf::get(running, 10s), sheaf::TaskCancelledError);
  auto done = sheaf::task(square).remote(3);
  sheaf::get(done);
  EXPECT_FALSE(sheaf::cancel(done));
}

TEST_F(TasksTest, StreamsDeliverInOrder) {
  auto stream = sheaf::task(count_to).remote(1000);
  int64_t n = 0;
  while (auto item = stream.next(20s)) EXPECT_EQ(sheaf::get(*item), n++);
  EXPECT_EQ(n, 1000);
  auto failing = sheaf::task(count_and_fail).remote(3);
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(sheaf::get(*failing.next(10s)), i);
  auto last = failing.next(10s);
  ASSERT_TRUE(last);
  EXPECT_THROW(sheaf::get(*last), sheaf::TaskError);
  EXPECT_FALSE(failing.next(10s));
  auto large = sheaf::task(large_items).backpressure(2).remote(10, 50000);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(sheaf::get(*large.next(10s))[49999], i);
  EXPECT_FALSE(large.next(10s));
}

TEST_F(TasksTest, ManyThreadsOfOneDriver) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int64_t t = 0; t < 8; ++t) {
    threads.emplace_back([t, &wrong] {
      for (int64_t i = 0; i < 200; ++i) {
        auto ref = sheaf::task(add).remote(sheaf::task(square).remote(t), sheaf::put(i));
        if (sheaf::get(ref, 60s) != t * t + i) ++wrong;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(TasksTest, TasksRunInParallel) {
  auto hold = sheaf::task(note_and_hold);
  auto a = hold.remote(temp_.file("running"), temp_.file("go"));
  auto b = hold.remote(temp_.file("running"), temp_.file("go"));
  EXPECT_TRUE(eventually([&] {
    std::ifstream in(temp_.file("running"));
    int first = 0, second = 0;
    in >> first >> second;
    return first > 0 && second > 0 && first != second;
  }));
  std::ofstream(temp_.file("go")) << "x";
  EXPECT_NE(sheaf::get(a), sheaf::get(b));
  EXPECT_NE(sheaf::get(sheaf::task(pid_of_worker).remote()), getpid());
}

TEST_F(TasksTest, ResourcesAreKnown) {
  EXPECT_EQ(sheaf::cluster_resources()["CPU"], 2.0);
  EXPECT_TRUE(eventually([] { return sheaf::available_resources()["CPU"] == 2.0; }));
}

TEST_F(TasksTest, PlacementGroupReservesAndRuns) {
  auto group = sheaf::placement_group({{{"CPU", 1}}, {{"CPU", 1}}});
  ASSERT_TRUE(group.wait(10s));
  EXPECT_EQ(sheaf::get(sheaf::task(square).placement_group(group, 1).remote(5), 20s), 25);
  auto too_much = sheaf::placement_group({{{"CPU", 1}}});
  EXPECT_FALSE(too_much.wait(50ms));
  group.remove();
  EXPECT_TRUE(too_much.wait(10s));
  too_much.remove();
  EXPECT_THROW(group.wait(1s), sheaf::UnschedulableError);
}

TEST_F(TasksTest, DroppedObjectsGiveTheirMemoryBack) {
  for (int i = 0; i < 40; ++i) {   // 40 x 32 MB through a store of 256 MB
    auto ref = sheaf::put(std::vector<double>(4 << 20, i));
    EXPECT_EQ(sheaf::get_view(ref)[12345], i);
  }
}

}  // namespace
}  // namespace testlib
