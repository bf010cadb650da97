// The public C++ interface, name by name, where the other suites do not use it.
#include <algorithm>
#include <thread>

#include "tests/runtime/cluster_fixture.h"

namespace testlib {
namespace {

class ApiTest : public ClusterTest {};

TEST_F(ApiTest, SeveralReturnValuesAreObjectsOfTheirOwn) {
  auto [quotient, remainder] = sheaf::task(divide).remote_split(17, 5);
  static_assert(std::is_same_v<decltype(quotient), sheaf::ObjectRef<int64_t>>);
  EXPECT_EQ(sheaf::get(quotient, 20s), 3);
  EXPECT_EQ(sheaf::get(remainder, 20s), 2);
  EXPECT_EQ(sheaf::get(sheaf::task(divide).remote(17, 5), 20s), (std::tuple<int64_t, int64_t>{3, 2}));
  auto [numbers, text, more] = sheaf::task(mixed_results).max_retries(1).remote_split(50000);
  EXPECT_EQ(sheaf::get_view(numbers, 20s)[49999], 49999.0);
  EXPECT_EQ(sheaf::get(text, 20s), "50000");
  EXPECT_EQ(sheaf::get(sheaf::get(more, 20s), 20s), 2500000000);
  EXPECT_EQ(sheaf::get(sheaf::task(add).remote(quotient, remainder), 20s), 5);   // one of them as an argument
  auto [low, high] = sheaf::task(low_and_high).remote_split(std::vector<int64_t>{3, 1, 2});
  EXPECT_EQ(sheaf::get(low, 20s) * 10 + sheaf::get(high, 20s), 13);
  auto [bad, worse] = sheaf::task(divide).remote_split(1, 0);
  EXPECT_THROW(sheaf::get(bad, 20s), sheaf::TaskError);
  EXPECT_THROW(sheaf::get(worse, 20s), sheaf::TaskError);
}

TEST_F(ApiTest, MethodsGiveSeveralValuesToo) {
  auto counter = sheaf::actor<Counter>().remote(5);
  auto [before, after] = counter.task(&Counter::swap).remote_split(9);
  EXPECT_EQ(sheaf::get(before, 20s), 5);
  EXPECT_EQ(sheaf::get(after, 20s), 9);
}

TEST_F(ApiTest, SplitValuesSurviveTheirWorker) {
  auto [numbers, pid] = sheaf::task(ramp_and_pid).remote_split(40000);
  int process = sheaf::get(pid, 20s);
  EXPECT_TRUE(end_process(process));
  EXPECT_EQ(sheaf::get(numbers, 20s), ramp(40000));
  // Later tests must not send it tasks that they do not retry.
  EXPECT_TRUE(eventually([&] {
    auto pids = worker_pids();
    return std::find(pids.begin(), pids.end(), process) == pids.end();
  }));
}

TEST_F(ApiTest, WorkersEndAfterMaxCalls) {
  auto pid = sheaf::task(pid_of_worker).max_calls(2).max_retries(0);
  std::map<int, int> calls;
  std::vector<sheaf::ObjectRef<int>> refs;
  for (int i = 0; i < 20; ++i) refs.push_back(pid.remote());
  for (int p : sheaf::get(refs, 60s)) ++calls[p];
  for (int i = 0; i < 6; ++i) ++calls[sheaf::get(pid.remote(), 20s)];
  for (auto [process, n] : calls) EXPECT_LE(n, 2) << process;
  for (auto [process, n] : calls) EXPECT_TRUE(eventually([p = process] { return kill(p, 0) != 0; }));
  auto broken = sheaf::task(fail).max_calls(1);
  EXPECT_THROW(sheaf::get(broken.remote("x"), 20s), sheaf::TaskError);   // its error arrives before its worker ends
}

TEST_F(ApiTest, ErrorsTellTheirType) {
  try {
    sheaf::get(sheaf::task(fail).remote("a: b (c)"), 20s);
    FAIL();
  } catch (const sheaf::TaskError& e) {
    EXPECT_EQ(e.type(), "std::invalid_argument");
    EXPECT_EQ(e.text(), "a: b (c)");
    EXPECT_THROW(e.rethrow_typed(), std::invalid_argument);
  }
  try {
    sheaf::get(sheaf::task(fail_with_own_type).remote(), 20s);
    FAIL();
  } catch (const sheaf::TaskError& e) {
    EXPECT_EQ(e.type(), "testlib::OwnError");
    EXPECT_EQ(e.text(), "own");
    EXPECT_THROW(e.rethrow_typed(), sheaf::TaskError);
  }
  try {
    sheaf::get(sheaf::task(fail_oddly).remote(), 20s);
    FAIL();
  } catch (const sheaf::TaskError& e) {
    EXPECT_EQ(e.text(), "");
  }
}

TEST_F(ApiTest, FuturesAndCallbacks) {
  std::future<int64_t> value = sheaf::get_future(sheaf::task(slow_square).remote(6, 30));
  EXPECT_EQ(value.get(), 36);
  EXPECT_EQ(sheaf::get_future(sheaf::put(std::string("here"))).get(), "here");
  sheaf::get_future(sheaf::task(nothing).remote()).get();
  EXPECT_THROW(sheaf::get_future(sheaf::task(fail).remote("x")).get(), sheaf::TaskError);
  EXPECT_EQ(sheaf::get_future(sheaf::task(ramp).remote(30000)).get().size(), 30000u);
  std::vector<std::future<int64_t>> many;
  for (int64_t i = 0; i < 500; ++i) many.push_back(sheaf::get_future(sheaf::task(square).remote(i)));
  for (int64_t i = 0; i < 500; ++i) ASSERT_EQ(many[static_cast<size_t>(i)].get(), i * i);
  auto ref = sheaf::task(slow_square).remote(2, 20);
  std::atomic<int> called{0};
  for (int i = 0; i < 3; ++i) sheaf::when_ready(ref, [&] { ++called; });
  EXPECT_TRUE(eventually([&] { return called == 3; }));
  auto cancelled = sheaf::task(sleep_until_cancelled).remote(20000);
  auto outcome = sheaf::get_future(cancelled);
  EXPECT_EQ(outcome.wait_for(30ms), std::future_status::timeout);
  sheaf::cancel(cancelled);
  EXPECT_THROW(outcome.get(), sheaf::TaskCancelledError);
}

TEST_F(ApiTest, RuntimeContextSaysWhereCodeRuns) {
  sheaf::RuntimeContext here = sheaf::runtime_context();
  EXPECT_EQ(here.task_id, "");
  EXPECT_EQ(here.actor_id, "");
  EXPECT_NE(here.job, 0u);
  EXPECT_EQ(here.node_id.size(), 32u);
  auto there = sheaf::get(sheaf::task(context_of_task).num_cpus(0.5).name("where").remote(), 20s);
  EXPECT_EQ(there["node"], here.node_id);
  EXPECT_EQ(there["job"], std::to_string(here.job));
  EXPECT_EQ(there["name"], "where");
  EXPECT_EQ(there["cpu"], "0.5");
  EXPECT_EQ(there["actor"], "");
  EXPECT_EQ(there["task"].size(), 32u);
  EXPECT_NE(there["process"], std::to_string(here.process));
  auto on_node = sheaf::task(context_of_task).node(here.node_id);
  EXPECT_EQ(sheaf::get(on_node.remote(), 20s)["node"], here.node_id);
  auto counter = sheaf::actor<Counter>().max_restarts(1).remote(0);
  auto inside = sheaf::get(counter.task(&Counter::context).remote(), 20s);
  EXPECT_EQ(inside["actor"], to_hex(counter.id()));
  EXPECT_EQ(inside["restarted"], "0");
  ASSERT_TRUE(end_process(sheaf::get(counter.task(&Counter::pid).remote(), 20s)));
  EXPECT_EQ(sheaf::get(counter.task(&Counter::context).max_retries(-1).remote(), 20s)["restarted"], "1");
}

TEST_F(ApiTest, ReferencesTravelInContainers) {
  using Refs = std::map<std::string, std::vector<sheaf::ObjectRef<int64_t>>>;
  Refs refs{{"a", {sheaf::put(int64_t{1}), sheaf::task(square).remote(3)}}, {"b", {sheaf::task(add).remote(1, 1)}}};
  EXPECT_EQ(sheaf::get(sheaf::task(sum_of_map).remote(refs), 20s), 12);
  EXPECT_EQ(sheaf::get(sheaf::task(sum_of_map).remote(sheaf::put(refs)), 20s), 12);
  auto nested = sheaf::put(sheaf::task(square).remote(4));   // a reference to a reference
  EXPECT_EQ(sheaf::get(sheaf::get(nested, 20s), 20s), 16);
  std::optional<sheaf::ObjectRef<int64_t>> maybe_ref = sheaf::put(int64_t{7});
  EXPECT_EQ(sheaf::get(*sheaf::get(sheaf::put(maybe_ref)), 20s), 7);
}

TEST_F(ApiTest, DetachedActorsOutliveTheirHandles) {
  {
    auto counter = sheaf::actor<Counter>().name("kept", "common").detached().remote(4);
    EXPECT_EQ(sheaf::get(counter.task(&Counter::add).remote(1), 20s), 5);
  }
  std::this_thread::sleep_for(50ms);
  auto found = sheaf::get_actor<Counter>("kept", "common");
  EXPECT_EQ(sheaf::get(found.task(&Counter::get).remote(), 20s), 5);
  EXPECT_THROW(sheaf::get_actor<Counter>("kept"), sheaf::ArgumentError);   // another namespace
  found.kill();
}

TEST_F(ApiTest, RequestsThatNoNodeCanMeetWait) {
  auto too_large = sheaf::task(square).resource("unobtainium", 1).remote(2);
  EXPECT_THROW(sheaf::get(too_large, 100ms), sheaf::GetTimeoutError);
  EXPECT_TRUE(sheaf::cancel(too_large));
  EXPECT_THROW(sheaf::get(too_large, 20s), sheaf::TaskCancelledError);
}

// Ends a process as a crash does; a sanitizer's runtime reports SIGSEGV, sent by a test or not.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kCrash = SIGTRAP;
#else
constexpr int kCrash = SIGSEGV;
#endif

// Workers of two slots each.
class SlotsTest : public ClusterTest {
 public:
  static void SetUpTestSuite() {
    setenv("SHEAF_CPP_SLOTS", "2", 1);
    start(small_cluster(1));
  }
  static void TearDownTestSuite() {
    ClusterTest::TearDownTestSuite();
    unsetenv("SHEAF_CPP_SLOTS");
  }

