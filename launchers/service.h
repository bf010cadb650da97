// One node's daemon: everything that sheafd does between start and end, as glue between the parts
// that decide.
//
// Client messages go to the store, the agent and the controller; their actions come back as
// messages, lanes, processes and journal records. Events of agent and controller are queued and
// handled in order, never from within one another. A client that sends what cannot be decoded loses
// its session, nobody else does. Only the head has a controller; the other nodes' daemons reach it,
// and one another, over the mesh. Owned by the loop's thread.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "core/config.h"
#include "core/event_loop.h"
#include "core/log.h"
#include "core/trace.h"
#include "launchers/clients.h"
#include "launchers/handshake.h"
#include "launchers/head_ledger.h"
#include "launchers/lane_broker.h"
#include "launchers/log_router.h"
#include "launchers/memory_monitor.h"
#include "launchers/mesh.h"
#include "launchers/metric_table.h"
#include "launchers/node_resources.h"
#include "launchers/node_wire.h"
#include "launchers/relays.h"
#include "launchers/session.h"
#include "launchers/task_table.h"
#include "launchers/worker_spawner.h"
#include "objstore/arena.h"
#include "objstore/store.h"
#include "scheduler/agent.h"
#include "scheduler/controller.h"
#include "scheduler/journal.h"
#include "scheduler/node_lease.h"

namespace sheaf::launchers {

inline constexpr auto kShutdownGrace = std::chrono::milliseconds(500);

// What makes a daemon one of several. On the head `number` and `incarnation` are its own business.
struct ClusterOptions {
  transport::ClusterSecret secret;
  std::string secret_file;  // where it is
  transport::FabricAddress listen;
  bool any_host = false;    // nobody has named one: `listen` is as good as another
  uint64_t cluster = 0;     // of a member: SockFabricOptions::cluster
  uint16_t number = 0, incarnation = 0;
  transport::PeerId head;
  transport::FabricAddress head_address;
};

// 128 random bits: one life of a daemon.
NodeId new_node_id();

struct ServiceOptions {
  const Config* config = nullptr;  // outlives the service, as do the next two
  SessionDirectory* session = nullptr;
  EventLoop* loop = nullptr;
  NodeOverrides overrides;
  // Asked once, before the service has threads: it reads the environment.
  std::function<Result<scheduler::Topology>()> topology;
  bool head = true;
  bool embedded = false;  // one driver's cluster: nothing is journaled, it ends with the driver
  pid_t owner_pid = 0;    // embedded: that driver
  std::string worker_program;
  NodeId node_id;                         // nil: a new one
  std::optional<ClusterOptions> cluster;  // nothing: one node, and no socket to any other
  Logger log;
  protocol::RegisterJob warm;  // python and sys_path: whose template is started first of all
};

class Service {
 public:
  static Result<std::unique_ptr<Service>> create(ServiceOptions options);
  ~Service();

  // Opens the door. After it clients may come.
  Status serve();
  // Workers are told to go and are killed after `grace`; then the loop stops.
  void begin_shutdown(const std::string& reason, std::chrono::milliseconds grace);
  // After the loop has stopped: kills what is left, closes store and journal.
  void finish();
  void child_exited(pid_t pid, int status) { spawner_->child_exited(pid, status); }

  const NodeId& node_id() const { return node_id_; }
  std::string cluster_json() const;

