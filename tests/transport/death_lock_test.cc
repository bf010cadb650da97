#include "transport/death_lock.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "tests/transport/lane_fixture.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

namespace sheaf::transport::test {
namespace {

// Collects what the watcher reports, with the time.
class DeathLockTest : public testing::Test {
 protected:
  void SetUp() override {
    auto watcher = DeathWatcher::create([this](uint64_t key) {
      std::lock_guard lock(mutex_);
      ++reports_[key];
      when_[key] = Clock::now();
      changed_.notify_all();
    });
    if (!watcher.has_value()) GTEST_SKIP() << watcher.status().to_string();
    watcher_ = std::move(watcher).value();
  }

  DeathLockBlock* make_lock() {
    auto* block = region_.at<DeathLockBlock>(allocate(region_, sizeof(DeathLockBlock)));
    SHEAF_CHECK(init_death_lock(block).is_ok());
    return block;
  }
  int reports(uint64_t key, milliseconds limit) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, limit, [&] { return reports_[key] > 0; });
    return reports_[key];
  }
  // A child that takes the lock, does `work`, says so through the pipe and waits to be killed.
  pid_t spawn_holder(DeathLockBlock* block, const std::function<void()>& work) {
    int ready[2];
    SHEAF_CHECK(pipe(ready) == 0);
    pid_t child = spawn([&] {
      if (!hold_death_lock(block).is_ok()) return 1;
      work();
      if (write(ready[1], "", 1) != 1) return 2;
      pause();
      return 0;
    });
    close(ready[1]);
    char byte;
    SHEAF_CHECK(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
    return child;
  }

  LaneRegion region_ = make_region(8 << 20);
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, int> reports_;
  std::map<uint64_t, Clock::time_point> when_;
  std::unique_ptr<DeathWatcher> watcher_;
};

TEST_F(DeathLockTest, ReportsAFatProcessBeforeItsMemoryIsGone) {
  constexpr size_t kMemory = size_t{256} << 20;
  int earlier_than_reaped = 0;
  for (uint64_t key = 1; key <= 3; ++key) {
    DeathLockBlock* block = make_lock();
    watcher_->add(key, block);
    pid_t child = spawn_holder(block, [] {
      void* memory =
          mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      madvise(memory, kMemory, MADV_NOHUGEPAGE);
      std::memset(memory, 1, kMemory);
    });
    auto killed = Clock::now();
    kill(child, SIGKILL);
    EXPECT_EQ(reports(key, seconds(30)), 1);
    waitpid(child, nullptr, 0);
    auto reaped = Clock::now();
    std::lock_guard lock(mutex_);
    auto us = [&](auto t) {
      return static_cast<long>(
          std::chrono::duration_cast<std::chrono::microseconds>(t - killed).count());
    };
    std::printf("dead after %ld us, reaped after %ld us\n", us(when_[key]), us(reaped));
    EXPECT_LT(when_[key] - killed, seconds(10));
    if (when_[key] < reaped) ++earlier_than_reaped;
  }
  EXPECT_EQ(earlier_than_reaped, 3);
}

TEST_F(DeathLockTest, ReportsAnExitThatLeavesTheLockHeld) {
  DeathLockBlock* block = make_lock();
  watcher_->add(5, block);
  pid_t child = spawn([&] {
    if (!hold_death_lock(block).is_ok()) return 1;
    usleep(20000);
    return 0;
  });
  EXPECT_EQ(reports(5, seconds(30)), 1);
  EXPECT_EQ(finish(child), 0);
}

TEST_F(DeathLockTest, ReportsAHolderThatDiedBeforeItWasAddedOrCouldTell) {
  DeathLockBlock* early = make_lock();
  DeathLockBlock* mute = make_lock();
  watcher_->add(1, mute);
  usleep(20000);  // the watcher sleeps on the free lock by now
  pid_t child = spawn([&] {
    if (!hold_death_lock(early).is_ok()) return 1;
    return pthread_mutex_trylock(&mute->mutex);  // and killed before it wakes the watcher
  });
  EXPECT_EQ(finish(child), 0);
  EXPECT_EQ(reports(1, seconds(30)), 1);
  watcher_->add(2, early);
  EXPECT_EQ(reports(2, seconds(30)), 1);
}

TEST_F(DeathLockTest, ALockThatNobodyEverHeldIsNotADeath) {
  DeathLockBlock* block = make_lock();
  watcher_->add(1, block);
  EXPECT_EQ(finish(spawn([] { return 0; })), 0);
  EXPECT_EQ(reports(1, milliseconds(200)), 0);
}

TEST_F(DeathLockTest, OtherThreadsMayComeAndGo) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "the thread sanitizer has no threads in a child that was forked beside threads";
#endif
  DeathLockBlock* block = make_lock();
  watcher_->add(1, block);
  pid_t child = spawn_holder(block, [] {
    for (int i = 0; i < 20; ++i) {
      pthread_t thread;
      pthread_create(
          &thread, nullptr, [](void*) -> void* { return nullptr; }, nullptr);
      pthread_join(thread, nullptr);
    }
  });
  EXPECT_EQ(reports(1, milliseconds(100)), 0);
  kill(child, SIGKILL);
  EXPECT_EQ(reports(1, seconds(30)), 1);
  waitpid(child, nullptr, 0);
}

