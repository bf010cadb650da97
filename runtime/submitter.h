// The caller's side of tasks: dependencies, leases, pipelining, replies, retries, lineage.
//
// A task goes out when its dependencies have values and a leased worker of its scheduling class has room. Room is a
// time budget: what lies unanswered at a worker may amount to kPipelineBudget, by the measured running time of each
// function; a function that was never measured gets an empty worker. Tasks queued behind a slow one are called back as
// soon as another worker of the class idles. A task whose missing arguments are all being made by one worker is sent
// there behind their makers (early.cc). Needs the runtime's lock throughout; never waits.
// Hot path, per task: 1 allocation (Task), 1 record out (header 8 + 40 bytes + arguments), 1 reply in.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>

#include "runtime/objects.h"
#include "runtime/task.h"

namespace sheaf::runtime {

struct Template {
  TaskTemplate definition;
  SchedClass* sched = nullptr;
  double* mean_us = nullptr;   // of the function's running times, exponentially weighted; negative: none measured yet
};

// A template as bytes: what is equal is one template, and what a recorded task carries.
struct RecordedDefinition : TaskTemplate {
  template <class A>
  void fields(A& a) {
    a(function, placement, flags, n_returns, max_retries, max_calls, generator_backpressure, method, name,
      concurrency_group, blob);
  }
};

inline constexpr double kPipelineBudgetUs = 1000;      // unanswered work at one leased worker
inline constexpr uint32_t kPipelineTasksMax = 512;
inline constexpr std::chrono::milliseconds kIdleLease{100};
inline constexpr uint32_t kTasksLocated = 32;          // of a request for leases: where their arguments are
inline constexpr size_t kPendingEventsMax = 10000;
inline constexpr uint8_t kRebuildsMax = 32;            // of one task, where max_retries sets no bound

class Submitter {
 public:
  explicit Submitter(Runtime::Impl& rt) : rt_(rt) {}

  // The number of this template; the same one for an equal template, as programs make the options of a call anew each time.
  TemplateId define(TaskTemplate definition);
  const Template& definition(TemplateId id) const { return templates_[id]; }
  void submit(TemplateId id, const Arguments& args, uint64_t parent, Slot* returns);
  // For actor calls: the task with its return entries and dependencies set up, not yet queued anywhere.
  Task* make_task(TemplateId id, const Arguments& args, uint64_t parent, Slot* returns);
  // Writes the task to the peer's lane; its dependencies all have values.
  void push(Task* task, Peer& peer);
  // Every return becomes this error; the task is over.
  void complete_error(Task* task, const protocol::ErrorRecord& error);
  // A constructor has been handed over: releases what the task held.
  void finish(Task* task, bool keep_lineage);

  // True when every dependency has a value; else the task waits for those that have none.
  bool await_dependencies(Task* task);
  void dependency_ready(Task* task);
  // True when a dependency is an error, which is now the task's own outcome.
  bool fail_on_dependency(Task* task);
  void lineage_released(Task* task);
  // A reference to one of the task's returns is about to leave this process: the daemon learns how others can run the
  // task again, and so for all that its arguments depend on. Drivers outlive their job's objects and tell nothing.
  void escape(Task* task);
  // Runs a task again that a process submitted which cannot do so any more; may be one of ours.
  void adopt(const protocol::TaskLineage& task);
  // The bytes of our object at `slot` are gone: its task runs again, else everybody who asks for it gets `error`.
  void object_lost(Slot slot, wire::Bytes error);

  void lease_granted(const protocol::LeaseGrant& grant);
  void lease_recalled(uint64_t lease);
  void lease_refused(const protocol::LeaseRefused& refusal);
  void handle_reply(Peer& peer, wire::Bytes payload);
  // The worker runs `n` tasks at the same time; of one that is leaving: so many of ours still run.
  void slots_known(Peer& peer, uint32_t n);
  void handle_item(Peer& peer, wire::Bytes payload);
  void peer_down(Peer& peer, const protocol::ErrorRecord& cause);

