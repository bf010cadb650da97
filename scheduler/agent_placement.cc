// The agent's part of actors and placement groups: what the controller asks for, and the pools
// that leases and actors draw from.
#include <algorithm>

#include "scheduler/agent.h"

namespace sheaf::scheduler {

using protocol::ErrorKind;
using protocol::ErrorRecord;
using protocol::Strategy;
using protocol::StrategyKind;

namespace {

std::optional<std::map<int32_t, Allocation>> take_all(ResourcePool& pool,
                                                      const std::vector<BundleRequest>& bundles) {
  // Big device requests first, or fractions might break up the devices that they need.
  std::vector<const BundleRequest*> order;
  for (const BundleRequest& bundle : bundles) order.push_back(&bundle);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return amount_of(a->resources, kGpu) > amount_of(b->resources, kGpu);
  });
  std::map<int32_t, Allocation> taken;
  for (const BundleRequest* bundle : order) {
    std::optional<Allocation> allocation = pool.take(bundle->resources);
    if (!allocation) {
      for (const auto& [index, part] : taken) pool.give_back(part);
      return std::nullopt;
    }
    taken.emplace(bundle->index, std::move(*allocation));
  }
  return taken;
}

}  // namespace

// Either reading of the spec holds: creation resources alone, or on top of equal lifetime ones.
ResourceMap Agent::creation_request(const protocol::ActorSpec& spec) {
  ResourceMap request = spec.placement.resources;
  for (const auto& [name, amount] : spec.creation_resources) {
    request[name] = std::max(request[name], amount);
  }
  return request;
}

void Agent::tell(AgentReport report) { out_.push_back(ToController{std::move(report)}); }

void Agent::on(const PlaceActor& message) {
  auto existing = actors_.find(message.actor);
  if (existing != actors_.end() && existing->second.incarnation >= message.incarnation) return;
  SHEAF_CHECK(message.spec != nullptr);
  if (message.job_ended) ended_jobs_.insert(message.job);
  if (belongs_elsewhere(message.spec->placement.strategy)) {
    tell(ActorPlaceFailed{message.actor, message.incarnation,
                          {ErrorKind::kUnschedulable,
                           "node " + message.spec->placement.strategy.node +
                               " is not part of this cluster",
                           "", message.actor}});
    return;
  }
  if (existing != actors_.end() && existing->second.worker != 0) {
    // The controller places an incarnation only when the one before is lost.
    tell(ActorPlaceFailed{message.actor, message.incarnation,
                          {ErrorKind::kSystem, "an older incarnation still runs here", "",
                           message.actor}});
    return;
  }
  std::erase_if(waiting_, [&](const auto& w) { return w.second.actor == message.actor; });
  PlacedActor& actor = actors_[message.actor];
  actor.spec = message.spec;
  actor.incarnation = message.incarnation;
  actor.job = message.job;
  actor.restarts = message.restarts;
  actor.request = creation_request(*message.spec);
  WaitingPlacement wait;
  wait.actor = message.actor;
  wait.waiting_since = wait.next_warning = now_;
  wait.next_recall = now_;
  waiting_.emplace(next_order_++, std::move(wait));
  ask_about_group(message.spec->placement.strategy);
  dirty_ = true;
}

void Agent::on(const ActorRunning& message) {
  auto it = actors_.find(message.actor);
  if (it == actors_.end() || it->second.incarnation != message.incarnation) return;
  PlacedActor& actor = it->second;
  if (actor.worker == 0 || std::exchange(actor.running, true)) return;
  const bool blocked = actor.holding.lent_cpu > 0;
  take_cpu_back(actor.holding);
  Allocation& held = actor.holding.allocation;
  Allocation excess;
  for (const auto& [name, amount] : held.resources) {
    const ResourceAmount keep = amount_of(actor.spec->placement.resources, name);
    // Devices that the constructor may have opened stay with the process.
    if (keep < amount && !is_device_resource(name)) excess.resources[name] = amount - keep;
  }
  subtract(held.resources, excess.resources);
  pool_of(actor.holding)->give_back(excess);
  if (blocked) lend_cpu(actor.holding);
  dirty_ = true;
}

void Agent::on(const ReleaseActor& message) {
  auto it = actors_.find(message.actor);
  if (it == actors_.end() || it->second.incarnation != message.incarnation) return;
  PlacedActor& actor = it->second;
  if (actor.worker == 0) {
    std::erase_if(waiting_, [&](const auto& w) { return w.second.actor == message.actor; });
    const JobId job = actor.job;
    actors_.erase(it);
    forget_job_if_done(job);
    dirty_ = true;
    return;
  }
  WorkerInfo& worker = workers_.at(actor.worker);
  if (!message.graceful) kill(worker, message.cause);
  else if (!worker.kill_sent) out_.push_back(ExitWorker{worker.process, true,
                                             message.cause.message});
}

