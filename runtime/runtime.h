// The engine inside every driver and worker: references, objects, submission, execution. Language bindings and the C++
// API stand on this class; it knows nothing of Python.
//
// One per process, leaked at exit. Thread-safe: one short lock guards all tables; it is never held while foreign code
// runs or large data are copied. A thread that waits drives the process's progress itself (one leader at a time); a
// helper thread does so while nobody waits. The runtime never calls back except through Hooks, from a thread of its
// own that holds no lock. In a child of fork() current() is null and every method of a kept pointer fails.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/ids.h"
#include "core/status.h"
#include "core/wire.h"
#include "objstore/locator.h"
#include "runtime/task_wire.h"
#include "scheduler/protocol.h"

namespace sheaf::runtime {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;
inline constexpr Deadline kNever = Deadline::max();
using objstore::ValueState;
using wire::Bytes;

using Slot = uint32_t;                 // an object in this process's table; the holder of a Slot owns one count
inline constexpr Slot kNoSlot = UINT32_MAX;
using TemplateId = uint32_t;

enum class WaitOutcome : uint8_t {
  kReady,
  kTimeout,
  kInterrupted,      // a signal arrived or 50 ms passed: look at your signals and call again
  kDisconnected,     // the node daemon is gone; nothing will ever become ready
};

// Bytes of a ready value. Inline and error bytes live as long as the caller's count on the slot; arena bytes as long
// as the pin.
struct ValueView {
  ValueState state = ValueState::kPending;   // kInline, kArena or kError (bytes = encoded protocol::ErrorRecord)
  Bytes bytes;
  std::vector<ObjectId> const* contained = nullptr;   // references inside the value, null = none known here
};

// Writable arena memory for one object. Fill `bytes`, then seal or abort; a process that dies in between leaks nothing.
struct PutBuffer {
  std::span<std::byte> bytes;
  objstore::Locator locator;
  ObjectId id;
};

// One call's encoded arguments. `deps[i]` is what ValueTag::kDependency i stands for; `nested` are references inside
// the encoded bytes, in the order of their indices (kRef, persistent ids).
struct Arguments {
  Bytes payload;
  std::span<const Slot> deps;
  std::span<const Slot> nested;
};

// What stays the same for all calls of one function with one set of options.
struct TaskTemplate {
  FunctionId function;
  protocol::SchedulingClass placement;
  uint32_t flags = 0;                 // TemplateFlags
  uint16_t n_returns = 1;
  int32_t max_retries = 3;            // worker crashes, and exceptions marked retryable; -1 = for ever
  uint32_t max_calls = 0;
  uint32_t generator_backpressure = 0;   // unconsumed items at most, 0 = no limit
  std::string method;                 // actor methods
  std::string name;
  std::string concurrency_group;
  std::string blob;
};

// A result value of a task: encoded bytes (copied) or a sealed PutBuffer, or an error.
struct ReturnValue {
  Bytes inline_bytes;
  std::optional<objstore::Locator> sealed;
  ObjectId sealed_id;                 // PutBuffer::id of `sealed`
  std::span<const Slot> nested;       // references inside the value
};

enum class TaskKind : uint8_t { kFunction, kActorCreation, kActorMethod };

// A task handed to a worker. Owned by the runtime until finish(); its bytes stay valid until then.
struct IncomingTask {
  TaskKind kind = TaskKind::kFunction;
  TaskId id;
  uint64_t parent = 0;
  ProcessId caller = 0;
  uint16_t attempt = 0;
  uint16_t n_returns = 1;
  const TemplateDef* definition = nullptr;
  const LeaseInfo* lease = nullptr;           // resources, devices, strategy; null for actor methods
  const protocol::ActorStart* actor = nullptr;  // kActorCreation
  Bytes payload;                              // ValueTag::kArguments
  std::vector<ValueView> deps;                // arena views are pinned until finish(); keep longer with retain_dep
  std::vector<ObjectId> dep_ids;
  std::vector<ObjectId> return_ids;
  std::vector<ObjectId> nested;               // for kRef indices and persistent ids: import() them
};

// Called from the runtime's threads, never with a lock held; must return soon and must not take the GIL.
struct Hooks {
  // A caller wants this task stopped. It may be running in any of the worker's threads, or queued in the language layer.
  std::function<void(TaskId, bool force)> cancel;
  // Text for the person at the driver: log lines of workers, warnings. Unset: written to stdout/stderr.
  std::function<void(const protocol::LogLines&)> log_lines;
  std::function<void(const std::string&)> warning;
  // The node daemon is gone.
  std::function<void()> disconnected;
};

struct ConnectOptions {
  std::string socket_path;
  protocol::ClientKind kind = protocol::ClientKind::kDriver;
  uint64_t spawn_token = 0;          // workers
  uint32_t slots = 1;                // workers: tasks of one lease that run at the same time
  Hooks hooks;
};

struct ActorCreation {
  ActorId actor;
  bool existed = false;
  std::string handle;                // of the existing one
};

class Runtime {
 public:
  // Handshake, mapping, helper thread. kDisconnected when nobody listens; kPermissionDenied for another user's cluster.
  static Result<Runtime*> connect(ConnectOptions options);
  static Runtime* current();
  // Flushes what is queued, tells the daemon and stops the threads. Later calls fail with kDisconnected.
  void shutdown();

