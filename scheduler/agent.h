// The agent: leases, the worker pool and actor placement of one node, as a pure state machine.
//
// handle(event, now) returns the actions to perform, in order; nothing else leaves it. No I/O,
// clock, randomness or threads; the same events give the same actions. It decides who gets which
// worker and resources; the daemon around it forks, kills, makes lanes and moves messages.
// Guarantees: the sum of what it has handed out never exceeds the node (except CPUs of blocked
// workers that run again), and every worker it asked for is in use, idle, or told to go. Of its own
// processes' requests it asks other nodes for what it cannot grant itself (spillover.h); requests
// of their processes it serves like those of its own. Owned by the daemon's loop.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/variant.h"
#include "scheduler/binder.h"
#include "scheduler/node_messages.h"
#include "scheduler/protocol.h"
#include "scheduler/resources.h"
#include "scheduler/spillover.h"

namespace sheaf::scheduler {

struct AgentConfig {
  NodeId node;
  // In the cluster: the high bits of its leases. 0: there are no other nodes.
  uint16_t number = 0;
  ResourceMap total;
  Labels labels;
  std::shared_ptr<const Topology> topology;   // null: nothing is bound to CPUs
  BindingMode binding = BindingMode::kNone;
  uint32_t max_workers = 1024;            // processes, whatever they do
  uint32_t max_spawns_in_flight = 0;      // 0: as many as there are CPUs, at least 2
  uint32_t warm_workers = 0;              // idle workers kept; 0: as many as there are CPUs
  Time idle_timeout = std::chrono::seconds(1);
  // Fresh workers started ahead while actors come and go, at most.
  uint32_t spare_workers = 0;
  Time spare_window = std::chrono::milliseconds(200);   // comings and goings so recent count
  // then leases are recalled from those who hold more
  Time starve_after = std::chrono::milliseconds(10);
  // a starved actor or group may keep freed resources this long
  Time hold_window = std::chrono::milliseconds(200);
  // one more worker each, for requests without CPUs
  Time unmetered_pace = std::chrono::milliseconds(2);
  Time warn_interval = std::chrono::seconds(30);
  Time spawn_timeout = std::chrono::seconds(60);
  Time spawn_retry = std::chrono::milliseconds(100);     // doubles at each failure in a row
  uint32_t spawn_attempts = 4;            // failures in a row before requests are refused
  // idle workers told to leave are killed after this
  Time exit_grace = std::chrono::seconds(10);
  Time report_interval = std::chrono::milliseconds(100);
  // A request that would run better elsewhere leaves what this node has free alone for so long.
  Time locality_wait = std::chrono::milliseconds(50);
  // A node named in a request may be new: when it is not in the view by then, the request is
  // refused, or runs elsewhere if it may.
  Time unknown_node_grace = std::chrono::milliseconds(500);
  // Among so many nodes that may have room plans are made so often, not after every event.
  size_t nodes_planned_at_once = 64;
  Time plan_pace = std::chrono::milliseconds(2);
  // A node that failed to start a worker for a flow is not asked again for so long.
  Time avoid_time = std::chrono::seconds(10);
};

// Workers are alike when these are equal.
struct PoolKey {
  JobId job = 0;
  std::string language;
  std::string runtime_env;
  auto operator<=>(const PoolKey&) const = default;
};

// ---- Events -------------------------------------------------------------------------------------

// Level-triggered, as protocol::LeaseRequest. `backlog`: further leases that the client could use
// now. Also what one node's agent asks of another's (AskNode): `client` is then a process of
// that node, and the answers go there.
struct LeaseRequested {
  ProcessId client = 0;
  JobId job = 0;
  uint32_t class_id = 0;
  protocol::SchedulingClass spec;
  uint32_t backlog = 0;
  std::map<uint16_t, uint64_t> bytes_at = {};
  template <class A>
  void fields(A& a) {
    a(client, job, class_id, spec, backlog, bytes_at);
  }
};
// By a client of this node, of a lease from anywhere; or by one of another node, of a lease from
// here. Unknown leases are ignored: the worker may have died meanwhile.
struct LeaseReturned {
  ProcessId client = 0;
  uint64_t lease = 0;
  bool worker_exits = false;
  template <class A>
  void fields(A& a) {
    a(client, lease, worker_exits);
  }
};
// Another node's agent has granted a lease to a client of this one. The daemon passes the grant on
// to the client, and tells this agent first.
struct RemoteGrant {
  ProcessId client = 0;
  uint32_t class_id = 0;
  uint64_t lease = 0;
  uint16_t number = 0;     // of that node
  ProcessId worker = 0;
};
// It cannot serve what it was asked for. The daemon tells the client nothing: this agent asks
// another node, or answers with RefuseLease.
struct RemoteRefused {
  ProcessId client = 0;
  uint32_t class_id = 0;
  uint16_t number = 0;
  protocol::ErrorRecord error;
};
struct WorkerBlocked { ProcessId process = 0; };
struct WorkerUnblocked { ProcessId process = 0; };
struct WorkerRegistered {
  uint64_t spawn_token = 0;
  ProcessId process = 0;
};
struct WorkerSpawnFailed {
  uint64_t spawn_token = 0;
  // kRuntimeEnvSetup is final for its pool key; anything else is retried
  protocol::ErrorRecord error;
};
// Any process: as a worker, and as a client. reaped = false: dead but its memory and devices are
// not free yet; a ProcessReaped follows. The daemon tells those who had lanes to it (PeerDown):
// its leases end with it. Those of other nodes too: a client that had asked for leases here, a
// worker that a client of this node had a lease on.
struct ProcessDied {
  ProcessId process = 0;
  protocol::ErrorRecord cause;
  bool reaped = true;
};
struct ProcessReaped { ProcessId process = 0; };
// Force-cancel: accepted when the process is a worker of this job.
struct KillRequested {
  JobId job = 0;
  ProcessId process = 0;
};
struct Prestart {
  PoolKey key;
  uint32_t count = 0;
};
struct CapacityChanged {
  ResourceMap total;
  Labels labels;
};
// No new grants, actors or groups on this node.
struct DrainRequested {};
struct FromController { NodeMessage message; };
// The node has registered again with a controller that restarted: what was asked of the one before
// may be lost.
struct ControllerBack {};
// Due at next_tick(); harmless at any other time.
struct Tick {};

struct AgentEvent
    : std::variant<LeaseRequested, LeaseReturned, RemoteGrant, RemoteRefused, WorkerBlocked,
                   WorkerUnblocked, WorkerRegistered, WorkerSpawnFailed, ProcessDied,
                   ProcessReaped, KillRequested, Prestart, CapacityChanged, DrainRequested,
                   FromController, ControllerBack, Tick> {
  SHEAF_VARIANT(AgentEvent)
};

// ---- Actions ------------------------------------------------------------------------------------

// Answered by WorkerRegistered or WorkerSpawnFailed with the same token, once.
struct SpawnWorker {
  uint64_t token = 0;
  PoolKey key;
};
// `bind`: the worker has to run on these CPUs (empty: on all of the node's) before the client or
// the actor may use it; nothing: it does already.
struct GrantLease {
  ProcessId client = 0;
  uint32_t class_id = 0;
  uint64_t lease = 0;
  ProcessId worker = 0;
  Devices devices;
  std::optional<CpuList> bind = {};
};
struct RecallLease {
  ProcessId client = 0;
  uint64_t lease = 0;
};
struct RefuseLease {
  ProcessId client = 0;
  uint32_t class_id = 0;
  protocol::ErrorRecord error;
};
// Send protocol::ActorStart to the worker.
struct StartActor {
  ActorId actor;
  uint32_t incarnation = 0;
  JobId job = 0;
  ProcessId worker = 0;
  Devices devices;
  std::shared_ptr<const protocol::ActorSpec> spec;
  std::optional<CpuList> bind = {};
};
// kill -9; `cause` is what its peers are told.
struct KillWorker {
  ProcessId process = 0;
  protocol::ErrorRecord cause;
};
struct ExitWorker {
  ProcessId process = 0;
  bool graceful = true;
  std::string reason;
};
// For the client's standard error; a worker's warnings go to its job's driver.
struct WarnClient {
  ProcessId process = 0;
  JobId job = 0;
  std::string text;
};
struct ToController { AgentReport report; };
// A LeaseRequested for the agent of that node; replaces what was asked of it before for this
// client and class. Nodes that this daemon cannot reach (any more) are told by NodeGone.
struct AskNode {
  uint16_t number = 0;
  LeaseRequested request;
};
struct ReturnToNode {
  uint16_t number = 0;
  LeaseReturned lease;
};

struct AgentAction
    : std::variant<SpawnWorker, GrantLease, RecallLease, RefuseLease, StartActor, KillWorker,
                   ExitWorker, WarnClient, ToController, AskNode, ReturnToNode> {
  SHEAF_VARIANT(AgentAction)
};
using AgentActions = std::vector<AgentAction>;

// ---- State, open to reading (state queries, the simulator's oracles) ----------------------------

// What a lease or an actor took, and from where.
struct Holding {
  Allocation allocation;
  std::optional<std::pair<PlacementGroupId, int32_t>> bundle;   // else from the node
  ResourceAmount lent_cpu = 0;   // given back while its worker is blocked
  Binding binding;               // of its worker; CPUs that are its own are lent as well
};

enum class WorkerState : uint8_t { kIdle = 0, kLeased = 1, kActor = 2, kExiting = 3, kDying = 4 };
struct WorkerInfo {
  ProcessId process = 0;
  PoolKey key;
  WorkerState state = WorkerState::kIdle;
  uint64_t lease = 0;                // kLeased
  ActorId actor;                     // kActor
  uint32_t actor_incarnation = 0;
  Devices devices;                   // once it has seen devices it serves only the same ones
  CpuList bound;                     // the CPUs it runs on, until it is bound anew; empty: all
  bool used = false;                 // user code may have run in it
  bool blocked = false;
  bool kill_sent = false;
  Time since{0};                     // in this state
  Holding remains;                   // kDying: given back when it is reaped
};
struct LeaseInfo {
  uint64_t lease = 0;
  ProcessId client = 0;
  uint32_t class_id = 0;
  JobId job = 0;
  ProcessId worker = 0;
  Holding holding;
  bool recalled = false;
  Time granted{0};
};
// What one client asks for one of its classes. Lives while it has backlog or leases.
struct FlowInfo {
  JobId job = 0;
  protocol::SchedulingClass spec;
  PoolKey key;
  uint32_t backlog = 0;
  uint32_t held = 0;
  uint32_t recalled = 0;             // of `held`, on their way back
  uint64_t last_grant = 0;           // order of the last grant, for turns
  Time waiting_since{0};
  Time last_recall{0};
  Time next_warning{0};
  Time next_unmetered{0};
  bool infeasible = false;           // at the last look
  // Of this node's own clients: what other nodes are asked for, and how many leases are theirs.
  std::map<uint16_t, uint64_t> bytes_at;
  std::map<uint16_t, uint32_t> asked;
  std::map<uint16_t, uint32_t> held_at;
  std::map<uint16_t, Time> avoid;    // until then
  uint32_t elsewhere_first = 0;      // of the backlog, until `elsewhere_until`
  Time elsewhere_until{0};
};
struct RemoteLease {
  ProcessId client = 0;
  uint32_t class_id = 0;
  uint16_t number = 0;
  ProcessId worker = 0;
  ResourceMap resources;
};
using FlowKey = std::pair<ProcessId, uint32_t>;   // client, class_id
struct PlacedActor {
  std::shared_ptr<const protocol::ActorSpec> spec;
  uint32_t incarnation = 0;
  JobId job = 0;
  ProcessId worker = 0;              // 0: waits
  bool running = false;
  uint32_t restarts = 0;             // as the controller said
  ResourceMap request;               // to place it
  Holding holding;
};
struct BundleInfo {
  Allocation reserved;
  ResourcePool pool;
  bool releasing = false;            // its resources go back when its last user has gone
  uint32_t users = 0;                // holdings inside it
};
struct ReservedGroup {
  uint32_t attempt = 0;
  bool releasing = false;            // all of it
  std::map<int32_t, BundleInfo> bundles;
};
// Actors and groups wait in the order in which they came, ahead of leases.
struct WaitingPlacement {
  ActorId actor;                     // nil: a group
  PlacementGroupId group;
  uint32_t attempt = 0;
  std::vector<BundleRequest> bundles;
  Time waiting_since{0};
  Time hold_until{0};                // starved: until then nobody else gets what it lacks
  Time next_recall{0};
  Time next_warning{0};
  bool infeasible = false;
};
struct SpawnInfo {
  PoolKey key;
  Time started{0};
};
struct SpawnBackoff {
  uint32_t failures = 0;
  Time not_before{0};
};
// When actors of a kind took a worker, and when they ended with theirs: the last ones.
struct Turnover {
  std::deque<Time> placed, ended;
};

class Agent {
 public:
  explicit Agent(AgentConfig config);

