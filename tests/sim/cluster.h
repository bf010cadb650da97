// Many simulated nodes: real agents, node leases and one real controller with its in-memory
// journal; the network between them, the daemons' glue and the processes are made up from one seed.
//
// Messages between two daemons keep their order and come exactly once while both lives last; they
// wait while a link is cut or the receiver stands still. A node that lost its lease stops by itself
// and comes back as a new one; a head that died opens its journal again. The same seed gives the
// same run. Oracles look on all the time.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "launchers/head_ledger.h"
#include "scheduler/agent.h"
#include "scheduler/controller.h"
#include "scheduler/journal.h"
#include "scheduler/node_lease.h"
#include "tests/sim/random.h"

namespace sheaf::sim {

using namespace std::chrono_literals;
using namespace sheaf::scheduler;   // NOLINT: the simulator speaks the machines' language
using protocol::ErrorKind;
using protocol::ErrorRecord;

struct ClusterOptions {
  uint64_t seed = 1;
  uint32_t nodes = 0;            // 0: drawn from the seed
  bool faults = true;
  uint32_t tasks = 0;            // a scaling run: so many in all
  uint32_t submitters = 0;       // of a scaling run; 0: on every other node
  bool count_bytes = false;
  bool trace = false;
  Time fault_time = 4s;
  Time fault_pace = 20ms;        // from one to the next, on average
  Time patience = 200s;
};
struct ClusterStats {
  uint64_t events = 0, faults = 0, node_deaths = 0, messages = 0, bytes = 0, tasks = 0, calls = 0;
  uint64_t checks = 0, remote_tasks = 0, heartbeats = 0, views = 0, view_bytes = 0;
  uint64_t nodes = 0, partings = 0;   // partings: links of two members that were lost for good
  uint64_t head_deaths = 0;
  uint64_t control_messages = 0;                // those that do not come from a task's call
  uint64_t head_messages = 0, head_bytes = 0;   // of them, to and from the head's daemon
  Time begun{0}, tasks_done{0};  // when a scaling run's tasks were there; when the last one ended
  Time work_done{0};             // sum of the tasks' lengths
  Time filled_at{0};             // when nine tenths of all CPUs were busy, a scaling run
};

struct SimTask {
  uint32_t class_id = 0;
  ProcessId owner = 0;
  Time duration{0};
};
struct SimClass {
  protocol::SchedulingClass spec;
  std::deque<uint64_t> queue;
  uint32_t requested = 0;
  std::map<uint16_t, uint64_t> bytes_at;
};
struct SimLease {
  ProcessId worker = 0;
  uint32_t class_id = 0;
  uint64_t task = 0;
  bool recalled = false;
};
struct SimHandle {
  protocol::ActorState state = protocol::ActorState::kPending;
  uint32_t incarnation = 0, calls_left = 0, in_flight = 0;
  ProcessId process = 0;
  bool done = false, created = false;
};
struct SimGroup {
  uint32_t class_id = 0, tasks_left = 0;
  bool removed = false;
};
struct SimProcess {
  ProcessId id = 0;
  uint32_t slot = 0;
  bool driver = false, alive = true, leaving = false;
  JobId job = 0;
  Time to_daemon{0}, from_daemon{0};
  std::map<uint32_t, SimClass> classes;
  std::map<uint64_t, SimLease> leases;
  std::map<ActorId, SimHandle> actors;
  std::map<PlacementGroupId, SimGroup> groups;
  std::map<uint64_t, std::function<void(SimProcess&, const Reply&)>> waiting;
  std::set<uint16_t> related;    // nodes that know of it
  uint32_t tasks_open = 0;
  uint64_t next_request = 1, next_id = 1;
  uint64_t running = 0;          // as a worker
  ActorId actor;
  uint32_t actor_incarnation = 0;
  bool actor_ready = false;
};

struct SimNode {
  uint32_t slot = 0;
  uint64_t life = 0;
  NodeId id;
  uint16_t number = 0, incarnation = 0;
  bool up = false, member = false;
  Time paused_until{0}, asked_at{0};
  ResourceMap total;
  Labels labels;
  std::unique_ptr<Agent> agent;
  std::optional<NodeLease> lease;
  std::optional<Time> tick_at;
  uint32_t next_process = 2;
  std::set<uint16_t> gone;       // numbers that it was told are dead
  std::set<uint16_t> agent_told; // of them, those of which its agent has heard
  std::map<uint16_t, Time> silent_since;   // members that it does not reach
  bool complained = false;
  // Of the head that it is registered with; away: it knows that this one is dead.
  uint64_t head_life = 0;
  uint16_t head_incarnation = 0;
  bool away = false, rejoining = false;
  launchers::HeadLedger ledger;
  std::map<JobId, JobStarted> jobs;
};
using LifeKey = std::pair<uint32_t, uint64_t>;   // slot, life

class Cluster {
 public:
  explicit Cluster(ClusterOptions options);
  ~Cluster();
  bool run();
  const ClusterStats& stats() const { return stats_; }
  uint64_t trace_hash() const { return hash_; }
  const std::string& oracle() const { return oracle_; }
  const std::string& violation() const { return violation_; }

