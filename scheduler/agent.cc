// The agent's events about leases and clients. Workers: agent_pool.cc; actors and groups:
// agent_placement.cc; who gets what: agent_schedule.cc and agent_fairness.cc.
#include "scheduler/agent.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace sheaf::scheduler {

SHEAF_DEFINE_VARIANT(AgentEvent)
SHEAF_DEFINE_VARIANT(AgentAction)

using protocol::ErrorKind;
using protocol::ErrorRecord;
using protocol::StrategyKind;

Agent::Agent(AgentConfig config)
    : config_(std::move(config)), pool_(config_.total),
      binder_(config_.topology, config_.binding), cluster_(config_.number) {
  pool_.set_distances(config_.topology);
}

AgentActions Agent::handle(const AgentEvent& event, Time now) {
  now_ = std::max(now_, now);
  std::visit([this](const auto& e) { on(e); }, event);
  if (dirty_) schedule();
  report_resources();
  return std::exchange(out_, {});
}

void Agent::on(const LeaseRequested& event) {
  if (!is_live_client(event.client, event.job)) return;
  const FlowKey key{event.client, event.class_id};
  if (event.backlog == 0) {
    if (auto it = flows_.find(key); it != flows_.end()) {
      it->second.backlog = 0;
      withdraw_asks(key, it->second);
      forget_flow_if_done(key);
    }
    stop_looking();
    return;
  }
  FlowInfo& flow = flows_[key];
  if (flow.backlog == 0) {
    flow.waiting_since = flow.last_recall = now_;
    flow.next_warning = now_;
    flow.elsewhere_until = {};
  }
  flow.job = event.job;
  flow.spec = event.spec;
  flow.key = {event.job, event.spec.language, event.spec.runtime_env};
  flow.backlog = event.backlog;
  flow.bytes_at = event.bytes_at;
  if (Status valid = validate_resources(flow.spec.resources); !valid.is_ok()) {
    refuse(key, {ErrorKind::kUnschedulable, std::string(valid.message()), "", {}});
    return;
  }
  if (belongs_elsewhere(flow.spec.strategy) && config_.number == 0) {
    refuse(key, {ErrorKind::kUnschedulable,
                 fmt::format("node {} is not part of this cluster", flow.spec.strategy.node), "",
                 {}});
    return;
  }
  ask_about_group(flow.spec.strategy);
  dirty_ = true;
}

void Agent::on(const LeaseReturned& event) {
  if (auto remote = remote_leases_.find(event.lease); remote != remote_leases_.end()) {
    if (remote->second.client != event.client) return;
    out_.push_back(ReturnToNode{remote->second.number, event});
    return end_remote_lease(event.lease);
  }
  auto it = leases_.find(event.lease);
  if (it == leases_.end() || it->second.client != event.client) return;
  WorkerInfo& worker = workers_.at(it->second.worker);
  Holding holding = end_lease(event.lease);
  worker.blocked = false;
  if (event.worker_exits || worker.kill_sent) {
    // Its memory and devices are free only when it is gone.
    lend_cpu(holding);
    worker.remains = std::move(holding);
    occupy(worker, WorkerState::kExiting, worker.devices);
  } else {
    give_back(holding);
    make_idle(worker);
  }
  dirty_ = true;
}

void Agent::on(const WorkerBlocked& event) {
  auto it = workers_.find(event.process);
  if (it == workers_.end() || it->second.blocked) return;
  it->second.blocked = true;
  if (Holding* holding = holding_of(it->second)) lend_cpu(*holding);
  dirty_ = true;
}

void Agent::on(const WorkerUnblocked& event) {
  auto it = workers_.find(event.process);
  if (it == workers_.end() || !it->second.blocked) return;
  it->second.blocked = false;
  if (Holding* holding = holding_of(it->second)) take_cpu_back(*holding);
}

void Agent::on(const ProcessDied& event) {
  drop_remote_state(event.process);
  drop_client(event.process);
  auto it = workers_.find(event.process);
  if (it != workers_.end()) worker_died(it->second, event);
}