  AgentActions handle(const AgentEvent& event, Time now);
  // When Tick is due at the latest; nothing = only after the next event.
  std::optional<Time> next_tick() const;

  const AgentConfig& config() const { return config_; }
  const ResourcePool& resources() const { return pool_; }
  const Binder& binder() const { return binder_; }
  const std::map<ProcessId, WorkerInfo>& workers() const { return workers_; }
  const std::map<uint64_t, LeaseInfo>& leases() const { return leases_; }
  const std::map<FlowKey, FlowInfo>& flows() const { return flows_; }
  const std::map<uint64_t, RemoteLease>& remote_leases() const { return remote_leases_; }
  const ClusterMap& cluster() const { return cluster_; }
  bool draining() const { return draining_; }
  // For NodeJoin: the actors and groups that this node has, when the controller has restarted.
  std::vector<LiveActor> live_actors() const;
  std::vector<LiveGroup> live_groups() const;
  const std::map<ActorId, PlacedActor>& actors() const { return actors_; }
  const std::map<PlacementGroupId, ReservedGroup>& groups() const { return groups_; }
  const std::map<uint64_t, WaitingPlacement>& waiting() const { return waiting_; }
  const std::map<uint64_t, SpawnInfo>& spawns() const { return spawns_; }

 private:
  friend class AgentTestAccess;
  struct Pass;