 private:
  friend class StateReporter;
  using Event = std::variant<scheduler::AgentEvent, scheduler::ControllerEvent>;
  struct Flush {  // what waits for kFlushDone of processes
    std::function<void()> then;
    std::set<ProcessId> awaited;
    EventLoop::TimerId timer = 0;
  };
  struct Gather {  // an answer that waits for other nodes' parts
    ProcessId asker = 0;
    uint64_t request = 0;
    std::string what;
    std::vector<std::string> parts;
    bool truncated = false;
    std::set<PeerId> awaited;
    uint32_t limit = 0;      // of rows
    bool head_only = false;  // nobody else can answer
    EventLoop::TimerId timer = 0;
  };
  struct Job {  // what this node knows of a job
    protocol::RegisterJob spec;
    ProcessId driver = 0;
  };
  struct Away {  // there is no head
    EventLoop::TimePoint since;
    std::chrono::milliseconds pause;
    EventLoop::TimerId timer = 0;
  };
  struct ClusterEvent {  // what people may want to know afterwards
    std::chrono::system_clock::time_point at;
    std::string_view severity, source;
    std::string message;
  };
  struct Fence {  // a client's answer says that it has let go of these peers
    ProcessId client = 0;
    std::vector<ProcessId> gone;
  };

  explicit Service(ServiceOptions options);
  Status create_parts();
  void create_spawner();
  Status create_controller();
  Status create_store();
  void spread_arena();
  Status create_agent();

  // ---- Rounds (service.cc)
  bool drain_round();
  bool drain_lane(Client& client, size_t budget);
  void arm_timer();
  scheduler::Time now() const { return loop_.now().time_since_epoch(); }
  void push(Event event) { events_.push_back(std::move(event)); }
  void pump();
  void check_memory();
  void await_end(std::vector<pid_t> workers, EventLoop::TimePoint deadline);

  // ---- Clients (service_clients.cc)
  void greet(Greeting greeting);
  void on_dead(Client& client, const protocol::ErrorRecord& cause);
  void on_reaped(Client& client);
  void tell_peer_down(Client& peer, ProcessId gone, const protocol::ErrorRecord& cause);
  void fence(Client& client);
  template <class T>
  void send(Client& client, protocol::MessageType type, const T& message);
  // To a process of any node.
  template <class T>
  void send(ProcessId process, protocol::MessageType type, const T& message);
  void reply(ProcessId process, uint64_t request, const Status& status,
             const std::string& payload = {});
  std::optional<transport::LaneInfo> connect(Client& from, Client& to);

  // ---- Messages (service_dispatch.cc)
  void dispatch(Client& client, const transport::Message& message);
  bool dispatch_object(Client& client, protocol::MessageType type, uint64_t request,
                       wire::Bytes body);
  bool dispatch_control(Client& client, protocol::MessageType type, uint64_t request,
                        wire::Bytes body);
  bool dispatch_lease(Client& client, protocol::MessageType type, uint64_t request,
                      wire::Bytes body);
  bool dispatch_other(Client& client, protocol::MessageType type, uint64_t request,
                      wire::Bytes body);
  template <class T>
  std::optional<T> read(Client& client, wire::Bytes body);
  void job_registered(Client& client, JobId job);
  void kill_process(Client& client, uint64_t request, ProcessId target);
  void kill_worker(ProcessId asker, uint64_t request, JobId job, ProcessId target);
  void space_answer(ProcessId process, uint64_t request, Result<objstore::Locator> answer,
                    bool slab);

  // ---- Questions (service_queries.cc)
  void state_query(Client& client, uint64_t request, protocol::StateQuery query);
  void answer_query(ProcessId asker, uint64_t request, const protocol::StateQuery& query);
  void after_flush(const protocol::StateQuery& query, std::function<void()> then);
  void flush_done(Client& client, uint64_t ticket);
  void finish_flush(uint64_t ticket);
  void remote_query(const PeerId& from, ForwardedQuery question);
  void remote_answer(const PeerId& from, QueryAnswer answer);
  void queries_lost(const PeerId& node);
  void finish_gather(uint64_t ticket);