  const protocol::Welcome& session() const;
  ProcessId process() const;

  // ---- References. retain/release never block, send or allocate beyond amortised growth.
  ObjectId id(Slot slot) const;
  // +1 on a known object, or a new entry for a foreign one (the daemon is told that this process holds it).
  Slot import(const ObjectId& id);
  void retain(Slot slot);
  void release(Slot slot);
  // Counts of this process: its own references, pending calls' and stored values'.
  uint32_t count(Slot slot);

  // ---- Objects.
  // A value of at most kInlineBytes stays in this process until a reference to it leaves.
  Result<Slot> put_inline(Bytes encoded, std::span<const Slot> nested);
  // An object whose readers get this error.
  Slot put_error(const protocol::ErrorRecord& error);
  // Arena memory for `size` bytes under a new id (or under `id`, for a task's return). Waits for space up to the
  // configured time, then kOutOfMemory with a text that names who pins what.
  Result<PutBuffer> put_begin(size_t size, std::optional<ObjectId> id = std::nullopt);
  Result<Slot> put_seal(const PutBuffer& buffer, std::span<const Slot> nested);
  void put_abort(const PutBuffer& buffer);
  // Seal without an entry of our own: for a task's return (the caller is given the first hold).
  Status seal_return(const PutBuffer& buffer, const IncomingTask& task, std::span<const Slot> nested);

  bool is_ready(Slot slot);
  // Those that are ready with their bytes on another node become pending and are brought here. True: there were some.
  bool fetch(std::span<const Slot> slots);
  // Returns when `needed` of the slots are ready. Foreign and spilled objects are asked for. Spins up to the policy,
  // then sleeps: release what others need (the GIL) first, or call poll() for a short while.
  WaitOutcome wait(std::span<const Slot> slots, size_t needed, Deadline deadline);
  // The same for at most `budget`, pausing only: for callers that hold the GIL. True when ready.
  bool poll(std::span<const Slot> slots, size_t needed, std::chrono::nanoseconds budget);
  // Views a ready value; for arena objects pins it first. kNotFound: it was spilled meanwhile, wait() again.
  // `*pin` gets a handle for unpin() (0 for inline values).
  Result<ValueView> view(Slot slot, uint64_t* pin);
  void unpin(uint64_t pin);
  // Keeps a value of ours on so many other nodes as well, as soon and as long as there are so many.
  void replicate(Slot slot, uint32_t copies);
  Status free_objects(std::span<const Slot> slots);
  // A reference is about to leave by a way that the runtime does not see (pickled by the user): the node learns of the
  // object. The caller keeps a count for as long as a copy of the reference may come back.
  void publish(Slot slot);

  // Completion notices for event loops: after notify_ready(slot) its Slot is returned once by take_ready() and
  // ready_fd() (an eventfd) becomes readable.
  int ready_fd();
  void notify_ready(Slot slot);
  std::vector<Slot> take_ready();