  void on(const LeaseRequested& event);
  void on(const LeaseReturned& event);
  void on(const RemoteGrant& event);
  void on(const RemoteRefused& event);
  void on(const WorkerBlocked& event);
  void on(const WorkerUnblocked& event);
  void on(const WorkerRegistered& event);
  void on(const WorkerSpawnFailed& event);
  void on(const ProcessDied& event);
  void on(const ProcessReaped& event);
  void on(const KillRequested& event);
  void on(const Prestart& event);
  void on(const CapacityChanged& event);
  void on(const DrainRequested& event);
  void on(const FromController& event);
  void on(const ControllerBack& event);
  void on(const Tick& event);
  void on(const PlaceActor& message);
  void on(const ActorRunning& message);
  void on(const ReleaseActor& message);
  void on(const ReserveGroup& message);
  void on(const ReleaseGroup& message);
  void on(const EndJob& message);
  void on(const JobStarted&) {}     // the daemon's
  void on(const ForgetJob&) {}
  void on(const BarrierClosed&) {}
  void on(const ClusterView& message);
  void on(const NodeGone& message);
  void on(const GroupPlaced& message);
  void on(const DrainNode& message);
  void on(const TakeBackActor& message);

  // Leases and flows (agent.cc).
  Holding end_lease(uint64_t lease);
  void drop_client(ProcessId client);
  void forget_flow_if_done(const FlowKey& key);
  void refuse(const FlowKey& key, protocol::ErrorRecord error);
  bool belongs_elsewhere(const protocol::Strategy& strategy) const;
  bool is_live_client(ProcessId client, JobId job) const;
  bool is_remote(ProcessId process) const;

