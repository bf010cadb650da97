// The death lock: how the node daemon learns of a process's death before its memory is torn down.
//
// A process's main thread takes a robust mutex in the lane region and holds it for life. The kernel
// gives up the robust mutexes of a dying thread before it frees the address space, so that the news
// comes within a millisecond or so even of a process with gigabytes of memory, whose pidfd and
// sockets would tell a second later. It means DEAD (answer its callers, run its tasks elsewhere),
// not REAPED: other threads may run for a moment longer, and its memory is not free yet. The thread
// that takes the lock must be the one that lives as long as the process; exec releases it.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "core/status.h"

namespace sheaf::transport {

// In shared memory; may share a page with other blocks. Reused only after its holder has been
// reaped.
struct DeathLockBlock {
  alignas(64) pthread_mutex_t mutex;
};

// Daemon: makes a zero-filled block a free lock, before its offset is handed out.
Status init_death_lock(DeathLockBlock* block);
// The process's main thread, once. The mapping must stay until the process ends or the lock is
// released: the thread's list of robust mutexes runs through it.
Status hold_death_lock(DeathLockBlock* block);
// For a process that leaves the cluster and lives on; on the thread that took the lock. The watcher
// reports it like a death.
Status release_death_lock(DeathLockBlock* block);

// Thread-safe. Has one thread for each 127 locks (as many as one futex_waitv call can watch, less
// its own wake word).
class DeathWatcher {
 public:
  // `on_dead(key)` is called once for each dead holder, on a watcher thread, one call at a time; it
  // must not call back into the watcher nor wait for a lock that somebody holds while calling add()
  // or remove(). kUnsupported when the kernel lacks futex_waitv (before 5.16) or a sandbox forbids
  // it: deaths are then known by the socket's end alone.
  static Result<std::unique_ptr<DeathWatcher>> create(std::function<void(uint64_t key)> on_dead);
  ~DeathWatcher();

  // Before or after the holder takes the lock: a lock that nobody has held yet does not count as
  // dead.
  void add(uint64_t key, DeathLockBlock* block);
  // After it returns `on_dead(key)` is not called any more and the block is not touched. Unknown
  // keys are ignored (a reported key is forgotten by itself).
  void remove(uint64_t key);

 private:
  class Shard;
  explicit DeathWatcher(std::function<void(uint64_t key)> on_dead);

  std::mutex mutex_;  // guards shards_; add and remove are rare
  std::vector<std::unique_ptr<Shard>> shards_;
  std::mutex callback_mutex_;
  std::function<void(uint64_t key)> on_dead_;
};

}  // namespace sheaf::transport
