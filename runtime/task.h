// A call in the process that made it, from submit() until its results are in (and longer, as their lineage).
#pragma once

#include <cstdlib>
#include <cstring>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/runtime.h"
#include "transport/lane.h"

namespace sheaf::runtime {

struct Task;
struct Peer;
struct SchedClass;
struct ActorClient;

// Doubly linked list through Task: O(1) removal when replies come out of order.
struct TaskList {
  Task* head = nullptr;
  Task* tail = nullptr;
  uint32_t size = 0;
  void push_back(Task* t);
  void push_front(Task* t);
  void insert_after(Task* place, Task* t);   // null: first
  void remove(Task* t);
  Task* pop_front() {
    Task* t = head;
    if (t) remove(t);
    return t;
  }
};

enum class TaskState : uint8_t { kWaiting, kQueued, kInFlight, kDone };

// One allocation holds the task and, behind it, return slots, dependency slots, nested slots and the payload.
struct Task {
  Task* prev = nullptr;
  Task* next = nullptr;
  TaskList* list = nullptr;
  const TaskTemplate* definition = nullptr;
  SchedClass* sched = nullptr;       // null for actor methods
  ActorClient* actor = nullptr;
  Peer* peer = nullptr;              // kInFlight
  uint64_t cookie = 0;
  uint64_t parent = 0;
  union {
    uint64_t sequence = 0;           // actor calls: order of submission
    double sent_us;                  // others, in flight: Peer::sent_us when it had been sent
  };
  int32_t retries_left = 0;          // -1: for ever
  uint32_t unresolved = 0;           // dependencies without a value
  TemplateId template_id = 0;
  uint32_t n_deps = 0;
  uint32_t n_nested = 0;
  uint32_t payload_bytes = 0;
  float estimate_us = 0;             // what it adds to its worker's backlog
  uint32_t lineage = 0;              // kDone: return entries that may have to be made again
  uint16_t n_returns = 0;            // slots, at least one
  uint16_t attempt = 0;
  TaskState state = TaskState::kWaiting;
  bool cancelled = false;
  uint8_t rebuilds = 0;              // runs since something it made, or needs, was lost
  bool creation : 1 = false;         // an actor's constructor: goes to the controller, not to a lane
  bool recorded : 1 = false;         // the daemon has its lineage
  bool adopted : 1 = false;          // of a process that is gone: its returns are not ours
  bool watched : 1 = false;          // Submitter::adoption_ended() follows its end
  bool early : 1 = false;            // in flight, and sent before all its arguments were made
  bool followed : 1 = false;         // others have waited for what it returns
  bool kill_late : 1 = false;        // cancelled by force, but it had not started

  Slot* returns() { return reinterpret_cast<Slot*>(this + 1); }
  Slot* deps() { return returns() + n_returns; }
  Slot* nested() { return deps() + n_deps; }
  char* payload() { return reinterpret_cast<char*>(nested() + n_nested); }
  size_t bytes() const {
    return sizeof(Task) + (size_t{n_returns} + n_deps + n_nested) * sizeof(Slot) + payload_bytes;
  }

  TaskHead head() const {
    return {cookie, template_id, n_returns, attempt, n_deps, n_nested, payload_bytes, adopted ? kForeignReturns : 0u, parent};
  }
};

// Memory for tasks. Small ones are reused, as the heap costs more than all else that a short call does here.
class TaskPool {
 public:
  TaskPool() = default;
  TaskPool(const TaskPool&) = delete;
  ~TaskPool() {
    for (auto& blocks : spare_) {
      for (void* block : blocks) free(block);
    }
  }
  Task* create(uint16_t n_returns, const Arguments& args);
  void destroy(Task* task) {
    size_t kind = kind_of(task->bytes());
    if (kind == kKinds || spare_[kind].size() >= kSpareMax) return free(task);
    spare_[kind].push_back(task);
  }

 private:
  // Calls without arguments, with a few small ones, others. What is left of a multiple of 16 is the heap's own word:
  // a million queued tasks shall not pay for room that they do not use.
  static constexpr size_t kBlockBytes[] = {136, 184, 312};
  static constexpr size_t kKinds = std::size(kBlockBytes);
  static constexpr size_t kSpareMax = 4096;
  static size_t kind_of(size_t bytes) {   // kKinds: larger than any block
    size_t kind = 0;
    while (kind < kKinds && bytes > kBlockBytes[kind]) ++kind;
    return kind;
  }
  std::vector<void*> spare_[kKinds];   // of kBlockBytes each
};

// A streaming generator as its consumer sees it.
struct Stream {
  std::deque<Slot> items;            // one count each
  uint64_t received = 0;             // index of the next item to come
  uint64_t consumed = 0;
  bool ended = false;
};

// Another process that we share a lane with: as caller, as worker, or both.
struct Peer {
  explicit Peer(ProcessId id, transport::Lane l) : process(id), lane(std::move(l)) {}
  ProcessId process;
  transport::Lane lane;
  bool alive = true;
  // We call it:
  TaskList in_flight;
  std::vector<bool> templates_sent;
  uint64_t lease = 0;                // 0: not leased to us
  SchedClass* sched = nullptr;
  bool recalled = false;             // return the lease when in_flight is empty
  bool leaving = false;              // the worker ends by itself and starts nothing more
  uint32_t slots = 1;                // so many of in_flight, the oldest, may have been started
  bool steal_sent = false;
  bool gave_back = false;            // since its last result: what it runs takes longer than was thought, or waits
  double backlog_us = 0;             // estimated running time of what is in flight
  double sent_us = 0;                // the same of all that was ever sent
  uint32_t early = 0;                // of in_flight: sent before their arguments were made
  uint32_t early_ready = 0;          // of these, as of the last tick: they could start elsewhere by now
  uint32_t refill_at = 0;            // size of in_flight; tasks that follow its last ones found no room. 0: none did
  uint64_t oldest_seen = 0;          // cookie of the oldest in flight at the last tick
  // In flight, not waiting for anything made here.
  uint32_t loose() const { return in_flight.size - early + early_ready; }
  Deadline idle_since{};
  protocol::LeaseGrant grant;
  bool lease_info_sent = false;
  // It calls us:
  std::vector<std::unique_ptr<TemplateDef>> templates;
  std::shared_ptr<LeaseInfo> lease_info;
  bool slots_told = false;
};

// Tasks that may run on the same leased workers.
struct SchedClass {
  uint32_t id = 0;
  protocol::SchedulingClass spec;
  TaskList queue;                    // ready to run
  std::vector<Peer*> leases;
  uint32_t requested = 0;            // backlog last told to the daemon
  bool spans_nodes = false;          // has had leases on other nodes
  bool asked = false;                // for more leases, at the last tick
  bool starved = false;              // asked for a tick or longer, and got none since
  bool dirty = false;                // something changed: push_out() has to look
};

}  // namespace sheaf::runtime
