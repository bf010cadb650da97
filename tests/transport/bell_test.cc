#include "transport/bell.h"
#include "transport/wake_cost.h"

#include <dirent.h>
#include <poll.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <set>
#include <thread>
#include <vector>

#include "tests/transport/lane_fixture.h"

namespace sheaf::transport::test {
namespace {

// A wait for 30 s that ended before this was ended by somebody, on a busy machine too.
constexpr seconds kEarly(15);
constexpr SpinPolicy kNoSpin{std::chrono::nanoseconds(0), std::chrono::nanoseconds(0)};

struct BellFixture {
  LaneRegion region = make_region(1 << 20);
  BellBlock* block = region.at<BellBlock>(allocate(region, sizeof(BellBlock)));
  void until(BellState state) const {
    while ((block->state & kBellStateMask) != static_cast<uint32_t>(state)) usleep(100);
  }
};

struct TempDir {
  std::string path = "/tmp/sheaf-bell-XXXXXX";
  TempDir() { SHEAF_CHECK(mkdtemp(path.data()) != nullptr); }
  ~TempDir() { rmdir(path.c_str()); }
};

size_t open_descriptors() {
  size_t n = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (readdir(dir) != nullptr) ++n;
  closedir(dir);
  return n;
}

TEST(BellTest, EachRungLaneIsDrainedAndThenQuiet) {
  BellFixture f;
  Bell bell(f.block, kNoSpin);
  EXPECT_FALSE(bell.any_ready());
  std::set<uint32_t> rung = {0, 1, 63, 64, 1000, 4095}, seen;
  for (uint32_t lane : rung) BellRinger(f.block, lane).ring();
  EXPECT_TRUE(bell.any_ready());
  bell.for_each_ready([&](uint32_t lane) {
    seen.insert(lane);
    return true;
  });
  EXPECT_EQ(seen, rung);
  EXPECT_FALSE(bell.any_ready());
  bell.for_each_ready([](uint32_t) {
    ADD_FAILURE();
    return true;
  });
}

TEST(BellTest, ALaneThatIsNotEmptyStaysReady) {
  BellFixture f;
  Bell bell(f.block, kNoSpin);
  BellRinger ringer(f.block, 70);
  ringer.ring();
  int left = 3;
  for (int pass = 0; pass < 3; ++pass) {
    ASSERT_TRUE(bell.wait(Clock::now() + seconds(10)));
    bell.for_each_ready([&](uint32_t) { return --left <= 0; });
  }
  EXPECT_FALSE(bell.any_ready());
  // Found empty at first, but not by the look after the clear.
  ringer.ring();
  int call = 0;
  bell.for_each_ready([&](uint32_t) { return ++call == 1; });
  EXPECT_EQ(call, 2);
  EXPECT_TRUE(bell.any_ready());
}

TEST(BellTest, WaitEndsAtItsDeadline) {
  BellFixture f;
  for (SpinPolicy policy : {kNoSpin, SpinPolicy{}}) {
    Bell bell(f.block, policy);
    auto start = Clock::now();
    EXPECT_FALSE(bell.wait(start + milliseconds(20)));
    EXPECT_GE(Clock::now() - start, milliseconds(15));
    EXPECT_LT(Clock::now() - start, kEarly);
    EXPECT_FALSE(bell.wait(start));  // long past
  }
  EXPECT_EQ(f.block->state & kBellStateMask, 0u);
}

TEST(BellTest, WakeFromAThreadEndsAWaitInProgressAndTheNextOne) {
  BellFixture f;
  for (SpinPolicy policy : {kNoSpin, SpinPolicy{}}) {
    Bell bell(f.block, policy);
    for (int delay_us : {0, 5, 50, 3000}) {
      auto start = Clock::now();
      std::thread waker([&] {
        usleep(static_cast<unsigned>(delay_us));
        bell.wake();
      });
      EXPECT_FALSE(bell.wait(start + seconds(30)));
      waker.join();
      EXPECT_LT(Clock::now() - start, kEarly);
      bell.wait(Clock::now());  // takes back a wake that came after the wait had ended
    }
    bell.wake();
    auto start = Clock::now();
    bell.wait(start + seconds(30));
    EXPECT_LT(Clock::now() - start, kEarly);
  }
}

Bell* signalled_bell;

TEST(BellTest, WakeFromASignalHandlerEndsTheNextWait) {
  BellFixture f;
  Bell bell(f.block, kNoSpin);
  signalled_bell = &bell;
  struct sigaction action {
  }, old{};
  action.sa_handler = [](int) { signalled_bell->wake(); };
  sigaction(SIGUSR1, &action, &old);
  auto start = Clock::now();
  raise(SIGUSR1);  // between a look at a flag and the wait: the case that EINTR alone would miss
  bell.wait(start + seconds(30));
  pthread_t self = pthread_self();
  std::thread sender([self] {
    usleep(5000);
    pthread_kill(self, SIGUSR1);
  });
  bell.wait(start + seconds(30));
  sender.join();
  EXPECT_LT(Clock::now() - start, kEarly);
  sigaction(SIGUSR1, &old, nullptr);
}

TEST(BellTest, ABitWithoutASummaryBitIsNotSleptOver) {
  BellFixture f;
  f.block->ready[9] = 4;  // a ringer killed after its first store
  Bell bell(f.block, kNoSpin);
  EXPECT_FALSE(bell.any_ready());
  auto start = Clock::now();
  EXPECT_TRUE(bell.wait(start + seconds(30)));
  EXPECT_LT(Clock::now() - start, kEarly);
  std::vector<uint32_t> lanes;
  bell.for_each_ready([&](uint32_t lane) {
    lanes.push_back(lane);
    return true;
  });
  EXPECT_EQ(lanes, (std::vector<uint32_t>{9 * 64 + 2, 9 * 64 + 2}));
}

TEST(BellTest, ARingerKilledBeforeItsWakeDoesNotMuteTheNextOne) {
  BellFixture f;
  Bell bell(f.block, kNoSpin);
  std::atomic<bool> woken{false};
  std::thread owner([&] {
    while (!bell.any_ready()) bell.wait(Clock::now() + seconds(30));
    woken = true;
  });
  while ((f.block->state & kBellStateMask) == 0) usleep(100);
  usleep(5000);
  f.block->state += kBellCountStep;  // all that the killed one did
  BellRinger(f.block, 1).ring();
  for (auto end = Clock::now() + seconds(20); !woken && Clock::now() < end;) usleep(100);
  EXPECT_TRUE(woken);
  bell.wake();
  owner.join();
}

// Rests for up to 30 s on a thread of its own.
class Resting {
 public:
  explicit Resting(BellFixture& f) : bell_(f.block, kNoSpin) {
    f.until(BellState::kRests);
  }
  ~Resting() { thread_.join(); }
  Bell& bell() { return bell_; }
  bool over() const { return over_; }
  bool ends_early() {
    while (!over_ && Clock::now() < start_ + kEarly) usleep(100);
    return over_;
  }