void Agent::on(const TakeBackActor& message) {
  auto it = actors_.find(message.actor);
  if (it == actors_.end() || it->second.incarnation != message.incarnation) return;
  if (it->second.worker != kNoProcess) return;
  std::erase_if(waiting_, [&](const auto& w) { return w.second.actor == message.actor; });
  const JobId job = it->second.job;
  actors_.erase(it);
  tell(ActorTakenBack{message.actor, message.incarnation});
  forget_job_if_done(job);
  dirty_ = true;
}

void Agent::on(const ReserveGroup& message) {
  auto existing = groups_.find(message.group);
  if (existing != groups_.end() && existing->second.attempt == message.attempt) {
    tell(GroupReserved{message.group, message.attempt, !existing->second.releasing});
    return;
  }
  asked_.erase(message.group);
  std::erase_if(waiting_, [&](const auto& w) { return w.second.group == message.group; });
  ResourcePool empty(pool_.total());
  if (draining_ || !take_all(empty, message.bundles)) {
    tell(GroupReserved{message.group, message.attempt, false});
    return;
  }
  WaitingPlacement wait;
  wait.group = message.group;
  wait.attempt = message.attempt;
  wait.bundles = message.bundles;
  wait.waiting_since = now_;
  wait.next_recall = now_;
  waiting_.emplace(next_order_++, std::move(wait));
  dirty_ = true;
}

void Agent::on(const ReleaseGroup& message) {
  asked_.erase(message.group);
  std::erase_if(waiting_, [&](const auto& w) { return w.second.group == message.group; });
  const auto names = [&](const Strategy& strategy) {
    return strategy.kind == StrategyKind::kPlacementGroup && strategy.group == message.group;
  };
  const auto given_up = [&](int32_t bundle) {
    return message.gone || message.bundles.empty() ||
           std::count(message.bundles.begin(), message.bundles.end(), bundle) > 0;
  };
  const auto inside = [&](const Holding& holding) {
    return holding.bundle && holding.bundle->first == message.group &&
           given_up(holding.bundle->second);
  };
  const ErrorRecord removed{ErrorKind::kPlacementGroupRemoved, "its placement group was removed",
  "", {}};
  for (auto& [process, worker] : workers_) {
    const Holding* holding = holding_of(worker);
    if (inside(worker.remains) || (holding && inside(*holding))) kill(worker, removed);
  }
  if (message.gone) {
    group_nodes_.erase(message.group);
    std::vector<FlowKey> refused;
    for (const auto& [key, flow] : flows_) {
      if (flow.backlog > 0 && names(flow.spec.strategy)) refused.push_back(key);
    }
    for (const FlowKey& key : refused) refuse(key, removed);
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      auto actor = actors_.find(it->second.actor);
      if (actor == actors_.end() || !names(actor->second.spec->placement.strategy)) {
        ++it;
        continue;
      }
      tell(ActorPlaceFailed{actor->first, actor->second.incarnation,
                            {ErrorKind::kActorPlacementGroupRemoved, removed.message, "",
                            actor->first}});
      actors_.erase(actor);
      it = waiting_.erase(it);
    }
  }
  if (auto it = groups_.find(message.group); it != groups_.end()) {
    bool all = true;
    for (auto& [index, bundle] : it->second.bundles) {
      bundle.releasing |= given_up(index);
      all = all && bundle.releasing;
    }
    it->second.releasing = all;
    finish_release(message.group);
  }
  dirty_ = true;
}

void Agent::finish_release(PlacementGroupId group) {
  auto it = groups_.find(group);
  if (it == groups_.end()) return;
  const size_t released = std::erase_if(it->second.bundles, [&](const auto& entry) {
    const BundleInfo& bundle = entry.second;
    if (!bundle.releasing || bundle.users > 0) return false;
    SHEAF_CHECK(bundle.pool.unused());
    pool_.give_back(bundle.reserved);
    return true;
  });
  if (released > 0) dirty_ = true;
  if (!it->second.bundles.empty()) return;
  groups_.erase(it);
  // Who asked for it while its last users were dying has had no answer: it may be gone for good.
  const bool wanted =
      std::any_of(flows_.begin(), flows_.end(), [&](const auto& entry) {
        const Strategy& strategy = entry.second.spec.strategy;
        return entry.second.backlog > 0 && strategy.kind == StrategyKind::kPlacementGroup &&
               strategy.group == group;
      }) ||
      std::any_of(actors_.begin(), actors_.end(), [&](const auto& entry) {
        const Strategy& strategy = entry.second.spec->placement.strategy;
        return entry.second.worker == 0 && strategy.kind == StrategyKind::kPlacementGroup &&
               strategy.group == group;
      });
  if (wanted && asked_.insert(group).second) tell(AskGroup{group});
}

