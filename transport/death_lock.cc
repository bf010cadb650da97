#include "transport/death_lock.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <ctime>
#include <thread>

#include "core/futex.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449  // the same number on every architecture
#endif

namespace sheaf::transport {
namespace {

constexpr size_t kMaxWaiters = 128;  // of one futex_waitv call
constexpr size_t kLocksPerShard = kMaxWaiters - 1;
// Bounds every sleep. The short one holds while a new lock has no holder yet: one that is killed
// between taking its lock and telling us leaves no wake behind.
constexpr std::chrono::milliseconds kRecheck{1000};
constexpr std::chrono::milliseconds kRecheckUnheld{50};
constexpr std::chrono::seconds kUnheldIsNew{5};  // some clients never take theirs

// As the kernel has it; older headers do not.
struct WaitEntry {
  uint64_t value;
  uint64_t address;
  uint32_t flags;
  uint32_t reserved;
};
constexpr uint32_t kFutex32Shared = 2;

// The futex word inside glibc's mutex: 0 = free, else the holder's thread id and the bits
// FUTEX_WAITERS and FUTEX_OWNER_DIED. That layout is what the kernel's robust list is defined on.
std::atomic<uint32_t>* lock_word(DeathLockBlock* block) {
  static_assert(sizeof(block->mutex.__data.__lock) == sizeof(uint32_t));
  return reinterpret_cast<std::atomic<uint32_t>*>(&block->mutex.__data.__lock);
}

int wait_any(const std::vector<WaitEntry>& entries, std::chrono::milliseconds limit) {
  timespec until = futex_timespec(std::chrono::steady_clock::now() + limit);
  return static_cast<int>(
      syscall(SYS_futex_waitv, entries.data(), entries.size(), 0, &until, CLOCK_MONOTONIC));
}

}  // namespace

Status init_death_lock(DeathLockBlock* block) {
  pthread_mutexattr_t attributes;
  int error = pthread_mutexattr_init(&attributes);
  if (error != 0) return Status::from_errno("pthread_mutexattr_init", error);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  error = pthread_mutex_init(&block->mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);
  if (error != 0) return Status::from_errno("making a death lock", error);
  return Status::ok();
}

Status hold_death_lock(DeathLockBlock* block) {
  int error = pthread_mutex_trylock(&block->mutex);
  if (error != 0) return Status::from_errno("taking the death lock", error);
  // The watcher sleeps on the value "free", and taking a lock wakes nobody.
  futex_wake(lock_word(block), 1);
  return Status::ok();
}

Status release_death_lock(DeathLockBlock* block) {
  int error = pthread_mutex_unlock(&block->mutex);
  if (error != 0) return Status::from_errno("releasing the death lock", error);
  return Status::ok();
}

// One thread and the locks that it watches.
class DeathWatcher::Shard {
 public:
  explicit Shard(DeathWatcher& owner) : owner_(owner) {
    // Signals of the process belong to its other threads.
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    thread_ = std::thread([this] { run(); });
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
  }
  ~Shard() {
    stop_.store(true);
    nudge();
    thread_.join();
  }

  bool add(uint64_t key, DeathLockBlock* block) {
    {
      std::lock_guard lock(mutex_);
      if (locks_.size() >= kLocksPerShard) return false;
      locks_.push_back({key, lock_word(block), std::chrono::steady_clock::now()});
    }
    nudge();
    return true;
  }

  bool remove(uint64_t key) {
    std::lock_guard lock(mutex_);
    auto it =
        std::find_if(locks_.begin(), locks_.end(), [&](const Watched& w) { return w.key == key; });
    if (it == locks_.end()) return false;
    locks_.erase(it);
    nudge();
    return true;
  }

 private:
  struct Watched {
    uint64_t key;
    std::atomic<uint32_t>* word;
    std::chrono::steady_clock::time_point added;
    bool was_held = false;
  };

  void nudge() {
    changes_.fetch_add(1);
    futex_wake(&changes_, 1);
  }

  // The value to sleep on, or nothing when the holder is dead. The kernel wakes waiters of a dead
  // holder's lock only if the word says that there are some.
  static bool prepare(Watched& watched, uint32_t& value) {
    value = watched.word->load();
    for (;;) {
      if ((value & FUTEX_OWNER_DIED) != 0) return false;
      if ((value & FUTEX_TID_MASK) == 0) return !watched.was_held;
      watched.was_held = true;
      if ((value & FUTEX_WAITERS) != 0) return true;
      if (watched.word->compare_exchange_weak(value, value | FUTEX_WAITERS)) {
        value |= FUTEX_WAITERS;
        return true;
      }
    }
  }

  void run() {
    pthread_setname_np(pthread_self(), "sheaf-deaths");
    std::vector<WaitEntry> entries;
    while (!stop_.load()) {
      uint32_t changes = changes_.load();
      entries.assign(1, {changes, reinterpret_cast<uint64_t>(&changes_), kFutex32Shared, 0});
      auto limit = kRecheck;
      {
        // Held while the callbacks run: remove() promises that none comes after it.
        std::lock_guard lock(mutex_);
        std::vector<Watched> alive;
        for (Watched& watched : locks_) {
          uint32_t value = 0;
          if (!prepare(watched, value)) {
            std::lock_guard one_at_a_time(owner_.callback_mutex_);
            owner_.on_dead_(watched.key);
            continue;
          }
          bool is_new = std::chrono::steady_clock::now() - watched.added < kUnheldIsNew;
          if (!watched.was_held && is_new) limit = kRecheckUnheld;
          entries.push_back({value, reinterpret_cast<uint64_t>(watched.word), kFutex32Shared, 0});
          alive.push_back(watched);
        }
        locks_ = std::move(alive);
      }
      wait_any(entries, limit);  // fails at once when a word has changed meanwhile
    }
  }

  DeathWatcher& owner_;
  std::mutex mutex_;
  std::vector<Watched> locks_;
  std::atomic<uint32_t> changes_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

Result<std::unique_ptr<DeathWatcher>> DeathWatcher::create(
    std::function<void(uint64_t key)> on_dead) {
  // A call with no entries is EINVAL where the call exists.
  if (syscall(SYS_futex_waitv, nullptr, 0, 0, nullptr, CLOCK_MONOTONIC) == -1 && errno != EINVAL) {
    return Status(StatusCode::kUnsupported, "this kernel has no futex_waitv (Linux 5.16)");
  }
  return std::unique_ptr<DeathWatcher>(new DeathWatcher(std::move(on_dead)));
}

DeathWatcher::DeathWatcher(std::function<void(uint64_t key)> on_dead)
    : on_dead_(std::move(on_dead)) {}
DeathWatcher::~DeathWatcher() { shards_.clear(); }  // their threads use the other members

void DeathWatcher::add(uint64_t key, DeathLockBlock* block) {
  std::lock_guard lock(mutex_);
  for (auto& shard : shards_) {
    if (shard->add(key, block)) return;
  }
  shards_.push_back(std::make_unique<Shard>(*this));
  SHEAF_CHECK(shards_.back()->add(key, block));
}

void DeathWatcher::remove(uint64_t key) {
  std::lock_guard lock(mutex_);
  for (auto& shard : shards_) {
    if (shard->remove(key)) return;
  }
}

}  // namespace sheaf::transport