 private:
  Bell bell_;
  std::atomic<bool> over_{false};
  Clock::time_point start_ = Clock::now();
  std::thread thread_{[this] {
    bell_.rest(start_ + seconds(30));
    over_ = true;
  }};
};

TEST(BellTest, ARestGoesOnThroughRingsThatMayWait) {
  BellFixture f;
  BellRinger one(f.block, 1), two(f.block, 2);
  {
    Resting owner(f);
    one.ring(true);
    two.ring(true);
    one.ring(true);
    usleep(20000);
    EXPECT_FALSE(owner.over());
    one.ring();   // finds its bit set already
    EXPECT_TRUE(owner.ends_early());
    EXPECT_TRUE(owner.bell().any_ready());
    std::set<uint32_t> drained;
    owner.bell().for_each_ready([&](uint32_t lane) { return drained.insert(lane), true; });
    EXPECT_EQ(drained, (std::set<uint32_t>{1, 2}));
    EXPECT_EQ(f.block->state & kBellStateMask, 0u);
  }
  {
    Resting owner(f);
    two.ring();   // the first of its lane
    EXPECT_TRUE(owner.ends_early());
    owner.bell().for_each_ready([](uint32_t) { return true; });
  }
  Resting owner(f);
  owner.bell().wake();
  EXPECT_TRUE(owner.ends_early());
}

TEST(BellTest, ARestEndsAtItsDeadlineAndLooks) {
  BellFixture f;
  Bell bell(f.block, kNoSpin);
  EXPECT_FALSE(bell.rest(Clock::now() + milliseconds(2)));
  std::thread ringer([&] {
    f.until(BellState::kRests);
    BellRinger(f.block, 3).ring(true);
  });
  EXPECT_TRUE(bell.rest(Clock::now() + milliseconds(500)));
  ringer.join();
  EXPECT_TRUE(bell.rest(Clock::now() + seconds(30)));   // at once
  EXPECT_EQ(f.block->state & kBellStateMask, 0u);
  // To an owner that sleeps all rings are the same.
  bell.for_each_ready([](uint32_t) { return true; });
  std::thread late([&] {
    f.until(BellState::kFutex);
    BellRinger(f.block, 3).ring(true);
  });
  auto start = Clock::now();
  EXPECT_TRUE(bell.wait(start + seconds(30)));
  EXPECT_LT(Clock::now() - start, kEarly);
  late.join();
}

TEST(BellTest, SpinEndsWithTheBudgetOrTheFirstBit) {
  BellFixture f;
  Bell bell(f.block, kNoSpin);
  EXPECT_FALSE(bell.spin(std::chrono::microseconds(50)));
  BellRinger(f.block, 5).ring();
  EXPECT_TRUE(bell.spin(seconds(30)));
}

// Who yields among busy programs waits for a time slice of each of them, each time.
TEST(BellTest, AmongBusyProgramsAWaiterDoesNotGoOnYielding) {
  BellFixture f;
  cpu_set_t usual, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof usual, &usual), 0);
  CPU_ZERO(&one);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &usual)) ++cpu;
  CPU_SET(cpu, &one);
  std::atomic<bool> stop{false};
  std::atomic<long> switches{0};
  constexpr int kWaits = 200;
  auto waiter = [&] {
    Bell bell(f.block, {std::chrono::nanoseconds(0), std::chrono::microseconds(20)});
    rusage before, after;
    getrusage(RUSAGE_THREAD, &before);
    auto deadline = std::chrono::steady_clock::now() + kEarly;
    for (int i = 0; i < kWaits; ++i) bell.spin_before_sleep(deadline);
    getrusage(RUSAGE_THREAD, &after);
    switches = after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw;
    stop = true;
  };
  auto pinned = [&](auto work) {
    std::thread thread([&, work] {
      sched_setaffinity(0, sizeof one, &one);
      work();
    });
    return thread;
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.push_back(pinned([&] { while (!stop) {} }));
  threads.push_back(pinned(waiter));
  for (auto& thread : threads) thread.join();
  EXPECT_LT(switches, kWaits / 2);
}

