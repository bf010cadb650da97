// One simulated node: the real agent, controller and in-memory journal; everything around them,
// processes included, is made up from one seed.
//
// A World owns a virtual clock and one event queue ordered by (time, sequence): the same seed gives
// the same run, which the trace hash attests. Messages between a process and the daemon keep their
// order and take a random time; a process may die at any of them. Oracles look on after every event.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "scheduler/agent.h"
#include "scheduler/controller.h"
#include "scheduler/journal.h"
#include "tests/sim/random.h"

namespace sheaf::sim {

using namespace std::chrono_literals;
using namespace sheaf::scheduler;   // NOLINT: the simulator speaks the machines' language
using protocol::ErrorKind;
using protocol::ErrorRecord;

struct Options {
  uint64_t seed = 1;
  bool trace = false;            // every event to stderr
  Time fault_time = 3s;          // drivers come and faults happen up to here
  Time patience = 300s;          // by then everything must have ended
};

struct Stats {
  uint64_t events = 0, faults = 0, tasks = 0, calls = 0, restarts = 0, acked_writes = 0;
  uint64_t checks = 0;           // of invariants, one each time that an oracle looked
};

// ---- What simulated programs do ----------------------------------------------------------------

struct Task {
  uint64_t id = 0;
  uint32_t class_id = 0;
  ProcessId owner = 0;
  Time duration{0};
  uint32_t children = 0;        // submitted by the worker, which waits for them
  uint32_t depth = 0;
  uint64_t parent = 0;
};
struct ClassQueue {
  protocol::SchedulingClass spec;
  std::deque<uint64_t> queue;
  uint32_t requested = 0;       // what the agent believes
};
struct ClientLease {
  ProcessId worker = 0;
  uint32_t class_id = 0;
  uint64_t task = 0;            // 0: none
  bool recalled = false;
};
struct ActorHandle {
  ActorId actor;
  bool created = false;         // the answer has come
  bool owned = false;           // counted by ActorHold
  bool done = false;
  protocol::ActorState state = protocol::ActorState::kPending;
  uint32_t incarnation = 0;
  ProcessId process = 0;
  uint32_t calls_left = 0;
  uint32_t in_flight = 0;
  bool kill_at_end = false;
};
struct GroupUse {
  PlacementGroupId group;
  bool created = false, removed = false, removing = false;
  bool detached = false;
  uint32_t class_id = 0;
  uint32_t tasks_left = 0;
  bool remove_early = false;
};
struct KeyWriter {
  std::string key;
  uint32_t writes_left = 0;
  uint64_t in_doubt = 0;        // number of the write that is under way
};

struct Process {
  ProcessId id = 0;
  bool driver = false;
  JobId job = 0;
  bool alive = true;
  bool leaving = false;
  Time to_daemon{0}, from_daemon{0};   // last message each way: order is kept
  // As a client.
  std::map<uint32_t, ClassQueue> classes;
  std::map<uint64_t, ClientLease> leases;
  std::map<ActorId, ActorHandle> actors;
  std::map<PlacementGroupId, GroupUse> groups;
  std::map<std::string, KeyWriter> writers;
  std::map<uint64_t, std::function<void(const Reply&)>> waiting;   // by request
  uint32_t tasks_open = 0;
  uint64_t next_request = 1;
  uint64_t next_id = 1;
  // As a worker.
  uint64_t running = 0;          // task
  ProcessId running_for = 0;
  uint64_t running_lease = 0;
  uint32_t children_open = 0;
  ActorId actor;
  uint32_t actor_incarnation = 0;
  bool actor_ready = false;
  bool exiting = false;
};

// What the daemon has handed out to a process, by the simulator's own account.
struct Usage {
  uint64_t lease = 0;
  ProcessId client = 0;
  ResourceMap resources;
  Devices devices;
  std::optional<PlacementGroupId> group;
  bool blocked = false;
  bool is_actor = false;
  ResourceMap lifetime;
};

struct WriteLedger {
  uint64_t known = 0;            // the newest write that somebody was told about
  uint64_t issued = 0;
};
struct DetachedLedger {
  JobId job = 0;
  bool restartable = false;
  std::string name, name_space;
};

class World {
 public:
  explicit World(Options options);
  ~World();

  // True when nothing was violated.
  bool run();

  const Stats& stats() const { return stats_; }
  uint64_t trace_hash() const { return hash_; }
  const std::string& oracle() const { return oracle_; }        // the first one violated
  const std::string& violation() const { return violation_; }

 private:
  // world.cc: queue, daemon, processes.
  void at(Time time, std::function<void()> what);
  void after(Time delay, std::function<void()> what) { at(now_ + delay, std::move(what)); }
  Time delay(uint64_t low_us, uint64_t high_us) {
    return std::chrono::microseconds(random_.between(low_us, high_us));
  }
  void step();
  void start_daemon();
  void crash_daemon();
  void tick_daemon();
  void to_agent(AgentEvent event);
  void to_controller(ControllerEvent event);
  void drain();
  void sync_journal();
  void note(uint64_t a, uint64_t b, uint64_t c = 0);
  void fail(const char* oracle, const std::string& what);