  // ---- Actions (service_actions.cc)
  void perform(scheduler::AgentAction& action);
  void perform(scheduler::ControllerAction& action);
  void act(scheduler::SpawnWorker& a);
  void bind(ProcessId process, const std::optional<scheduler::CpuList>& cpus);
  void act(scheduler::GrantLease& a);
  void grant_elsewhere(scheduler::GrantLease& a);
  void act(scheduler::RecallLease& a);
  void act(scheduler::RefuseLease& a);
  void act(scheduler::StartActor& a);
  void act(scheduler::KillWorker& a);
  void act(scheduler::ExitWorker& a);
  void act(scheduler::WarnClient& a);
  void act(scheduler::ToController& a);
  void act(scheduler::AppendJournal& a);
  void act(scheduler::Reply& a);
  void act(scheduler::ToNode& a);
  void act(scheduler::PushActorUpdate& a);
  void act(scheduler::PushGroupUpdate& a);
  void act(scheduler::WarnJob& a);
  void act(scheduler::ActorAccepted& a);
  void act(scheduler::ActorGone& a);
  void act(scheduler::JobFinished& a);
  void act(scheduler::NodeAccepted& a);
  void act(scheduler::NodeRefused& a);
  void act(scheduler::RenewLease& a);
  void act(scheduler::FenceNode& a);
  void act(scheduler::AskNode& a);
  void act(scheduler::ReturnToNode& a);

  // ---- Other nodes (service_nodes.cc)
  bool is_here(ProcessId process) const {
    return process <= kDaemonProcess ||
           (node_of(process) == self_.node && incarnation_of(process) == self_.incarnation);
  }
  static ProcessId daemon_of(const PeerId& node) {
    return make_process(static_cast<uint16_t>(node.node), static_cast<uint16_t>(node.incarnation),
                        static_cast<uint32_t>(kDaemonProcess));
  }
  ProcessId head_daemon() const { return daemon_of(options_.cluster->head); }
  Status create_mesh();
  void create_relays();
  void connect_store(objstore::StoreOptions& store);
  void connect_lineage(objstore::StoreOptions& store);
  ProcessId process_of_job(JobId job, const std::set<ProcessId>& tried) const;
  ProcessId find_maker(JobId job, const std::set<ProcessId>& tried) const;
  void hand_task(ProcessId maker, const objstore::TaskRecord& record);
  void task_handed(const PeerId& from, const HandedTask& task);
  void adopter_died(ProcessId process);
  const NodeId* member(const PeerId& peer) const;
  void tell_node(uint32_t node, NodeMessageType type, const std::string& payload) {
    if (mesh_) mesh_->send(node, static_cast<uint16_t>(type), wire::as_bytes(payload));
  }
  void on_node_message(const PeerId& from, uint16_t type, wire::Bytes payload);
  void on_newcomer(const PeerId& from, wire::Bytes payload);
  void answer_newcomer(const NodeId& node, const Status& status, const PeerId& given);
  bool on_member_message(const PeerId& from, NodeMessageType type, wire::Bytes payload);
  bool on_scheduler_message(const PeerId& from, NodeMessageType type, wire::Bytes payload);
  bool on_process_message(const PeerId& from, NodeMessageType type, wire::Bytes payload);
  void complain();
  void on_agent_message(scheduler::NodeMessage message);
  void node_seen(const scheduler::NodeView& node);
  void node_gone(const scheduler::NodeGone& gone);
  bool control_request(const ForwardedRequest& m);
  void node_joins(const PeerId& from, scheduler::NodeJoin join);
  void drain_node(const scheduler::DrainRequest& request);
  void on_record(const RecordHead& head, wire::Bytes bytes);
  void process_gone(ProcessId remote, const protocol::ErrorRecord& cause);
  void remote_grant(uint16_t number, const ForwardedGrant& grant);
  std::optional<transport::LaneInfo> connect(Client& from, ProcessId remote);
  void deliver(const ForProcess& message);
  void announce_death(Client& client, const protocol::ErrorRecord& cause);

  // ---- The head as its members see it, and its next life (service_head.cc)
  void join_cluster();
  void on_silence(const PeerId& peer, bool refused, const Status& why);
  void lose_head(const Status& why);
  void seek_head();
  void head_sought(scheduler::Time sent_at, const Result<PeerId>& found);
  void rejoin(const PeerId& head);
  void on_accepted(scheduler::Time lease);
  void tend_lease();
  void end_node(const std::string& why);
  void tell_drivers(const std::string& text);
  void to_head(const scheduler::ControllerEvent& event, ForwardedRequest request);
  void forward_control(const ForwardedRequest& request);
  void give_up_requests();
  Status create_head_mesh();
  void expect_members();