TEST(BellTest, TheMeasuredWakeCostIsWithinItsClamp) {
  auto cost = measure_wake_cost();
  EXPECT_GE(cost, std::chrono::microseconds(5));
  EXPECT_LE(cost, std::chrono::microseconds(25));
}

TEST(BellPollTest, ArmPollRefusesWhileLanesAreReadyAndWakesThePollOtherwise) {
  BellFixture f;
  TempDir dir;
  Bell bell(f.block, kNoSpin);
  auto fd = bell.open_poll_fd(dir.path + "/wake");
  ASSERT_TRUE(fd.has_value());
  struct stat info {};
  ASSERT_EQ(stat((dir.path + "/wake").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);

  auto polled = [&](int timeout_ms) {
    pollfd p{*fd, POLLIN, 0};
    return poll(&p, 1, timeout_ms) == 1;
  };
  BellRinger ringer(f.block, 2);
  auto drain = [](uint32_t) { return true; };
  ringer.ring();
  EXPECT_FALSE(polled(0));  // awake: no system call was made
  EXPECT_FALSE(bell.arm_poll());
  bell.for_each_ready(drain);
  ASSERT_TRUE(bell.arm_poll());
  EXPECT_FALSE(polled(5));
  ringer.ring();
  EXPECT_TRUE(polled(2000));
  bell.disarm_poll();
  EXPECT_FALSE(polled(0));
  EXPECT_TRUE(bell.any_ready());
  bell.for_each_ready(drain);
  ASSERT_TRUE(bell.arm_poll());
  bell.wake();
  EXPECT_TRUE(polled(2000));
  bell.disarm_poll();
  bell.wake();
  EXPECT_FALSE(bell.arm_poll());
  EXPECT_TRUE(bell.arm_poll());
  bell.disarm_poll();
}

TEST(BellPollTest, AFullFifoIsNoObstacle) {
  BellFixture f;
  TempDir dir;
  Bell bell(f.block, kNoSpin);
  int fd = *bell.open_poll_fd(dir.path + "/wake");
  std::string filler(4096, 'x');
  while (write(fd, filler.data(), filler.size()) > 0) {
  }
  ASSERT_TRUE(bell.arm_poll());
  BellRinger(f.block, 1).ring();
  bell.disarm_poll();
  EXPECT_TRUE(bell.any_ready());
  char byte;
  EXPECT_EQ(read(fd, &byte, 1), -1);
  EXPECT_EQ(errno, EAGAIN);
}

TEST(BellPollTest, RingersOfADeadOwnerSurviveAndLeakNothing) {
  BellFixture f;
  size_t before = open_descriptors();
  {
    TempDir dir;
    BellRinger early(f.block, 1), copy, late(f.block, 2);
    {
      Bell bell(f.block, kNoSpin);
      ASSERT_TRUE(bell.open_poll_fd(dir.path + "/wake").has_value());
      ASSERT_TRUE(bell.arm_poll());
      early.ring();
      copy = early;
      EXPECT_EQ(open_descriptors(), before + 2);
    }
    f.block->ready[0] = 0;
    early.ring();  // writes to a fifo that only it has open: no SIGPIPE
    f.block->ready[0] = 0;
    copy.ring();
    late.ring();  // finds no fifo
    BellRinger moved = std::move(early);
    EXPECT_EQ(open_descriptors(), before + 1);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(BellPollTest, ASecondFifoAtTheSamePathIsRefused) {
  BellFixture f;
  TempDir dir;
  Bell bell(f.block, kNoSpin), other(f.block, kNoSpin);
  ASSERT_TRUE(bell.open_poll_fd(dir.path + "/wake").has_value());
  EXPECT_EQ(other.open_poll_fd(dir.path + "/wake").status().code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(other.open_poll_fd(std::string(300, 'x')).status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sheaf::transport::test