 private:
  using Work = std::function<void()>;
  struct Channel {
    std::deque<std::pair<Time, std::function<void(SimNode&)>>> queue;
    Time last{0};
  };

  // cluster.cc: time, network, lives of nodes, faults.
  struct Due {
    Time time;
    uint64_t number;
    Work what;
    bool operator>(const Due& other) const {
      return std::pair(time, number) > std::pair(other.time, other.number);
    }
  };
  void at(Time time, Work what);
  void at_node(const SimNode& node, Time time, std::function<void(SimNode&)> what);
  Time delay(uint64_t low_us, uint64_t high_us);
  void note(uint64_t a, uint64_t b, uint64_t c = 0);
  void fail(const char* oracle, const std::string& what);
  bool alive_now(SimNode& node);
  SimNode* by_number(uint16_t number);
  SimNode& head() { return *nodes_[0]; }
  void send(SimNode& from, uint16_t to, size_t bytes, std::function<void(SimNode&)> deliver);
  void pump(const LifeKey& from, const LifeKey& to);
  void pump_all();
  bool cut(uint32_t a, uint32_t b) const;
  void sever(uint32_t a, uint32_t b);
  void mend(uint32_t a, uint32_t b);
  void part_two_members();
  void drain_somebody(uint32_t slot);
  void end_drain(uint16_t number);
  void complain(SimNode& node);
  void start_submitters();
  void start_node(uint32_t slot);
  void ask_number(SimNode& node);
  void join(SimNode& node);
  void stop_node(SimNode& node, bool restart);
  void inject_fault();
  void heartbeat(SimNode& node);
  void drain();
  void tick(SimNode& node);
  void tick_controller();
  void sync_journal();

  // cluster_head.cc: the head's lives, and how its members see them.
  void start_head();
  void crash_head();
  void seek_head(SimNode& node);
  void head_sought(SimNode& node, Time sent_at, bool refused, uint64_t found);
  void lose_head(SimNode& node);
  void rejoin(SimNode& node, uint64_t life);
  void add_what_lives(SimNode& node, NodeJoin& join);
  void forward(SimNode& node, const launchers::ForwardedRequest& request);
  static bool knows_dead(const SimNode& node, ProcessId process);

  // cluster_daemon.cc: the daemons' glue.
  void to_agent(SimNode& node, AgentEvent event);
  void to_controller(ControllerEvent event);
  void from_head(SimNode& node, NodeMessage message);
  void node_gone(SimNode& node, const NodeGone& gone);
  template <class Event>
  void tell_head(SimNode& node, Event event, size_t bytes);
  void perform(SimNode& node, const AgentAction& action);
  void act(SimNode& node, const SpawnWorker& a);
  void act(SimNode& node, const GrantLease& a);
  void act(SimNode& node, const RecallLease& a);
  void act(SimNode& node, const RefuseLease& a);
  void act(SimNode& node, const StartActor& a);
  void act(SimNode& node, const KillWorker& a);
  void act(SimNode& node, const ExitWorker& a);
  void act(SimNode&, const WarnClient&) {}
  void act(SimNode& node, const ToController& a);
  void act(SimNode& node, const AskNode& a);
  void act(SimNode& node, const ReturnToNode& a);
  void act(const AppendJournal& a);
  void act(const Reply& a);
  void act(const ToNode& a);
  void act(const PushActorUpdate& a);
  void act(const PushGroupUpdate&) {}
  void act(const WarnJob&) {}
  void act(const ActorAccepted&) {}
  void act(const ActorGone&) {}
  void act(const JobFinished&) {}
  void act(const NodeAccepted& a);
  void act(const NodeRefused& a);
  void act(const RenewLease& a);
  void act(const FenceNode& a);