  // Other nodes (agent_remote.cc).
  void end_remote_lease(uint64_t lease);
  void drop_remote_state(ProcessId process);
  void withdraw_asks(const FlowKey& key, FlowInfo& flow);
  bool place_matters(const FlowInfo& flow) const;
  bool spares_gpus(const FlowInfo& flow) const;
  void look_whether_to_plan();
  void spill_over(bool before_grants, const std::map<FlowKey, uint32_t>& promised,
                  std::map<uint16_t, ResourceMap>& free);
  bool plan_flow(const FlowKey& key, FlowInfo& flow, uint32_t wanted, ResourceMap& here,
                 std::map<uint16_t, ResourceMap>& free);
  SpillRequest spill_request(const FlowInfo& flow, uint32_t wanted, ResourceMap& here);
  bool awaits_its_node(ProcessId client, const FlowInfo& flow) const;
  uint32_t left_to_others(ProcessId client, const FlowInfo& flow) const;
  bool feasible_elsewhere(const ResourceMap& request, const protocol::Strategy& strategy) const;
  bool knows_all_loads() const;
  std::vector<WantedRoom> wanted_room() const;
  std::vector<uint16_t> named_nodes() const;
  void stop_looking();

  // Workers (agent_pool.cc).
  // Never `client`: what asks for a lease is to wait for another process, not for itself.
  WorkerInfo* idle_worker(const PoolKey& key, const Devices& devices, const Binding& binding,
                          ProcessId client = 0);
  Binding binding_for(const ResourceMap& request, const Devices& devices) const;
  std::optional<CpuList> bind(WorkerInfo& worker, Holding& holding, Binding binding);
  void occupy(WorkerInfo& worker, WorkerState state, const Devices& devices);
  void make_idle(WorkerInfo& worker);
  void kill(WorkerInfo& worker, protocol::ErrorRecord cause);
  void worker_died(WorkerInfo& worker, const ProcessDied& event);
  void lend_cpu(Holding& holding);
  void take_cpu_back(Holding& holding);
  Holding* holding_of(const WorkerInfo& worker);
  void trim_idle();
  void check_deadlines();
  void spawn(const PoolKey& key);
  void spawn_failed(uint64_t token, const protocol::ErrorRecord& error);
  void fail_key(const PoolKey& key, const protocol::ErrorRecord& error);
  std::set<ProcessId> workers_of_detached_actors(JobId job) const;
  void forget_job_if_done(JobId job);
  bool has_client_work(ProcessId process) const;
  bool key_is_wanted(const PoolKey& key) const;
  bool make_room_for_worker();
  uint32_t cpu_count() const;
  uint32_t spawn_limit() const;
  void note_turn(const PoolKey& key, std::deque<Time> Turnover::* which);
  uint32_t spares_wanted(const Turnover& turnover) const;

