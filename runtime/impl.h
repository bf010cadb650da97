// The parts of a Runtime and how they reach one another. Private to runtime/.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "objstore/pins.h"
#include "objstore/slab.h"
#include "runtime/actor_clients.h"
#include "runtime/daemon_link.h"
#include "runtime/executor.h"
#include "runtime/objects.h"
#include "runtime/peers.h"
#include "runtime/process_title.h"
#include "runtime/progress.h"
#include "runtime/runtime.h"
#include "runtime/session.h"
#include "runtime/spin_lock.h"
#include "runtime/submitter.h"

namespace sheaf::runtime {

struct Runtime::Impl {
  Impl(Session s, ConnectOptions options, transport::Lane daemon_lane);

  // ---- Called by the parts, lock held.
  bool drain_lane(uint32_t lane);
  // Everything that was waiting for room or for a fact that may hold now.
  void push_out();
  void tick(Deadline now);
  // Head, further return ids, dependencies and nested ids of a task record; the payload follows separately.
  void encode_task(Task* task, std::string* out);
  ObjectId own_id(uint64_t lo, ProcessId process) const;
  // Of an entry in the arena. kNotFound: its bytes are not there any more, or on another node.
  Result<size_t> pin(const Entry& e);
  void flush_events();

  // ---- Called by the helper, no lock held.
  void show_log(const protocol::LogLines& lines);
  void show_warning(const std::string& text);

  // Lock held, after a call was submitted: handles replies that have come, which make room for more calls. Some calls
  // at once: whoever submits in a loop gets each reply alone else, and pays as much for the look as for the reply.
  void drain_now_and_then() {
    if (++submitted % kSubmitsPerDrain == 0) progress.drain_if_ready();
  }

  // ---- For the facade.
  WaitOutcome wait_ready(std::span<const Slot> slots, size_t needed, Deadline deadline);
  // Until the argument is here, or (for tasks that can be given back) it is known that its bytes are lost.
  WaitOutcome wait_for_argument(const Incoming& task, Slot slot);
  bool enough_ready(std::span<const Slot> slots, size_t needed, size_t* first_pending);
  void enter_blocked();
  void leave_blocked();
  Result<objstore::Locator> allocate(size_t size);
  Result<std::string> request(protocol::MessageType type, const std::string& body, Deadline deadline);
  enum class Resolved : uint8_t { kReady, kFailed, kGiveBack, kMissing };
  // Maps the arena dependencies of a task. kFailed: `*error` is what its caller shall get.
  Resolved resolve_dependencies(Incoming* task, protocol::ErrorRecord* error);

  Session session;
  Hooks hooks;
  protocol::ClientKind kind;
  SpinLock lock;
  DaemonLink daemon;
  Objects objects;
  Peers peers;
  Submitter submitter;
  ActorClients actors;
  Executor executor;
  objstore::PinTable pins;
  objstore::SlabWriter slabs;
  Progress progress;
  ProcessTitle title;                // a worker's; the helper's
  std::atomic<bool> closed{false};
  std::atomic<int> blocked_threads{0};
  uint64_t next_sequence = 1;        // actor and group ids
  static constexpr uint32_t kSubmitsPerDrain = 16;
  uint32_t submitted = 0;
};

// Holds the runtime's lock for a scope.
class Locked {
 public:
  explicit Locked(Runtime::Impl& rt) : rt_(rt) { rt_.lock.lock(); }
  ~Locked() { rt_.lock.unlock(); }
  Locked(const Locked&) = delete;

 private:
  Runtime::Impl& rt_;
};

}  // namespace sheaf::runtime