void Agent::on(const ProcessReaped& event) {
  auto it = workers_.find(event.process);
  if (it == workers_.end() || it->second.state != WorkerState::kDying) return;
  give_back(it->second.remains);
  const JobId job = it->second.key.job;
  workers_.erase(it);
  forget_job_if_done(job);
  dirty_ = true;
}

void Agent::on(const KillRequested& event) {
  auto it = workers_.find(event.process);
  if (it == workers_.end() || it->second.key.job != event.job) return;
  kill(it->second, {ErrorKind::kWorkerCrashed, "killed: its task was cancelled by force", "", {}});
}

void Agent::on(const Prestart& event) {
  prestart_[event.key] = std::min(event.count, config_.max_workers);
  dirty_ = true;
}

void Agent::on(const CapacityChanged& event) {
  pool_.change_total(event.total);
  config_.total = event.total;
  config_.labels = event.labels;
  for (auto& [key, flow] : flows_) flow.infeasible = false;
  for (auto& [order, wait] : waiting_) wait.infeasible = false;
  dirty_ = true;
}

void Agent::on(const DrainRequested&) {
  draining_ = true;
  dirty_ = true;
  for (auto& [id, lease] : leases_) {
    if (std::exchange(lease.recalled, true)) continue;
    ++flows_.at({lease.client, lease.class_id}).recalled;
    out_.push_back(RecallLease{lease.client, id});
  }
  leave_bundles();
}

void Agent::on(const FromController& event) {
  std::visit([this](const auto& message) { on(message); }, event.message);
}

void Agent::on(const Tick&) {
  check_deadlines();
  trim_idle();
  relieve_starved();
  dirty_ = true;
}

Holding Agent::end_lease(uint64_t id) {
  auto it = leases_.find(id);
  SHEAF_CHECK(it != leases_.end());
  const FlowKey key{it->second.client, it->second.class_id};
  FlowInfo& flow = flows_.at(key);
  SHEAF_CHECK(flow.held > 0);
  --flow.held;
  if (it->second.recalled) --flow.recalled;
  Holding holding = std::move(it->second.holding);
  leases_.erase(it);
  forget_flow_if_done(key);
  return holding;
}

// Leased workers may be in the middle of the dead client's tasks: they are killed, and their
// leases end when they are gone.
void Agent::drop_client(ProcessId client) {
  stop_looking();
  for (auto it = flows_.lower_bound({client,
                                    0}); it != flows_.end() && it->first.first == client;) {
    it->second.backlog = 0;
    withdraw_asks(it->first, it->second);
    it = it->second.held == 0 ? flows_.erase(it) : std::next(it);
  }
  for (auto& [id, lease] : leases_) {
    if (lease.client != client) continue;
    kill(workers_.at(lease.worker), {ErrorKind::kOwnerDied, "the caller's process died", "", {}});
  }
}

void Agent::forget_flow_if_done(const FlowKey& key) {
  auto it = flows_.find(key);
  if (it == flows_.end()) return;
  const FlowInfo& flow = it->second;
  const bool done = flow.backlog == 0 && flow.held == 0 && flow.asked.empty();
  if (done && flow.held_at.empty()) flows_.erase(it);
}

void Agent::refuse(const FlowKey& key, ErrorRecord error) {
  FlowInfo& flow = flows_.at(key);
  flow.backlog = 0;
  withdraw_asks(key, flow);
  out_.push_back(RefuseLease{key.first, key.second, std::move(error)});
  forget_flow_if_done(key);
}

bool Agent::belongs_elsewhere(const protocol::Strategy& strategy) const {
  return strategy.kind == StrategyKind::kNodeAffinity && !strategy.soft &&
         strategy.node != to_hex(config_.node);
}

// After its job's end only detached actors' processes are clients, and not when they are dying.
bool Agent::is_live_client(ProcessId client, JobId job) const {
  if (is_remote(client)) return true;   // its own node knows, and says when it dies
  auto worker = workers_.find(client);
  if (worker != workers_.end()) {
    return !worker->second.kill_sent && worker->second.state != WorkerState::kDying;
  }
  return !ended_jobs_.contains(job);
}

}  // namespace sheaf::scheduler