  ProcessId driver_of(JobId job) const;
  void note_event(std::string_view severity, std::string_view source, std::string message);
  void deliver_logs(JobId job, protocol::LogLines lines);

  ServiceOptions options_;
  EventLoop& loop_;
  Logger log_;
  NodeId node_id_;
  PeerId self_{kHeadNumber, 1};  // number and incarnation
  NodeOffer offer_;
  std::shared_ptr<const scheduler::Topology> topology_;  // null: nothing is bound to CPUs
  scheduler::CpuList own_cpus_;     // what a worker that is not bound may run on
  bool binding_failed_ = false;     // said so once
  std::chrono::system_clock::time_point started_ = std::chrono::system_clock::now();
  std::unique_ptr<transport::LaneRegion> region_;
  std::unique_ptr<objstore::Arena> arena_;
  std::unique_ptr<Clients> clients_;
  std::unique_ptr<LaneBroker> broker_;
  std::unique_ptr<Mesh> mesh_;      // null: one node
  std::unique_ptr<Relays> relays_;  // as mesh_
  std::map<JobId, Job> jobs_;
  std::optional<scheduler::NodeLease> lease_;  // of a member, once it is one
  scheduler::Time joined_at_{0};
  std::map<PeerId, scheduler::Time> silent_since_;  // member: others it cannot reach
  scheduler::Time patience_{0};                // with them, before the head is told
  bool complained_ = false;
  std::optional<Away> away_;                   // member: its head is dead
  bool rejoining_ = false;                     // member: known to no controller of this life yet
  HeadLedger ledger_;                          // member
  std::map<ProcessId, pid_t> remote_pids_;     // head: of the members' processes
  std::map<PeerId, NodeId> members_;           // head: who may speak
  std::map<NodeId, PeerId> newcomers_;         // head: asked for a number
  std::set<PeerId> peers_up_;                  // told to the store
  // Nodes that know of a process of ours, and are told when it has died.
  std::map<ProcessId, std::set<uint16_t>> reached_;
  // Processes that run tasks again for other nodes: whom each of those had asked for.
  std::map<ProcessId, std::set<std::pair<PeerId, ProcessId>>> adopters_;
  std::map<uint64_t, Gather> gathers_;
  std::deque<ClusterEvent> cluster_events_;  // the last kClusterEventsKept
  std::unique_ptr<objstore::Store> store_;
  std::unique_ptr<scheduler::Agent> agent_;
  std::unique_ptr<scheduler::Controller> controller_;  // the head's, as the journal
  std::unique_ptr<scheduler::Journal> journal_;
  std::unique_ptr<LogRouter> logs_;
  std::unique_ptr<WorkerSpawner> spawner_;
  std::unique_ptr<Listener> listener_;
  MemoryMonitor memory_;
  TaskTable tasks_;
  TraceRing trace_;
  MetricTable pushed_metrics_;

  std::deque<Event> events_;
  bool pumping_ = false;
  std::atomic<bool> store_woken_{false};
  EventLoop::TimerId timer_ = 0;
  EventLoop::TimePoint timer_at_{};
  std::set<std::pair<ProcessId, uint64_t>> slab_requests_;
  uint64_t next_ticket_ = 1;
  std::map<uint64_t, Flush> flushes_;
  std::map<uint64_t, Fence> fences_;
  std::map<ProcessId, std::vector<ProcessId>>
      unfenced_;  // client -> peers that died, lanes not given back yet
  EventLoop::TimePoint last_oom_kill_{};
  bool stopping_ = false;
  bool finished_ = false;
  Fd owner_;  // pidfd of the owner
};

}  // namespace sheaf::launchers