  // Actors and groups (agent_placement.cc).
  static ResourceMap creation_request(const protocol::ActorSpec& spec);
  ResourcePool* pool_of(const Holding& holding);
  std::optional<Holding> take(const ResourceMap& request, const protocol::Strategy& strategy);
  ResourceMap lacking(const ResourceMap& request, const protocol::Strategy& strategy) const;
  bool feasible(const ResourceMap& request, const protocol::Strategy& strategy) const;
  void give_back(Holding& holding);
  bool try_reserve(const WaitingPlacement& wait);
  void leave_bundles();
  void finish_release(PlacementGroupId group);
  void ask_about_group(const protocol::Strategy& strategy);
  void tell(AgentReport report);

  // Who gets what (agent_schedule.cc).
  void schedule();
  void place_waiting(Pass& pass);
  bool place_actor(Pass& pass, ActorId id, PlacedActor& actor);
  void grant_leases(Pass& pass);
  std::optional<FlowKey> next_in_turn(const Pass& pass) const;
  bool try_grant(Pass& pass, const FlowKey& key, FlowInfo& flow);
  void grant(const FlowKey& key, FlowInfo& flow, WorkerInfo& worker, Holding holding,
             Binding binding);
  bool plan_spawn(Pass& pass, const PoolKey& key, Holding holding);
  void request_spawns(const Pass& pass);
  void request_spares();
  uint32_t starting(const PoolKey& key) const;
  void start_up_to(const PoolKey& key, uint32_t wanted);

