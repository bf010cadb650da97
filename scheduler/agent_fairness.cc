// Recalls for those who starve, warnings for those who wait in vain, the node's report, and when
// the agent wants to be called next.
#include <fmt/format.h>

#include <algorithm>

#include "scheduler/agent.h"

namespace sheaf::scheduler {

using protocol::Strategy;
using protocol::StrategyKind;

ResourceMap Agent::wanted_by(const WaitingPlacement& wait) const {
  if (auto actor = actors_.find(wait.actor); actor != actors_.end()) {
    return actor->second.request;
  }
  ResourceMap sum;
  for (const BundleRequest& bundle : wait.bundles) add(sum, bundle.resources);
  return sum;
}

uint32_t Agent::effective_leases(ProcessId client) const {
  uint32_t sum = 0;
  for (auto it = flows_.lower_bound({client,
                                    0}); it != flows_.end() && it->first.first == client; ++it) {
    sum += it->second.held - it->second.recalled;
  }
  return sum;
}

// Who has nothing may take turns with who has one; otherwise a recall has to make things more even.
bool Agent::may_recall(const FlowKey& victim, const FlowKey* waiter, uint32_t gained) const {
  if (!waiter) return true;
  if (victim == *waiter) return false;
  uint32_t theirs = 0, ours = 0;
  if (victim.first == waiter->first) {
    const FlowInfo& flow = flows_.at(victim);
    theirs = flow.held - flow.recalled;
    ours = flows_.at(*waiter).held;
  } else {
    theirs = effective_leases(victim.first);
    ours = effective_leases(waiter->first);
  }
  ours += gained;
  return ours == 0 ? theirs > 0 : theirs >= ours + 2;
}

// Recalls leases until those on their way back cover `wanted`, which is what is lacking. The
// flow with the most leases gives first, its newest lease first.
uint32_t Agent::recall_for(ResourceMap wanted, const Strategy& strategy, const FlowKey* waiter) {
  const bool in_group = strategy.kind == StrategyKind::kPlacementGroup;
  const auto relevant = [&](const LeaseInfo& lease) {
    const auto& bundle = lease.holding.bundle;
    if (in_group ? !bundle || bundle->first != strategy.group : bundle.has_value()) return false;
    return std::any_of(wanted.begin(), wanted.end(), [&](const auto& lack) {
      const ResourceAmount held = amount_of(lease.holding.allocation.resources, lack.first);
      return lack.second > 0 && (lack.first == kCpu ? held - lease.holding.lent_cpu : held) > 0;
    });
  };
  for (const auto& [id, lease] : leases_) {
    if (lease.recalled && relevant(lease)) subtract(wanted, lease.holding.allocation.resources);
  }
  const auto covered = [&] {
    return std::all_of(wanted.begin(), wanted.end(), [](const auto& e) { return e.second <= 0; });
  };
  uint32_t recalled = 0;
  while (!covered()) {
    LeaseInfo* best = nullptr;
    std::pair<uint32_t, uint64_t> best_rank;
    for (auto& [id, lease] : leases_) {
      const FlowKey flow_key{lease.client, lease.class_id};
      if (lease.recalled || !relevant(lease) || !may_recall(flow_key, waiter, recalled)) continue;
      const FlowInfo& flow = flows_.at(flow_key);
      const std::pair rank(flow.held - flow.recalled, id);
      if (best && rank < best_rank) continue;
      best = &lease;
      best_rank = rank;
    }
    if (!best) break;
    best->recalled = true;
    ++flows_.at({best->client, best->class_id}).recalled;
    ++recalled;
    subtract(wanted, best->holding.allocation.resources);
    out_.push_back(RecallLease{best->client, best->lease});
  }
  return recalled;
}

bool Agent::starving(const FlowKey& key, const FlowInfo& flow) const {
  if (flow.backlog == 0 || flow.infeasible) return false;
  return std::any_of(leases_.begin(), leases_.end(), [&](const auto& entry) {
    return !entry.second.recalled && FlowKey{entry.second.client, entry.second.class_id} != key;
  });
}

void Agent::relieve_starved() {
  for (auto& [order, wait] : waiting_) {
    if (now_ < wait.next_recall || wait.infeasible) continue;
    wait.next_recall = now_ + 2 * config_.hold_window;
    Strategy strategy;
    if (auto actor = actors_.find(wait.actor); actor != actors_.end()) {
      strategy = actor->second.spec->placement.strategy;
    }
    const ResourceMap lack = lacking(wanted_by(wait), strategy);
    if (!lack.empty() && recall_for(lack, strategy, nullptr) > 0) {
      wait.hold_until = now_ + config_.hold_window;
    }
  }
  for (auto& [key, flow] : flows_) {
    if (now_ < flow.last_recall + config_.starve_after || !starving(key, flow)) continue;
    flow.last_recall = now_;
    const ResourceMap one = lacking(flow.spec.resources, flow.spec.strategy);
    if (one.empty()) continue;
    // As many as it could use, in units of its request; fairness stops earlier.
    ResourceMap wanted = one;
    for (uint32_t i = 1; i < std::min(flow.backlog, config_.max_workers); ++i) {
      add(wanted, flow.spec.resources);
    }
    recall_for(std::move(wanted), flow.spec.strategy, &key);
  }
}

std::string Agent::waiting_text(const ResourceMap& request, const Strategy& strategy,
                                std::string_view who, bool infeasible) const {
  if (!infeasible) {
    return fmt::format("{} that needs {} has been waiting for {} s: {} of {} are free. Long-lived "
                       "actors or tasks hold the rest.",
                       who, to_text(request), config_.warn_interval / std::chrono::seconds(1),
                       to_text(pool_.available()), to_text(pool_.total()));
  }
  std::string missing;
  if (!labels_match(strategy.hard_labels, config_.labels)) {
    missing = "no node has the labels that it asks for";
  } else if (strategy.kind == StrategyKind::kPlacementGroup) {
    missing = "no bundle of its placement group is large enough";
  } else {
    missing = fmt::format("this cluster has {} and lacks {}", to_text(pool_.total()),
                          to_text(shortage(request, pool_.total())));
  }
  return fmt::format("{} that needs {} cannot be scheduled: {}. It waits until that changes.", who,
                     to_text(request), missing);
}

void Agent::warn_waiting() {
  for (auto& [key, flow] : flows_) {
    if (flow.backlog == 0 || now_ < flow.next_warning) continue;
    const ResourceMap& request = flow.spec.resources;
    flow.infeasible = !feasible(request, flow.spec.strategy);
    if (is_remote(key.first)) {   // its own node warns it
      flow.next_warning = now_ + config_.warn_interval;
      continue;
    }
    const bool empty_handed = flow.held == 0 && flow.held_at.empty();
    const bool stuck = empty_handed && now_ - flow.waiting_since >= config_.warn_interval;
    const bool hopeless = flow.infeasible && !feasible_elsewhere(request, flow.spec.strategy);
    const bool warned = hopeless || stuck;
    flow.next_warning = (warned ? now_ : flow.waiting_since) + config_.warn_interval;
    if (flow.next_warning <= now_) flow.next_warning = now_ + config_.warn_interval;
    if (!warned) continue;
    out_.push_back(WarnClient{
        key.first, flow.job,
        waiting_text(request, flow.spec.strategy, "A task", hopeless)});
  }
  for (auto& [order, wait] : waiting_) {
    auto actor = actors_.find(wait.actor);
    if (actor == actors_.end() || now_ < wait.next_warning) continue;
    const ResourceMap& request = actor->second.request;
    const Strategy& strategy = actor->second.spec->placement.strategy;
    wait.infeasible = !feasible(request, strategy);
    wait.next_warning = now_ + config_.warn_interval;
    if (!wait.infeasible && now_ - wait.waiting_since < config_.warn_interval) continue;
    const std::string who = fmt::format("An actor of class {}", actor->second.spec->class_name);
    out_.push_back(WarnClient{kNoProcess, actor->second.job,
                              waiting_text(request, strategy, who, wait.infeasible)});
  }
}

void Agent::report_resources() {
  // Who begins to look for room waits for the answer only.
  const bool begins_to_look = reported_wanted_.empty() && !wanted_.empty();
  if (now_ < next_report_ && !begins_to_look) return;
  if (!report_is_due()) return;
  reported_draining_ = draining_;
  reported_available_ = pool_.available();
  reported_total_ = pool_.total();
  reported_wanted_ = wanted_;
  reported_named_ = named_;
  next_report_ = now_ + paced(config_.report_interval, cluster_.nodes().size());
  tell(ReportResources{reported_total_, reported_available_, reported_draining_, reported_wanted_,
                       reported_named_});
}

bool Agent::report_is_due() const {
  return reported_available_ != pool_.available() || reported_total_ != pool_.total() ||
         reported_draining_ != draining_ || reported_wanted_ != wanted_ ||
         reported_named_ != named_;
}

std::optional<Time> Agent::next_tick() const {
  std::optional<Time> next;
  const auto at = [&](Time time) { next = next ? std::min(*next, time) : time; };
  std::vector<Time> idle;
  for (const auto& [process, worker] : workers_) {
    if (worker.kill_sent) continue;
    if (worker.state == WorkerState::kExiting) at(worker.since + config_.exit_grace);
    if (worker.state != WorkerState::kIdle || has_client_work(process)) continue;
    if (ended_jobs_.contains(worker.key.job)) at(worker.since + config_.idle_timeout);
    else idle.push_back(worker.since);
  }
  const size_t warm = config_.warm_workers ? config_.warm_workers : cpu_count();
  if (idle.size() > warm) at(*std::min_element(idle.begin(), idle.end()) + config_.idle_timeout);
  for (const auto& [token, spawn] : spawns_) at(spawn.started + config_.spawn_timeout);
  for (const auto& [key, backoff] : backoff_) {
    if (backoff.not_before > now_) at(backoff.not_before);
  }
  for (const auto& [key, flow] : flows_) {
    if (flow.backlog == 0) continue;
    at(flow.next_warning);
    if (starving(key, flow)) at(flow.last_recall + config_.starve_after);
    if (flow.next_unmetered > now_) at(flow.next_unmetered);
    if (flow.elsewhere_first > 0 && flow.elsewhere_until > now_) at(flow.elsewhere_until);
    if (awaits_its_node(key.first, flow)) at(flow.waiting_since + config_.unknown_node_grace);
    for (const auto& [number, until] : flow.avoid) at(until);
  }
  for (const auto& [order, wait] : waiting_) {
    if (!wait.actor.is_nil()) at(wait.next_warning);   // its creator is warned about a group
    if (!wait.infeasible) at(wait.next_recall);
    if (wait.hold_until > now_) at(wait.hold_until);
  }
  if (report_is_due()) at(next_report_);
  if (plan_waits_) at(next_plan_);
  return next;
}

}  // namespace sheaf::scheduler