  // cluster_client.cc: processes.
  SimProcess& make_process_on(SimNode& node, bool driver, JobId job);
  SimProcess* live(ProcessId id);
  SimNode* node_of_process(ProcessId id);
  void to_daemon(SimProcess& p, std::function<void(SimNode&)> what);
  void to_process(ProcessId id, std::function<void(SimProcess&)> what);
  void between(ProcessId from, ProcessId to, std::function<void(SimProcess&)> what);
  void kill_process(ProcessId id);
  void announce_death(SimNode& node, ProcessId id);
  template <class Look>
  void each_process(const SimNode& node, Look look);
  template <class Message>
  void ask(SimProcess& p, Message message, std::function<void(SimProcess&, const Reply&)> then);
  template <class Message>
  void post(SimProcess& p, Message message);
  template <class Message>
  void say(SimProcess& p, uint64_t request, Message message);
  void start_driver(SimNode& node);
  void run_program(SimProcess& p);
  uint32_t class_of(SimProcess& p, const protocol::SchedulingClass& spec);
  protocol::Strategy some_strategy();
  void add_tasks(SimProcess& p);
  void add_actor(SimProcess& p);
  void add_group(SimProcess& p);
  void add_task(SimProcess& p, uint32_t class_id, Time duration);
  void submit(SimProcess& p, uint32_t class_id, Time duration);
  void update_request(SimProcess& p, uint32_t class_id);
  void use_lease(SimProcess& p, uint64_t lease);
  void give_back(SimProcess& p, uint64_t lease);
  void on_grant(SimProcess& p, uint32_t class_id, uint64_t lease, ProcessId worker);
  void on_refused(SimProcess& p, uint32_t class_id);
  void on_peer_down(SimProcess& p, ProcessId worker);
  void on_node_down(SimProcess& p, uint16_t number, uint16_t incarnation);
  void start_task(SimProcess& worker, uint64_t task, uint64_t lease, ProcessId client);
  void on_task_done(SimProcess& p, uint64_t lease, uint64_t task);
  void task_ended(SimProcess& p, uint64_t task);
  void on_actor_update(SimProcess& p, const protocol::ActorUpdate& update);
  void call_actor(SimProcess& p, ActorId id);
  void check_done(SimProcess& p);

  // cluster_oracles.cc
  void check_books(const SimNode& node);
  void check_authority(ActorId actor, ProcessId process, uint32_t incarnation);
  void check_fence(const FenceNode& fence);
  void check_known_dead(const SimNode& node);
  void check_parting(const SimNode& node, uint16_t other, Time since);
  void check_condemned(const SimNode& node);
  void check_barrier(const BarrierClosed& closed);
  std::string what_it_waits_for(const SimProcess& p);
  void check_end();

  ClusterOptions options_;
  Random random_;
  Time now_{1s};
  uint64_t next_event_ = 0;
  std::vector<Due> queue_;                          // a heap, the earliest first
  std::deque<Work> work_;
  bool draining_ = false;
  ClusterStats stats_;
  uint64_t hash_ = 0xcbf29ce484222325ull;
  std::string oracle_, violation_;

  std::vector<std::unique_ptr<SimNode>> nodes_;
  std::map<uint16_t, LifeKey> numbers_;             // every number ever given out
  std::map<std::pair<LifeKey, LifeKey>, Channel> channels_;
  struct Cut {
    Time since{0}, mended{0};                       // mended 0: not yet
    bool lasting = false;                           // beyond the time of the faults
  };
  std::map<std::pair<uint32_t, uint32_t>, Cut> cuts_;   // slots, the lower first
  size_t lasting_ = 0;
  std::unique_ptr<Controller> controller_;
  std::unique_ptr<MemoryJournal> journal_;
  std::optional<Time> controller_tick_;
  bool sync_planned_ = false;
  std::map<uint64_t, std::set<uint16_t>> reached_;  // barrier: nodes that have failed the peer
  std::map<ProcessId, SimProcess> processes_;
  std::unordered_map<uint64_t, SimTask> tasks_;
  uint64_t next_task_ = 1, busy_ = 0;
  uint32_t drivers_started_ = 0, drivers_alive_ = 0;
  Time last_work_{0};
  std::map<ActorId, uint32_t> started_;             // highest incarnation ever started
  bool faults_on_ = true;
};

}  // namespace sheaf::sim
