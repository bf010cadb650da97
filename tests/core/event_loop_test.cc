#include "core/event_loop.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <thread>

namespace sheaf {
namespace {

using namespace std::chrono_literals;

std::unique_ptr<EventLoop> make_loop() {
  auto loop = EventLoop::create();
  EXPECT_TRUE(loop.has_value()) << loop.status().to_string();
  return std::move(loop).value();
}

struct Pipe {
  Pipe() {
    int fds[2];
    EXPECT_EQ(::pipe(fds), 0);
    read.reset(fds[0]);
    write.reset(fds[1]);
  }
  Fd read, write;
};

TEST(EventLoopTest, TimersFireInOrderOfTimeAndNeverEarly) {
  auto loop = make_loop();
  std::vector<int> order;
  auto start = EventLoop::Clock::now();
  loop->call_at(start + 3ms, [&] {
    order.push_back(3);
    loop->stop();
  });
  loop->call_at(start + 1ms, [&] { order.push_back(1); });
  loop->call_at(start + 1ms, [&] { order.push_back(2); });
  loop->run();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
  EXPECT_GE(EventLoop::Clock::now() - start, 3ms);
}

TEST(EventLoopTest, CancelledTimerNeverFires) {
  auto loop = make_loop();
  bool fired = false;
  auto id = loop->call_after(1ms, [&] { fired = true; });
  EXPECT_TRUE(loop->cancel_timer(id));
  EXPECT_FALSE(loop->cancel_timer(id));
  loop->call_after(3ms, [&] { loop->stop(); });
  loop->run();
  EXPECT_FALSE(fired);
}

TEST(EventLoopTest, TimerThatCancelsTheNextOneOfTheSameRoundWins) {
  auto loop = make_loop();
  bool second = false;
  EventLoop::TimerId id = 0;
  loop->call_after(0ms, [&] { loop->cancel_timer(id); });
  id = loop->call_after(0ms, [&] { second = true; });
  for (int i = 0; i < 3; ++i) loop->run_once(1ms);
  EXPECT_FALSE(second);
}

TEST(EventLoopTest, SelfRearmingTimerDoesNotStarveDescriptors) {
  auto loop = make_loop();
  Pipe pipe;
  ASSERT_EQ(::write(pipe.write.get(), "x", 1), 1);
  std::function<void()> again = [&] { loop->call_after(0ns, again); };
  again();
  ASSERT_TRUE(loop->add_fd(pipe.read.get(), EPOLLIN, [&](uint32_t) { loop->stop(); }));
  loop->run();
}

TEST(EventLoopTest, HandlerMayRemoveItselfAndItsNeighbour) {
  auto loop = make_loop();
  Pipe a, b;
  int calls = 0;
  auto remove_both = [&](uint32_t) {
    ++calls;
    loop->remove_fd(a.read.get());
    loop->remove_fd(b.read.get());
  };
  ASSERT_TRUE(loop->add_fd(a.read.get(), EPOLLIN, remove_both));
  ASSERT_TRUE(loop->add_fd(b.read.get(), EPOLLIN, remove_both));
  ASSERT_EQ(::write(a.write.get(), "x", 1), 1);
  ASSERT_EQ(::write(b.write.get(), "x", 1), 1);
  for (int i = 0; i < 3; ++i) loop->run_once(1ms);
  EXPECT_EQ(calls, 1);
}

TEST(EventLoopTest, EventOfAnEarlierDescriptorDoesNotReachItsSuccessor) {
  auto loop = make_loop();
  Pipe a, b;
  int stale = 0;
  int number = b.read.get();
  ASSERT_EQ(::write(a.write.get(), "x", 1), 1);
  ASSERT_EQ(::write(b.write.get(), "x", 1), 1);
  // Whichever handler runs first replaces the other descriptor by a silent one of the same number.
  Pipe quiet;
  auto replace = [&](int other) {
    loop->remove_fd(other);
    ASSERT_GE(::dup2(quiet.read.get(), other), 0);
    ASSERT_TRUE(loop->add_fd(other, EPOLLIN, [&](uint32_t) { ++stale; }));
  };
  int first = a.read.get();
  bool done = false;
  ASSERT_TRUE(loop->add_fd(first, EPOLLIN, [&](uint32_t) {
    if (!done) {
      done = true;
      replace(number);
    }
    loop->remove_fd(first);
  }));
  ASSERT_TRUE(loop->add_fd(number, EPOLLIN, [&](uint32_t) {
    if (!done) {
      done = true;
      replace(first);
    }
    loop->remove_fd(number);
  }));
  for (int i = 0; i < 3; ++i) loop->run_once(1ms);
  EXPECT_TRUE(done);
  EXPECT_EQ(stale, 0);
}

TEST(EventLoopTest, PostedClosuresRunInOrderOnTheLoopThread) {
  auto loop = make_loop();
  constexpr int kCount = 10000;
  std::vector<int> seen;
  auto loop_thread = std::this_thread::get_id();
  std::thread poster([&] {
    for (int i = 0; i < kCount; ++i) {
      loop->post([&, i] {
        EXPECT_EQ(std::this_thread::get_id(), loop_thread);
        seen.push_back(i);
        if (i == kCount - 1) loop->stop();
      });
    }
  });
  loop->run();
  poster.join();
  ASSERT_EQ(seen.size(), static_cast<size_t>(kCount));
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
}

TEST(EventLoopTest, PostNeverRunsInsideTheCaller) {
  auto loop = make_loop();
  bool ran = false;
  loop->post([&] {
    loop->post([&] {
      ran = true;
      loop->stop();
    });
    EXPECT_FALSE(ran);
  });
  loop->run();
  EXPECT_TRUE(ran);
}

TEST(EventLoopTest, WakeEndsASleep) {
  auto loop = make_loop();
  std::thread waker([&] {
    std::this_thread::sleep_for(5ms);
    loop->wake();
  });
  auto start = EventLoop::Clock::now();
  while (!loop->run_once(10s)) {
  }
  EXPECT_LT(EventLoop::Clock::now() - start, 9s);
  waker.join();
}

TEST(EventLoopTest, DrainHookRunsEachRoundAndKeepsTheLoopAwakeWhileItHasMore) {
  auto loop = make_loop();
  int backlog = 5;
  int sleeps = 0;
  EventLoop::RoundHook hook;
  hook.drain = [&] { return --backlog > 0; };
  hook.before_sleep = [&] {
    ++sleeps;
    return true;
  };
  loop->set_round_hook(hook);
  while (backlog > 0) loop->run_once(1ms);
  // Only the round in which the backlog ended may sleep.
  EXPECT_EQ(backlog, 0);
  EXPECT_LE(sleeps, 1);
}

TEST(EventLoopTest, ASignalEndsASleepWhateverTheHookDoesAfterwards) {
  auto loop = make_loop();
  bool slept = false;
  EventLoop::RoundHook hook;
  hook.before_sleep = [] { return true; };
  hook.after_sleep = [&] {
    slept = true;
    errno = EAGAIN;  // as a read of an empty fifo leaves it
  };
  loop->set_round_hook(hook);
  struct sigaction action {}, old{};
  action.sa_handler = [](int) {};  // no SA_RESTART: what a stop and a continuation do as well
  ASSERT_EQ(sigaction(SIGALRM, &action, &old), 0);
  itimerval often{{0, 2000}, {0, 2000}};
  ASSERT_EQ(setitimer(ITIMER_REAL, &often, nullptr), 0);
  while (!slept) loop->run_once(30s);
  often = {};
  setitimer(ITIMER_REAL, &often, nullptr);
  sigaction(SIGALRM, &old, nullptr);
}

TEST(EventLoopTest, RefusedSleepOnlyPolls) {
  auto loop = make_loop();
  int after = 0;
  EventLoop::RoundHook hook;
  hook.before_sleep = [] { return false; };
  hook.after_sleep = [&] { ++after; };
  loop->set_round_hook(hook);
  auto start = EventLoop::Clock::now();
  loop->run_once(10s);
  EXPECT_LT(EventLoop::Clock::now() - start, 9s);
  EXPECT_EQ(after, 0);
}

}  // namespace
}  // namespace sheaf
