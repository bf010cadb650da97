// One node's daemon: everything that sheafd does between start and end, as glue between the parts
// that decide.
//
// Client messages go to the store, the agent and the controller; their actions come back as
// messages, lanes, processes and journal records. Events of agent and controller are queued and
// handled in order, never from within one another. A client that sends what cannot be decoded loses
// its session, nobody else does. Owned by the loop's thread.
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
#include "launchers/lane_broker.h"
#include "launchers/log_router.h"
#include "launchers/memory_monitor.h"
#include "launchers/metric_table.h"
#include "launchers/node_resources.h"
#include "launchers/session.h"
#include "launchers/task_table.h"
#include "launchers/worker_spawner.h"
#include "objstore/arena.h"
#include "objstore/store.h"
#include "scheduler/agent.h"
#include "scheduler/controller.h"
#include "scheduler/journal.h"

namespace sheaf::launchers {

struct ServiceOptions {
  const Config* config = nullptr;  // outlives the service, as do the next two
  SessionDirectory* session = nullptr;
  EventLoop* loop = nullptr;
  NodeOverrides overrides;
  bool head = true;
  bool embedded = false;  // one driver's cluster: nothing is journaled, it ends with the driver
  pid_t owner_pid = 0;    // embedded: that driver
  std::string worker_program;
  Logger log;
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
  // Starts an interpreter's template process ahead of its first job.
  void warm(const protocol::RegisterJob& job) { spawner_->warm(job); }
  void child_exited(pid_t pid, int status) { spawner_->child_exited(pid, status); }

  const NodeId& node_id() const { return node_id_; }
  std::string cluster_json() const;

 private:
  friend class StateReporter;
  using Event = std::variant<scheduler::AgentEvent, scheduler::ControllerEvent>;
  struct Flush {  // an answer that waits for kFlushDone of others
    ProcessId asker = 0;
    uint64_t request = 0;
    protocol::StateQuery query;
    std::set<ProcessId> awaited;
    EventLoop::TimerId timer = 0;
  };
  struct Fence {  // a client's answer says that it has let go of these peers
    ProcessId client = 0;
    std::vector<ProcessId> gone;
  };

  explicit Service(ServiceOptions options);
  Status create_parts();
  Status create_store();
  Status create_scheduler();

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
  template <class T>
  void send(ProcessId process, protocol::MessageType type, const T& message) {
    if (Client* client = clients_->alive(process)) send(*client, type, message);
  }
  void reply(ProcessId process, uint64_t request, const Status& status,
             const std::string& payload = {});
  std::optional<transport::LaneInfo> connect(Client& from, Client& to);

  // ---- Messages (service_dispatch.cc)
  void dispatch(Client& client, const transport::Message& message);
  bool dispatch_object(Client& client, protocol::MessageType type, uint64_t request,
                       wire::Bytes body);
  bool dispatch_control(Client& client, protocol::MessageType type, uint64_t request,
                        wire::Bytes body);
  bool dispatch_other(Client& client, protocol::MessageType type, uint64_t request,
                      wire::Bytes body);
  template <class T>
  std::optional<T> read(Client& client, wire::Bytes body);
  template <class T>
  void to_controller(Client& client, uint64_t request, wire::Bytes body);
  void register_job(Client& client, uint64_t request, wire::Bytes body);
  void job_registered(Client& client);
  void kill_process(Client& client, uint64_t request, ProcessId target);
  void state_query(Client& client, uint64_t request, protocol::StateQuery query);
  void answer_query(ProcessId asker, uint64_t request, const protocol::StateQuery& query);
  void flush_done(Client& client, uint64_t ticket);
  void finish_flush(uint64_t ticket);
  void space_answer(ProcessId process, uint64_t request, Result<objstore::Locator> answer,
                    bool slab);

  // ---- Actions (service_actions.cc)
  void perform(scheduler::AgentAction& action);
  void perform(scheduler::ControllerAction& action);
  void act(scheduler::SpawnWorker& a);
  void act(scheduler::GrantLease& a);
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
  ProcessId driver_of(JobId job) const;
  void deliver_logs(JobId job, protocol::LogLines lines);

  ServiceOptions options_;
  EventLoop& loop_;
  Logger log_;
  NodeId node_id_;
  NodeOffer offer_;
  std::chrono::system_clock::time_point started_ = std::chrono::system_clock::now();
  std::unique_ptr<transport::LaneRegion> region_;
  std::unique_ptr<objstore::Arena> arena_;
  std::unique_ptr<Clients> clients_;
  std::unique_ptr<LaneBroker> broker_;
  std::unique_ptr<objstore::Store> store_;
  std::unique_ptr<scheduler::Agent> agent_;
  std::unique_ptr<scheduler::Controller> controller_;
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