TEST_F(DeathLockTest, ARemovedLockIsNotReported) {
  DeathLockBlock* block = make_lock();
  watcher_->add(1, block);
  pid_t child = spawn_holder(block, [] {});
  watcher_->remove(1);
  watcher_->remove(1);
  watcher_->remove(77);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(reports(1, milliseconds(100)), 0);
}

// More than one futex_waitv call can hold; added and removed while others die.
TEST_F(DeathLockTest, ThreeHundredLocksAreWatchedEachOnItsOwn) {
  constexpr uint64_t kLocks = 300;
  std::vector<DeathLockBlock*> blocks;
  for (uint64_t i = 0; i < kLocks; ++i) {
    blocks.push_back(make_lock());
    watcher_->add(i, blocks[i]);
  }
  std::map<uint64_t, pid_t> children;
  for (uint64_t i = 0; i < kLocks; i += 11) children[i] = spawn_holder(blocks[i], [] {});
  for (uint64_t i = 1; i < kLocks; i += 11) watcher_->remove(i);
  for (auto [key, child] : children) {
    kill(child, SIGKILL);
    EXPECT_EQ(reports(key, seconds(30)), 1) << key;
    waitpid(child, nullptr, 0);
  }
  std::lock_guard lock(mutex_);
  for (auto [key, times] : reports_) EXPECT_EQ(times, key % 11 == 0 ? 1 : 0) << key;
}

TEST_F(DeathLockTest, ALockIsTakenOnlyOnce) {
  DeathLockBlock* block = make_lock();
  EXPECT_EQ(finish(spawn([&] {
              if (!hold_death_lock(block).is_ok()) return 1;
              return hold_death_lock(block).is_ok() ? 2 : 0;
            })),
            0);
}

TEST_F(DeathLockTest, WhoReleasesItsLockCountsAsGoneAndMayUnmapTheRegion) {
  DeathLockBlock* block = make_lock();
  watcher_->add(1, block);
  pid_t child = spawn([&] {
    for (int cluster = 0; cluster < 2; ++cluster) {  // init, shutdown, init again
      auto region = LaneRegion::create(1 << 20);
      auto* own = region->at<DeathLockBlock>(*region->allocate(sizeof(DeathLockBlock)));
      if (!init_death_lock(own).is_ok() || !hold_death_lock(own).is_ok()) return 1;
      if (!release_death_lock(own).is_ok()) return 2;
    }
    if (!hold_death_lock(block).is_ok()) return 3;
    usleep(20000);
    if (!release_death_lock(block).is_ok()) return 4;
    if (release_death_lock(block).is_ok()) return 5;
    pause();
    return 0;
  });
  EXPECT_EQ(reports(1, seconds(30)), 1);
  EXPECT_EQ(waitpid(child, nullptr, WNOHANG), 0) << "it lives on";
  kill(child, SIGKILL);
  EXPECT_EQ(finish(child), 128 + SIGKILL);
}

TEST(DeathLockSupportTest, AKernelWithoutTheSystemCallIsReported) {
  pid_t child = spawn([] {
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex_waitv, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog program{sizeof code / sizeof code[0], code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) return 9;
    auto watcher = DeathWatcher::create([](uint64_t) {});
    return watcher.status().code() == StatusCode::kUnsupported ? 0 : 1;
  });
  EXPECT_EQ(finish(child), 0);
}

}  // namespace
}  // namespace sheaf::transport::test