  // Fairness, warnings and reports (agent_fairness.cc).
  void relieve_starved();
  uint32_t recall_for(ResourceMap wanted, const protocol::Strategy& strategy,
                      const FlowKey* waiter);
  bool may_recall(const FlowKey& victim, const FlowKey* waiter, uint32_t gained) const;
  uint32_t effective_leases(ProcessId client) const;
  ResourceMap wanted_by(const WaitingPlacement& wait) const;
  bool starving(const FlowKey& key, const FlowInfo& flow) const;
  void warn_waiting();
  std::string waiting_text(const ResourceMap& request, const protocol::Strategy& strategy,
                           std::string_view who, bool infeasible) const;
  void report_resources();
  bool report_is_due() const;

  AgentConfig config_;
  ResourcePool pool_;
  Binder binder_;
  std::map<ProcessId, WorkerInfo> workers_;
  std::map<uint64_t, LeaseInfo> leases_;
  std::map<FlowKey, FlowInfo> flows_;
  std::map<ActorId, PlacedActor> actors_;
  std::map<PlacementGroupId, ReservedGroup> groups_;
  std::map<uint64_t, WaitingPlacement> waiting_;   // by order of arrival
  std::map<uint64_t, SpawnInfo> spawns_;           // by token
  std::map<PoolKey, SpawnBackoff> backoff_;
  std::map<PoolKey, uint32_t> prestart_;           // workers still to be started ahead of need
  std::map<PoolKey, Turnover> turnover_;
  std::set<PlacementGroupId> asked_;               // AskGroup sent, no answer yet
  ClusterMap cluster_;
  std::map<uint64_t, RemoteLease> remote_leases_;  // of this node's clients
  std::map<PlacementGroupId, std::vector<uint16_t>> group_nodes_;   // by bundle
  std::set<std::string> absent_nodes_;             // hex ids of the dead and the awaited in vain
  std::set<ProcessId> dead_clients_;               // of this node, the last ones
  std::deque<ProcessId> dead_in_order_;
  uint16_t spread_turn_ = 0;                       // the node that had the last one
  Time next_plan_{0};
  bool plan_waits_ = false;                        // for next_plan_
  std::set<JobId> ended_jobs_;                     // that still have workers, spawns or actors
  uint64_t next_lease_ = 1, next_token_ = 1, next_order_ = 1, next_grant_ = 1;
  bool draining_ = false;
  bool dirty_ = false;                             // the next handle() must run a scheduling pass
  ResourceMap reported_available_, reported_total_;
  std::vector<WantedRoom> wanted_, reported_wanted_;   // at the last pass; in the last report
  std::vector<uint16_t> named_, reported_named_;
  bool reported_draining_ = false;
  Time next_report_{0};
  Time now_{0};
  AgentActions out_;
};

}  // namespace sheaf::scheduler