  // ---- Tasks.
  TemplateId define_template(TaskTemplate definition);
  // Never blocks. Writes n_returns slots (one even for zero returns or a generator) into `returns`.
  Status submit(TemplateId id, const Arguments& args, uint64_t parent, Slot* returns);
  // kReady: *item is the next item's slot. kDisconnected with *done: the stream has ended.
  WaitOutcome next_item(Slot generator, Deadline deadline, Slot* item, bool* done);
  // False when the task has already finished (then nothing happens), or when it is not known: another process submitted
  // the task, and is asked to cancel it.
  Result<bool> cancel(Slot slot, bool force, bool recursive);

  // ---- Actors. Handles are counted per process; the last one dropped may end the actor.
  Result<ActorCreation> create_actor(protocol::ActorSpec spec, TemplateId constructor, const Arguments& args);
  void retain_actor(const ActorId& actor);
  void release_actor(const ActorId& actor);
  // Per caller in order. `max_pending` > 0: kOverloaded when that many calls are unanswered.
  Status submit_method(const ActorId& actor, TemplateId method, const Arguments& args, int32_t max_task_retries,
                       uint32_t max_pending, uint64_t parent, Slot* returns);
  Status kill_actor(const ActorId& actor, bool no_restart);

  // ---- Control requests: blocks, up to `deadline`, for the daemon's answer. Drives progress meanwhile.
  // Reply payload without Envelope and ReplyHead; a non-OK ReplyHead becomes the Status.
  Result<std::string> request(protocol::MessageType type, const std::string& body, Deadline deadline = kNever);
  void send(protocol::MessageType type, const std::string& body);
  // Latest state of a placement group; subscribes at the first call.
  protocol::GroupState group_state(const PlacementGroupId& group);
  // Its removal was asked for: whatever the daemon still says of it, here it is removed from now on.
  void group_removed(const PlacementGroupId& group);
  ActorId new_actor_id();
  PlacementGroupId new_group_id();

  // ---- Worker side.
  // The next task in order of arrival; null at the deadline, on a signal, or when the worker shall exit (see exiting()).
  IncomingTask* next_task(Deadline deadline);
  // Waits for that: true when next_task(now) would return one.
  bool await_task(Deadline deadline);
  // Readable when next_task(now) would return one: for event loops.
  int task_fd();
  // For an event loop of ours, which then drives the runtime's messages itself whenever it is idle. loop_fd(): to be
  // polled beside task_fd(), by the calling thread alone. loop_sleep(): false when a task is at hand; else poll, then
  // loop_woke(). Spins about as long as a wake costs when it may: give up the GIL first.
  Result<int> loop_fd();
  bool loop_sleep(bool may_spin);
  void loop_woke();
  bool has_task() const;
  bool exiting() const;
  void finish(IncomingTask* task, std::span<const ReturnValue> values);
  // `values`: the first of several returns, which were made before; `error` is the value of the others.
  void fail(IncomingTask* task, const protocol::ErrorRecord& error, bool retryable,
            std::span<const ReturnValue> values = {});
  // A pin of the caller's own on arena dependency `index`, for views that outlive the task. 0: it is not in the arena.
  uint64_t retain_dep(const IncomingTask& task, uint32_t index);
  // Until every task and call that this process has submitted has its results, or none will come any more.
  WaitOutcome await_submitted(Deadline deadline);
  // What is answered next was this worker's last task: it takes no other, and what is queued goes back to its callers.
  void last_task();
  // Streaming: publishes the next item. Blocks while the consumer lags more than the back-pressure allows.
  Status yield_item(IncomingTask* task, const ReturnValue& value);
  // Arena memory for return value `index` of the task, or for its next streamed item.
  Result<PutBuffer> return_begin(const IncomingTask& task, uint32_t index, size_t size);
  // True once after a cancel arrived for the task.
  bool cancel_requested(const IncomingTask& task);
  // The constructor has run (or failed): from now on methods are served.
  void actor_started(const IncomingTask& task, const std::optional<protocol::ErrorRecord>& error);
  // exit_actor(): tells the controller, takes no further calls (exiting() is true), returns when all that was said has left
  // this process, which then has to end.
  void actor_exit(const ActorId& actor, uint32_t incarnation, std::string reason);

  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  Runtime();
  ~Runtime();
  std::unique_ptr<Impl> impl_;
};

}  // namespace sheaf::runtime
