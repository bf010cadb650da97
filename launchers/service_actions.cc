// Service: performing what the agent and the controller decided.
#include <fmt/format.h>

#include "launchers/cpu_affinity.h"
#include "launchers/service.h"
#include "launchers/service_send.h"

namespace sheaf::launchers {

using protocol::ErrorKind;
using protocol::ErrorRecord;
using protocol::MessageType;
using scheduler::AgentEvent;
using scheduler::ControllerEvent;

namespace {
constexpr size_t kClusterEventsKept = 1000;
constexpr size_t kLogOverflowMax = 4 << 20;  // waiting in a driver's lane: it does not read them
}

void Service::perform(scheduler::AgentAction& action) {
  std::visit([this](auto& a) { act(a); }, action);
}

void Service::perform(scheduler::ControllerAction& action) {
  std::visit([this](auto& a) { act(a); }, action);
}

// ---- The agent's

void Service::act(scheduler::SpawnWorker& a) {
  auto job = jobs_.find(a.key.job);
  if (job == jobs_.end() || stopping_) {
    ErrorRecord error{ErrorKind::kSystem, "the job is not known", {}, {}};
    return push(AgentEvent(scheduler::WorkerSpawnFailed{a.token, error}));
  }
  trace_.instant("agent", "spawn", a.token);
  spawner_->spawn(a.token, a.key, job->second.spec);
}

// Before anybody is told that it may be used.
void Service::bind(ProcessId process, const std::optional<scheduler::CpuList>& cpus) {
  if (!cpus) return;
  Client* worker = clients_->find(process);
  if (worker == nullptr || worker->dead) return;
  Status bound = run_on(worker->pid, cpus->empty() ? own_cpus_ : *cpus);
  if (bound || bound.code() == StatusCode::kNotFound) return;
  // Its cpuset has changed since we looked, or a sandbox forbids it: it runs where it ran.
  if (!std::exchange(binding_failed_, true)) log_.warning(bound.to_string());
}

void Service::act(scheduler::GrantLease& a) {
  bind(a.worker, a.bind);
  if (!is_here(a.client)) return grant_elsewhere(a);
  Client* client = clients_->alive(a.client);
  if (client == nullptr) return;
  Client* worker = clients_->find(a.worker);
  SHEAF_CHECK(
      worker !=
      nullptr);  // its death is in the agent's queue, and the dead are swept after that has run
  trace_.instant("agent", "lease", a.lease);
  auto lane = connect(*client, *worker);
  if (!lane) {
    ErrorRecord error{ErrorKind::kSystem, "no memory for another lane", {}, {}};
    push(AgentEvent(scheduler::LeaseReturned{a.client, a.lease, false}));
    return send(*client, MessageType::kLeaseRefused, protocol::LeaseRefused{a.class_id, error});
  }
  send(*client, MessageType::kLeaseGrant,
       protocol::LeaseGrant{a.class_id, a.lease, a.worker, *lane, a.devices});
  if (!worker->dead) return;
  // It died while the grant was on its way: the client counts the lease, then loses it, as if it
  // had died later.
  ErrorRecord error{
      ErrorKind::kWorkerCrashed, "the worker died before it could be handed out", {}, {}};
  tell_peer_down(*client, worker->id, error);
  if (worker->reaped) broker_->let_go(worker->id, client->id);
}

// To a client of another node; its daemon makes the lane.
void Service::grant_elsewhere(scheduler::GrantLease& a) {
  uint16_t node = node_of(a.client);
  trace_.instant("agent", "lease", a.lease);
  reached_[a.worker].insert(node);
  tell_node(node, NodeMessageType::kLeaseGrant,
            wire::encode(ForwardedGrant{a.client, a.class_id, a.lease, a.worker, a.devices}));
  Client* worker = clients_->find(a.worker);
  if (worker != nullptr && !worker->dead) return;
  ErrorRecord error{
      ErrorKind::kWorkerCrashed, "the worker died before it could be handed out", {}, {}};
  tell_node(node, NodeMessageType::kProcessGone, wire::encode(ClientWent{a.worker, error}));
}

void Service::act(scheduler::RecallLease& a) {
  send(a.client, MessageType::kLeaseRecall, protocol::LeaseRecall{a.lease});
}

void Service::act(scheduler::RefuseLease& a) {
  if (!is_here(a.client)) {
    return tell_node(node_of(a.client), NodeMessageType::kLeaseRefused,
                     wire::encode(ForwardedRefusal{a.client, a.class_id, a.error}));
  }
  send(a.client, MessageType::kLeaseRefused, protocol::LeaseRefused{a.class_id, a.error});
}

void Service::act(scheduler::StartActor& a) {
  bind(a.worker, a.bind);
  send(a.worker, MessageType::kActorStart,
       protocol::ActorStart{*a.spec, a.incarnation, a.job, a.devices});
}

void Service::act(scheduler::KillWorker& a) {
  if (Client* client = clients_->find(a.process)) clients_->kill(*client, a.cause);
}

void Service::act(scheduler::ExitWorker& a) {
  send(a.process, MessageType::kExit, protocol::Exit{a.graceful, a.reason});
}

void Service::act(scheduler::WarnClient& a) {
  Client* client = clients_->alive(a.process);
  bool is_driver = client != nullptr && client->kind == protocol::ClientKind::kDriver;
  ProcessId to = is_driver ? a.process : driver_of(a.job);
  log_.warning(a.text);
  note_event("WARNING", "SCHEDULER", a.text);
  send(to, MessageType::kWarning, protocol::Warning{a.text});
}

void Service::act(scheduler::ToController& a) {
  if (controller_)
    return push(ControllerEvent(scheduler::FromNode{node_id_, std::move(a.report)}));
  tell_node(kHeadNumber, NodeMessageType::kReport, scheduler::encode(a.report));
}

// ---- The controller's

void Service::act(scheduler::AppendJournal& a) {
  journal_->append(a.sequence, std::move(a.records));
}

void Service::act(scheduler::Reply& a) {
  if (Client* to = clients_->alive(a.process); to != nullptr && to->job == 0)
    job_registered(*to, controller_->job_of(to->id));
  reply(a.process, a.request, Status(a.code, a.message), a.payload);
}

void Service::act(scheduler::PushActorUpdate& a) {
  if (!is_here(a.process)) {
    return tell_node(node_of(a.process), NodeMessageType::kActorUpdate,
                     wire::encode(ForwardedUpdate{a.process, a.update}));
  }
  if (!controller_) ledger_.updated(a.process, a.update);
  Client* to = clients_->alive(a.process);
  if (to == nullptr) return;
  if (a.update.state == protocol::ActorState::kAlive) {
    Client* actor = clients_->find(a.update.process);
    bool here = is_here(a.update.process);
    if (here && (actor == nullptr || actor->dead)) return;  // the next update says so
    auto lane = here ? connect(*to, *actor) : connect(*to, a.update.process);
    if (!lane) return;
    a.update.lane = *lane;
  }
  send(*to, MessageType::kActorUpdate, a.update);
}

void Service::act(scheduler::PushGroupUpdate& a) {
  send(a.process, MessageType::kGroupUpdate, a.update);
}

void Service::act(scheduler::WarnJob& a) {
  log_.warning(a.text);
  note_event("WARNING", "SCHEDULER", a.text);
  send(driver_of(a.job), MessageType::kWarning, protocol::Warning{a.text});
}

void Service::act(scheduler::ActorAccepted& a) {
  store_->hold(kDaemonProcess, 0, a.spec->holds, {});
}

void Service::act(scheduler::ActorGone& a) { store_->hold(kDaemonProcess, 0, {}, a.spec->holds); }

void Service::act(scheduler::JobFinished& a) {
  SHEAF_LOG(log_, kInfo, "job {} has ended", a.job);
  note_event("INFO", "JOBS", fmt::format("job {} has ended", a.job));
}

void Service::note_event(std::string_view severity, std::string_view source,
                         std::string message) {
  if (cluster_events_.size() == kClusterEventsKept) cluster_events_.pop_front();
  cluster_events_.push_back(
      {std::chrono::system_clock::now(), severity, source, std::move(message)});
}

ProcessId Service::driver_of(JobId job) const {
  auto it = jobs_.find(job);
  return it == jobs_.end() ? 0 : it->second.driver;
}

void Service::deliver_logs(JobId job, protocol::LogLines lines) {
  auto it = jobs_.find(job);
  if (it == jobs_.end() || !it->second.spec.log_to_driver) return;
  ProcessId driver = it->second.driver;
  if (is_here(driver)) {
    Client* client = clients_->alive(driver);
    if (client == nullptr || client->lane->overflow_bytes() > kLogOverflowMax) return;
  } else if (mesh_ && mesh_->congested(node_of(driver))) {
    return;
  }
  send(driver, MessageType::kLogLines, lines);
}

}  // namespace sheaf::launchers
