// One scheduling pass: actors and groups in the order in which they came, then leases in turns.
#include <algorithm>

#include "scheduler/agent.h"

namespace sheaf::scheduler {

// What one pass has learned. Resources for workers that are still to come are taken for the length
// of the pass, so that those further back in the queue do not slip past, and given back at its end.
struct Agent::Pass {
  std::map<PoolKey, uint32_t> spawns_needed;
  uint32_t planned = 0;
  std::vector<Holding> tentative;
  std::set<FlowKey> passed_over;
  std::map<ProcessId, uint32_t> client_leases;
  std::map<FlowKey, uint32_t> promised;   // grants that wait for such a worker
  std::set<std::string> kept_back;   // resources that a starved actor or group collects
};

void Agent::schedule() {
  dirty_ = false;
  Pass pass;
  for (const auto& [key, flow] : flows_) pass.client_leases[key.first] += flow.held;
  place_waiting(pass);
  std::map<uint16_t, ResourceMap> free_elsewhere;
  look_whether_to_plan();
  spill_over(true, pass.promised, free_elsewhere);
  grant_leases(pass);
  spill_over(false, pass.promised, free_elsewhere);
  request_spawns(pass);
  for (Holding& holding : pass.tentative) give_back(holding);
  wanted_ = wanted_room();
  named_ = named_nodes();
  warn_waiting();
  dirty_ = false;
}

void Agent::place_waiting(Pass& pass) {
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    WaitingPlacement& wait = it->second;
    bool done = false;
    if (auto actor = actors_.find(wait.actor); actor != actors_.end()) {
      done = place_actor(pass, actor->first, actor->second);
    } else {
      done = try_reserve(wait);
    }
    if (!done && wait.hold_until > now_) {
      for (const auto& [name, amount] : shortage(wanted_by(wait), pool_.available())) {
        pass.kept_back.insert(name);
      }
    }
    it = done ? waiting_.erase(it) : std::next(it);
  }
}

// True when it is off the queue.
bool Agent::place_actor(Pass& pass, ActorId id, PlacedActor& actor) {
  const protocol::SchedulingClass& placement = actor.spec->placement;
  std::optional<Holding> holding = take(actor.request, placement.strategy);
  if (!holding) return false;
  const PoolKey key{actor.job, placement.language, placement.runtime_env};
  const Devices devices = holding->allocation.devices();
  Binding binding = binding_for(placement.resources, devices);
  WorkerInfo* worker = idle_worker(key, devices, binding);
  if (!worker) {
    plan_spawn(pass, key, std::move(*holding));
    return false;
  }
  occupy(*worker, WorkerState::kActor, devices);
  note_turn(key, &Turnover::placed);
  worker->actor = id;
  worker->actor_incarnation = actor.incarnation;
  actor.worker = worker->process;
  actor.holding = std::move(*holding);
  std::optional<CpuList> bound = bind(*worker, actor.holding, std::move(binding));
  tell(ActorAssigned{id, actor.incarnation, worker->process});
  out_.push_back(StartActor{id, actor.incarnation, actor.job, worker->process, devices, actor.spec,
                            std::move(bound)});
  return true;
}

void Agent::grant_leases(Pass& pass) {
  while (std::optional<FlowKey> key = next_in_turn(pass)) {
    if (try_grant(pass, *key, flows_.at(*key))) ++pass.client_leases[key->first];
    else pass.passed_over.insert(*key);
  }
}

namespace {
uint32_t promised_to(const std::map<FlowKey, uint32_t>& promised, const FlowKey& key) {
  auto it = promised.find(key);
  return it == promised.end() ? 0 : it->second;
}
}  // namespace

// The client with the fewest leases, then its class with the fewest, then who had none longest.
std::optional<FlowKey> Agent::next_in_turn(const Pass& pass) const {
  std::optional<FlowKey> best;
  std::tuple<uint32_t, uint32_t, uint64_t> best_rank;
  for (const auto& [key, flow] : flows_) {
    const uint32_t promised = promised_to(pass.promised, key);
    if (flow.backlog <= promised + left_to_others(key.first, flow)) continue;
    if (pass.passed_over.contains(key)) continue;
    const std::tuple rank(pass.client_leases.at(key.first), flow.held + promised, flow.last_grant);
    if (!best || rank < best_rank) {
      best = key;
      best_rank = rank;
    }
  }
  return best;
}