  // It waits for no value any more.
  void detach_dependencies(Task* task);
  // Off its worker's list, because it was answered or the worker is gone.
  void take_off(Task* task);
  bool cancel(Slot slot, bool force, bool recursive);
  void kill_worker(const Peer& peer);
  void cancel_children(uint64_t parent, bool force);

  // Sends what can go out now. Cheap when nothing changed.
  void push_out();
  // Idle leases, steal-back, level-triggered lease requests. Called every 1 to 20 ms.
  void tick(Deadline now);
  void return_all_leases();
  // For how long the answers to come may lie, as they come often and nobody starves meanwhile. Zero: not at all. Asked
  // before each sleep.
  std::chrono::microseconds rest_time(Deadline now);
  bool busy() const { return in_flight_ > 0 || lease_count_ > 0 || !dirty_.empty(); }
  // No task waits, or is on its way, or runs.
  bool idle() const;
  // Tasks that have no result yet, for the state API.
  void pending_events(std::vector<protocol::TaskEvent>* out);

 private:
  SchedClass* intern(const protocol::SchedulingClass& spec);
  void enqueue(Task* task, bool front = false);
  void mark_dirty(SchedClass& c);
  void push_class(SchedClass& c);
  uint16_t best_node(Task& task);
  Peer* choose(SchedClass& c, const Template& t, Task& task);
  // The worker that makes all missing arguments of the task, if it had better go there at once.
  Peer* early_peer(Task& task);
  bool is_best_place(const SchedClass& c, const Peer& peer, double made_us) const;
  void push_early(Task* task, Peer& peer);
  // Those that wait for what was just sent.
  void push_followers();
  void follow_ends(Peer& peer);
  // What could start elsewhere by now, and whether what was cancelled by force has started all the same.
  void look_at_early(SchedClass& c);
  // Back from a worker that did not run it.
  void requeue(Task* task);
  void request_leases(SchedClass& c);
  void return_lease(Peer& peer, bool worker_exits);
  void steal_back(SchedClass& c);
  void retry(Task* task, bool front);
  bool make_again(Slot slot);
  void argument_lost(Task* task);
  bool store_plain(Task* task, wire::Bytes bytes);
  bool rebuild_own(const protocol::TaskLineage& task);
  Task* decode_adopted(const protocol::TaskLineage& task);
  void fail_adoption(const protocol::TaskLineage& task, const std::string& why);
  void adoption_ended(const Task* run);   // which may be gone
  void store_values(Task* task, wire::Reader& in, uint16_t n_values);
  void complete_rest(Task* task);
  void release_arguments(Task* task);
  void end_stream(Task* task, const protocol::ErrorRecord* error);

  Runtime::Impl& rt_;
  std::deque<Template> templates_;
  std::unordered_map<std::string, TemplateId> template_ids_;   // by encoded definition
  std::map<std::pair<FunctionId, std::string>, double> means_; // by function and method, whatever the options
  TaskPool tasks_;
  std::map<std::string, std::unique_ptr<SchedClass>> classes_;   // by encoded spec
  std::vector<SchedClass*> by_id_;
  std::vector<SchedClass*> dirty_;
  std::map<uint64_t, Peer*> leases_;
  uint32_t lease_count_ = 0;
  uint64_t in_flight_ = 0;
  TaskList waiting_;             // some dependency has no value yet
  // Tasks that run again because a daemon asked, by first return. `again`: asked for once more since.
  struct Adoption {
    const Task* run = nullptr;
    Slot carrier = kNoSlot;      // the entry that answers find an adopted task by
    bool again = false;
    protocol::TaskLineage task;
  };
  std::map<ObjectId, Adoption> adoptions_;
  std::string scratch_;
  uint64_t answers_ = 0;         // from workers
  uint64_t answers_seen_ = 0;    // by the last rest_time(), and when that was
  Deadline answers_seen_at_{};
  std::vector<Task*> followed_;  // sent since push_followers(), and waited for
};

}  // namespace sheaf::runtime