 protected:
  // Two tasks that run in one process at the same time, and the process.
  template <class Make>
  int two_in_one_process(const Make& make) {
    sheaf::get(sheaf::task(pid_of_worker).remote(), 20s);
    make();
    EXPECT_TRUE(eventually([&] { return lines_of("running") >= 2; }));
    std::ifstream in(temp_.file("running"));
    int a = 0, b = -1;
    in >> a >> b;
    EXPECT_EQ(a, b) << "the slots are in different processes";
    return a;
  }
  int lines_of(const std::string& name) { return temp_.lines(name); }
};

TEST_F(SlotsTest, BothRunningTasksAreBlamedAndNoOther) {
  for (int signal : {SIGKILL, kCrash}) {
    std::vector<sheaf::ObjectRef<int>> refs;
    auto hold = sheaf::task(note_and_hold).max_retries(0);
    std::string go = temp_.file("go" + std::to_string(signal));
    std::remove(temp_.file("running").c_str());
    int pid = two_in_one_process([&] {
      for (int i = 0; i < 6; ++i) refs.push_back(hold.remote(temp_.file("running"), go));
    });
    ASSERT_TRUE(end_process(pid, signal));
    EXPECT_THROW(sheaf::get(refs[0], 30s), sheaf::WorkerCrashedError);
    EXPECT_THROW(sheaf::get(refs[1], 30s), sheaf::WorkerCrashedError);
    std::ofstream(go) << "x";
    for (size_t i = 2; i < 6; ++i) EXPECT_NE(sheaf::get(refs[i], 30s), pid);
  }
}

TEST_F(SlotsTest, BothRunningTasksAreRetried) {
  std::vector<sheaf::ObjectRef<int>> refs;
  auto hold = sheaf::task(note_and_hold).max_retries(1);
  int pid = two_in_one_process([&] {
    for (int i = 0; i < 2; ++i) refs.push_back(hold.remote(temp_.file("running"), temp_.file("go")));
  });
  ASSERT_TRUE(end_process(pid, kCrash));   // else a task may see the file and return normally
  std::ofstream(temp_.file("go")) << "x";
  for (int p : sheaf::get(refs, 30s)) EXPECT_NE(p, pid);
}

TEST_F(SlotsTest, ATaskThatCrashesItsProcessTakesItsNeighbour) {
  auto neighbour = sheaf::task(note_and_hold).max_retries(1).remote(temp_.file("running"), temp_.file("go"));
  ASSERT_TRUE(eventually([&] { return lines_of("running") == 1; }));
  EXPECT_THROW(sheaf::get(sheaf::task(die).max_retries(0).remote(kCrash), 30s), sheaf::WorkerCrashedError);
  std::ofstream(temp_.file("go")) << "x";
  sheaf::get(neighbour, 30s);
  EXPECT_EQ(lines_of("running"), 2);
}

TEST_F(SlotsTest, MaxCallsLetsTheNeighbourFinish) {
  auto neighbour = sheaf::task(note_and_hold).max_retries(0).remote(temp_.file("running"), temp_.file("go"));
  ASSERT_TRUE(eventually([&] { return lines_of("running") == 1; }));
  auto once = sheaf::task(pid_of_worker).max_calls(1).max_retries(0);
  int pid = sheaf::get(once.remote(), 20s);
  std::ofstream(temp_.file("go")) << "x";
  EXPECT_EQ(sheaf::get(neighbour, 20s), pid);
  EXPECT_NE(sheaf::get(once.remote(), 20s), pid);
}

}  // namespace
}  // namespace testlib