bool Agent::try_grant(Pass& pass, const FlowKey& key, FlowInfo& flow) {
  const ResourceMap& request = flow.spec.resources;
  if (belongs_elsewhere(flow.spec.strategy)) return false;
  const bool in_group = flow.spec.strategy.kind == protocol::StrategyKind::kPlacementGroup;
  if (!in_group) {
    for (const auto& [name, amount] : request) {
      if (amount > 0 && pass.kept_back.contains(name)) return false;
    }
  }
  const bool metered = amount_of(request, kCpu) > 0;
  const bool above_pace =
      !metered && flow.held + promised_to(pass.promised, key) >= spawn_limit();
  if (above_pace && now_ < flow.next_unmetered) return false;
  std::optional<Holding> holding = take(request, flow.spec.strategy);
  if (!holding) return false;
  if (above_pace) flow.next_unmetered = now_ + config_.unmetered_pace;
  const Devices devices = holding->allocation.devices();
  Binding binding = binding_for(request, devices);
  if (WorkerInfo* worker = idle_worker(flow.key, devices, binding, key.first)) {
    grant(key, flow, *worker, std::move(*holding), std::move(binding));
    return true;
  }
  if (!plan_spawn(pass, flow.key, std::move(*holding))) return false;
  ++pass.promised[key];
  return true;
}

void Agent::grant(const FlowKey& key, FlowInfo& flow, WorkerInfo& worker, Holding holding,
                  Binding binding) {
  const uint64_t id = uint64_t{config_.number} << 48 | next_lease_++;
  Devices devices = holding.allocation.devices();
  occupy(worker, WorkerState::kLeased, devices);
  worker.lease = id;
  std::optional<CpuList> bound = bind(worker, holding, std::move(binding));
  leases_[id] = {id, key.first, key.second, flow.job, worker.process, std::move(holding), false,
  now_};
  ++flow.held;
  --flow.backlog;
  flow.last_grant = next_grant_++;
  spread_turn_ = config_.number;
  flow.waiting_since = flow.last_recall = now_;
  flow.infeasible = false;
  out_.push_back(GrantLease{key.first, key.second, id, worker.process, std::move(devices),
                            std::move(bound)});
}

// True when a worker of this kind will come: its resources are kept for the rest of the pass.
bool Agent::plan_spawn(Pass& pass, const PoolKey& key, Holding holding) {
  auto backoff = backoff_.find(key);
  const bool failing = backoff != backoff_.end() && now_ < backoff->second.not_before;
  if (failing || pass.planned >= spawn_limit()) {
    give_back(holding);
    return false;
  }
  ++pass.spawns_needed[key];
  ++pass.planned;
  pass.tentative.push_back(std::move(holding));
  return true;
}

uint32_t Agent::starting(const PoolKey& key) const {
  return static_cast<uint32_t>(std::count_if(
      spawns_.begin(), spawns_.end(), [&](const auto& s) { return s.second.key == key; }));
}

// `wanted`: in all, those that are starting included.
void Agent::start_up_to(const PoolKey& key, uint32_t wanted) {
  auto backoff = backoff_.find(key);
  if (backoff != backoff_.end() && now_ < backoff->second.not_before) return;
  for (uint32_t have = starting(key); have < wanted && spawns_.size() < spawn_limit(); ++have) {
    if (!make_room_for_worker()) return;
    spawn(key);
  }
}

void Agent::request_spawns(const Pass& pass) {
  for (const auto& [key, wanted] : pass.spawns_needed) start_up_to(key, wanted);
  for (auto it = prestart_.begin(); it != prestart_.end();) {
    const auto alive = static_cast<uint32_t>(std::count_if(
        workers_.begin(), workers_.end(),
        [&](const auto& w) { return w.second.key == it->first; }));
    if (alive + starting(it->first) >= it->second) {
      it = prestart_.erase(it);
      continue;
    }
    start_up_to(it->first, it->second - alive);
    ++it;
  }
  // Spares wait until nobody waits for a worker.
  if (!turnover_.empty() && pass.spawns_needed.empty()) request_spares();
}

// Where actors come and go, those to come find a worker that has started while the ones before were
// at work. An actor that ends takes its process along, so that without spares each has to wait for
// a new one. Spares that are not used leave as all idle workers do.
void Agent::request_spares() {
  const auto past = [&](const std::deque<Time>& times) {
    return times.empty() || now_ - times.back() > config_.spare_window;
  };
  std::erase_if(turnover_, [&](const auto& entry) {
    return past(entry.second.placed) && past(entry.second.ended);
  });
  for (const auto& [key, turnover] : turnover_) {
    const uint32_t wanted = spares_wanted(turnover);
    if (wanted == 0 || draining_) continue;
    const auto fresh = static_cast<uint32_t>(
        std::count_if(workers_.begin(), workers_.end(), [&, &kind = key](const auto& w) {
          return w.second.state == WorkerState::kIdle && !w.second.used && w.second.key == kind;
        }));
    if (fresh >= wanted) continue;
    // Nobody has to leave for a spare.
    const size_t used = workers_.size() + spawns_.size();
    const size_t room = config_.max_workers - std::min<size_t>(config_.max_workers, used);
    start_up_to(key, static_cast<uint32_t>(std::min<size_t>(wanted - fresh, starting(key) + room)));
  }
}

}  // namespace sheaf::scheduler