// While the node drains nobody gets anything in a bundle: one that is empty is of use elsewhere
// only.
void Agent::leave_bundles() {
  if (!draining_) return;
  std::vector<PlacementGroupId> left;
  for (auto& [id, group] : groups_) {
    BundlesLeft report{id, group.attempt, {}};
    bool all = true;
    for (auto& [index, bundle] : group.bundles) {
      if (bundle.users == 0 && !std::exchange(bundle.releasing, true)) {
        report.bundles.push_back(index);
      }
      all = all && bundle.releasing;
    }
    group.releasing = all;
    if (report.bundles.empty()) continue;
    left.push_back(id);
    tell(std::move(report));
  }
  for (const PlacementGroupId& id : left) finish_release(id);
}

bool Agent::try_reserve(const WaitingPlacement& wait) {
  // An older attempt may still have users; bundles of an earlier one that stay are added to.
  if (auto known = groups_.find(wait.group); known != groups_.end()) {
    if (known->second.releasing) return false;
    for (const BundleRequest& bundle : wait.bundles) {
      if (known->second.bundles.contains(bundle.index)) return false;
    }
  }
  auto taken = take_all(pool_, wait.bundles);
  if (!taken) return false;
  ReservedGroup& group = groups_[wait.group];
  group.attempt = wait.attempt;
  for (auto& [index, allocation] : *taken) {
    ResourcePool pool(allocation);
    pool.set_distances(config_.topology);
    group.bundles.emplace(index, BundleInfo{std::move(allocation), std::move(pool)});
  }
  tell(GroupReserved{wait.group, wait.attempt, true});
  return true;
}

void Agent::ask_about_group(const Strategy& strategy) {
  if (strategy.kind != StrategyKind::kPlacementGroup) return;
  // In a cluster others may have bundles of it too.
  const bool known = config_.number != 0 ? group_nodes_.contains(strategy.group)
                                          : groups_.contains(strategy.group);
  if (known) return;
  if (asked_.insert(strategy.group).second) tell(AskGroup{strategy.group});
}

ResourcePool* Agent::pool_of(const Holding& holding) {
  if (!holding.bundle) return &pool_;
  return &groups_.at(holding.bundle->first).bundles.at(holding.bundle->second).pool;
}

std::optional<Holding> Agent::take(const ResourceMap& request, const Strategy& strategy) {
  if (draining_ || !labels_match(strategy.hard_labels, config_.labels)) return std::nullopt;
  if (strategy.kind != StrategyKind::kPlacementGroup) {
    std::optional<Allocation> allocation = pool_.take(request);
    if (!allocation) return std::nullopt;
    return Holding{std::move(*allocation), std::nullopt, 0, {}};
  }
  auto group = groups_.find(strategy.group);
  if (group == groups_.end() || group->second.releasing) return std::nullopt;
  for (auto& [index, bundle] : group->second.bundles) {
    if (bundle.releasing || (strategy.bundle >= 0 && strategy.bundle != index)) continue;
    std::optional<Allocation> allocation = bundle.pool.take(request);
    if (!allocation) continue;
    ++bundle.users;
    return Holding{std::move(*allocation), std::pair(strategy.group, index), 0, {}};
  }
  return std::nullopt;
}

// What is in use by others; the bundle with the least to wait for speaks for its group.
ResourceMap Agent::lacking(const ResourceMap& request, const Strategy& strategy) const {
  if (strategy.kind != StrategyKind::kPlacementGroup) return shortage(request, pool_.available());
  auto group = groups_.find(strategy.group);
  if (group == groups_.end()) return {};
  std::optional<ResourceMap> least;
  for (const auto& [index, bundle] : group->second.bundles) {
    if (strategy.bundle >= 0 && strategy.bundle != index) continue;
    if (!bundle.pool.feasible(request)) continue;
    ResourceMap here = shortage(request, bundle.pool.available());
    if (!least || here.size() < least->size()) least = std::move(here);
  }
  return least.value_or(ResourceMap{});
}

bool Agent::feasible(const ResourceMap& request, const Strategy& strategy) const {
  if (!labels_match(strategy.hard_labels, config_.labels)) return false;
  if (strategy.kind != StrategyKind::kPlacementGroup) return pool_.feasible(request);
  auto group = groups_.find(strategy.group);
  if (group == groups_.end()) return true;   // pending: its creator is warned, if anyone
  return std::any_of(group->second.bundles.begin(), group->second.bundles.end(),
  [&](const auto& b) {
    return (strategy.bundle < 0 || strategy.bundle == b.first) && b.second.pool.feasible(request);
  });
}

void Agent::give_back(Holding& holding) {
  take_cpu_back(holding);
  pool_of(holding)->give_back(holding.allocation);
  binder_.give_back(holding.binding);
  const auto bundle = holding.bundle;
  holding = {};
  dirty_ = true;
  if (!bundle) return;
  BundleInfo& info = groups_.at(bundle->first).bundles.at(bundle->second);
  SHEAF_CHECK(info.users > 0);
  --info.users;
  finish_release(bundle->first);
  leave_bundles();
}

}  // namespace sheaf::scheduler