  Process& make_process(bool driver, JobId job);
  Process* live(ProcessId id);
  void send_to_daemon(ProcessId from, std::function<void()> deliver);
  void send_to_process(ProcessId to, std::function<void(Process&)> deliver);
  void kill_process(ProcessId id);
  void announce_death(ProcessId id, bool reaped);

  // daemon.cc: performing what the machines return.
  void perform(const SpawnWorker& action);
  void perform(const GrantLease& action);
  void perform(const RecallLease& action);
  void perform(const RefuseLease& action);
  void perform(const StartActor& action);
  void perform(const KillWorker& action);
  void perform(const ExitWorker& action);
  void perform(const WarnClient& action);
  void perform(const ToController& action);
  void perform(const AppendJournal& action);
  void perform(const Reply& action);
  void perform(const ToNode& action);
  void perform(const PushActorUpdate& action);
  void perform(const PushGroupUpdate& action);
  void perform(const WarnJob& action);
  void perform(const ActorAccepted& action);
  void perform(const ActorGone& action);
  void perform(const JobFinished& action);
  // Here is one node: nobody joins, and nothing is asked of others.
  void perform(const NodeAccepted&) {}
  void perform(const NodeRefused&) {}
  void perform(const RenewLease&) {}
  void perform(const FenceNode&) {}
  void perform(const AskNode&) {}
  void perform(const ReturnToNode&) {}
  void register_worker(uint64_t token, const PoolKey& key, uint64_t life);

  // client.cc: what every process does as a submitter and as a worker.
  template <class Message>
  void ask(Process& p, Message message, std::function<void(const Reply&)> then);
  template <class Message>
  void post(Process& p, Message message);
  void submit(Process& p, Task task);
  void update_request(Process& p, uint32_t class_id);
  void use_lease(Process& p, uint64_t lease);
  void give_lease_back(Process& p, uint64_t lease, bool worker_exits);
  void on_grant(Process& p, const GrantLease& grant);
  void on_refused(Process& p, uint32_t class_id);
  void on_peer_down(Process& p, ProcessId peer);
  void on_task_done(Process& p, uint64_t lease, uint64_t task);
  void task_ended(Process& p, uint64_t task);
  void start_task(Process& worker, uint64_t task, ProcessId client, uint64_t lease);
  void finish_task(Process& worker);
  void become_actor(Process& worker, const StartActor& start);
  void on_actor_update(Process& p, const protocol::ActorUpdate& update);
  void call_actor(Process& p, ActorHandle& handle);
  void maybe_end_handle(Process& p, ActorHandle& handle);
  void on_group_update(Process& p, const protocol::GroupUpdate& update);

  // workload.cc: drivers and faults.
  void start_driver();
  void run_program(ProcessId id);
  void add_tasks(Process& p);
  void add_actor(Process& p);
  void look_up_actor(Process& p);
  void add_group(Process& p);
  void group_task_ended(Process& p, GroupUse& use);
  void end_group(Process& p, GroupUse& use);
  void add_writer(Process& p);
  void write_next(Process& p, const std::string& key);
  void read_key(Process& p);
  void check_driver_done(Process& p);
  uint32_t class_of(Process& p, const protocol::SchedulingClass& spec);
  void inject_fault();
  void clean_up();

  // oracles.cc
  void check_grants(const AgentActions& actions);
  void check_leases();
  void check_actors();
  void check_replay();
  void check_quiescence();
  void check_progress();
  std::string describe_agent() const;

  Options options_;
  Random random_;
  Time now_{1s};
  uint64_t next_event_ = 0;
  std::map<std::pair<Time, uint64_t>, std::function<void()>> queue_;
  Stats stats_;
  uint64_t hash_ = 0xcbf29ce484222325ull;
  std::string oracle_, violation_;

  ResourceMap total_;
  bool late_capacity_ = false;   // a resource that appears only later
  std::unique_ptr<Agent> agent_;
  std::unique_ptr<Controller> controller_;
  std::unique_ptr<MemoryJournal> journal_;
  uint64_t life_ = 0;            // of the daemon: messages of older lives are dropped
  std::deque<std::function<void()>> work_;
  bool draining_ = false;
  std::optional<Time> tick_at_;
  bool sync_planned_ = false;

  std::map<ProcessId, Process> processes_;
  ProcessId next_process_ = 2;
  std::map<uint64_t, Task> tasks_;
  uint64_t next_task_ = 1;
  uint32_t drivers_started_ = 0;
  std::vector<std::pair<std::string, std::string>> actor_names_;   // that somebody has created

  std::map<ProcessId, Usage> usage_;
  std::map<ActorId, uint32_t> started_;                   // highest incarnation ever started
  std::map<std::string, WriteLedger> ledger_;
  std::map<ActorId, DetachedLedger> detached_;            // acknowledged, not removed
  std::set<PlacementGroupId> detached_groups_;

  // Chances, drawn once per seed: one in n, 0 = never.
  uint64_t spawn_failure_ = 0, late_registration_ = 0, double_registration_ = 0;
  uint64_t death_after_event_ = 0, two_phase_death_ = 0;
  bool faults_on_ = true;
};

}  // namespace sheaf::sim
