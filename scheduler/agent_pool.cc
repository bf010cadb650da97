// The agent's worker pool: who is idle, who is started, who has to go.
#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "scheduler/agent.h"

namespace sheaf::scheduler {

using protocol::ErrorKind;
using protocol::ErrorRecord;

namespace {
constexpr uint32_t kMaxBackoffShift = 6;
}

void Agent::on(const WorkerRegistered& event) {
  if (workers_.contains(event.process)) return;   // the message came twice
  auto spawn = spawns_.find(event.spawn_token);
  if (spawn == spawns_.end()) {
    out_.push_back(KillWorker{
        event.process, {ErrorKind::kSystem, "the worker registered too late or twice", "", {}}});
    return;
  }
  const PoolKey key = spawn->second.key;
  spawns_.erase(spawn);
  backoff_.erase(key);
  WorkerInfo& worker = workers_[event.process];
  worker.process = event.process;
  worker.key = key;
  worker.since = now_;
  make_idle(worker);
}

void Agent::on(const WorkerSpawnFailed& event) { spawn_failed(event.spawn_token, event.error); }

void Agent::spawn_failed(uint64_t token, const ErrorRecord& error) {
  auto spawn = spawns_.find(token);
  if (spawn == spawns_.end()) return;
  const PoolKey key = spawn->second.key;
  spawns_.erase(spawn);
  SpawnBackoff& backoff = backoff_[key];
  ++backoff.failures;
  backoff.not_before =
      now_ + config_.spawn_retry * (1 << std::min(backoff.failures - 1, kMaxBackoffShift));
  if (error.kind == ErrorKind::kRuntimeEnvSetup || backoff.failures >= config_.spawn_attempts) {
    backoff_.erase(key);
    fail_key(key, error);
  }
  forget_job_if_done(key.job);
  dirty_ = true;
}

// Nobody who waits for such a worker will get one.
void Agent::fail_key(const PoolKey& key, const ErrorRecord& error) {
  prestart_.erase(key);
  std::vector<FlowKey> refused;
  for (const auto& [flow_key, flow] : flows_) {
    if (flow.backlog > 0 && flow.key == key) refused.push_back(flow_key);
  }
  for (const FlowKey& flow_key : refused) refuse(flow_key, error);
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    auto actor = actors_.find(it->second.actor);
    if (actor == actors_.end() ||
        PoolKey{actor->second.job, actor->second.spec->placement.language,
                actor->second.spec->placement.runtime_env} != key) {
      ++it;
      continue;
    }
    tell(ActorPlaceFailed{actor->first, actor->second.incarnation, error});
    actors_.erase(actor);
    it = waiting_.erase(it);
  }
}

WorkerInfo* Agent::idle_worker(const PoolKey& key, const Devices& devices, const Binding& binding,
                               ProcessId client) {
  WorkerInfo* best = nullptr;
  for (auto& [process, worker] : workers_) {
    if (worker.state != WorkerState::kIdle || worker.key != key || worker.kill_sent) continue;
    if (process == client) continue;
    // A process that has opened devices cannot change them, nor forget them; one in which code
    // has run without any may have found out that there are none.
    if (worker.devices != devices && (worker.used || !worker.devices.empty())) continue;
    // One whose memory is near the CPUs; fresh ones are kept for those who need them.
    const auto rank = [&](const WorkerInfo& w) {
      return std::tuple(w.devices == devices, w.bound == binding.cpus, w.used, w.since);
    };
    if (!best || rank(worker) > rank(*best)) best = &worker;
  }
  return best;
}

// Of a lease's worker, or of an actor for as long as it lives.
Binding Agent::binding_for(const ResourceMap& request, const Devices& devices) const {
  if (!binder_.active()) return {};
  auto gpus = devices.find(std::string(kGpu));
  return binder_.choose(amount_of(request, kCpu),
                        gpus == devices.end() ? std::vector<uint32_t>() : gpus->second);
}

// What the daemon has to do about it; nothing when the worker runs there already.
std::optional<CpuList> Agent::bind(WorkerInfo& worker, Holding& holding, Binding binding) {
  binder_.take(binding);
  holding.binding = std::move(binding);
  if (worker.bound == holding.binding.cpus) return std::nullopt;
  return worker.bound = holding.binding.cpus;
}

void Agent::occupy(WorkerInfo& worker, WorkerState state, const Devices& devices) {
  worker.state = state;
  worker.devices = devices;
  worker.used |= state == WorkerState::kLeased || state == WorkerState::kActor;
  worker.blocked = false;
  worker.since = now_;
  worker.lease = 0;
  worker.actor = {};
  worker.actor_incarnation = 0;
}

void Agent::make_idle(WorkerInfo& worker) {
  occupy(worker, WorkerState::kIdle, worker.devices);
  if (ended_jobs_.contains(worker.key.job) && !key_is_wanted(worker.key)) {
    kill(worker, {ErrorKind::kSystem, "its job has ended", "", {}});
  }
  dirty_ = true;
}

void Agent::kill(WorkerInfo& worker, ErrorRecord cause) {
  if (worker.state == WorkerState::kDying || std::exchange(worker.kill_sent, true)) return;
  out_.push_back(KillWorker{worker.process, std::move(cause)});
}

void Agent::worker_died(WorkerInfo& worker, const ProcessDied& event) {
  if (worker.state == WorkerState::kLeased) {
    worker.remains = end_lease(worker.lease);
  } else if (worker.state == WorkerState::kActor) {
    auto actor = actors_.find(worker.actor);
    SHEAF_CHECK(actor != actors_.end() && actor->second.worker == worker.process);
    worker.remains = std::move(actor->second.holding);
    note_turn(worker.key, &Turnover::ended);
    tell(ActorLost{actor->first, actor->second.incarnation, event.cause});
    actors_.erase(actor);
  }
  lend_cpu(worker.remains);
  occupy(worker, WorkerState::kDying, worker.devices);
  dirty_ = true;
  if (event.reaped) on(ProcessReaped{event.process});
}

void Agent::lend_cpu(Holding& holding) {
  const ResourceAmount cpu = amount_of(holding.allocation.resources, kCpu);
  if (cpu == holding.lent_cpu) return;
  // Its threads are others' meanwhile. A share of a NUMA node is not: it will go on there.
  if (holding.lent_cpu == 0 && holding.binding.exclusive) binder_.give_back(holding.binding);
  pool_of(holding)->lend(kCpu, cpu - holding.lent_cpu);
  holding.lent_cpu = cpu;
}

void Agent::take_cpu_back(Holding& holding) {
  if (holding.lent_cpu == 0) return;
  pool_of(holding)->take_back(kCpu, holding.lent_cpu);
  if (holding.binding.exclusive) binder_.take(holding.binding);
  holding.lent_cpu = 0;
}

Holding* Agent::holding_of(const WorkerInfo& worker) {
  if (worker.state == WorkerState::kLeased) return &leases_.at(worker.lease).holding;
  if (worker.state == WorkerState::kActor) return &actors_.at(worker.actor).holding;
  return nullptr;
}

// A worker that submitted tasks of its own may still have to publish their results.
bool Agent::has_client_work(ProcessId process) const {
  auto it = flows_.lower_bound({process, 0});
  return it != flows_.end() && it->first.first == process;
}

void Agent::trim_idle() {
  std::vector<WorkerInfo*> idle;
  for (auto& [process, worker] : workers_) {
    if (worker.state == WorkerState::kIdle && !worker.kill_sent) idle.push_back(&worker);
  }
  std::stable_sort(idle.begin(), idle.end(), [](auto* a, auto* b) { return a->since < b->since; });
  const size_t warm = config_.warm_workers ? config_.warm_workers : cpu_count();
  size_t left = idle.size();
  for (WorkerInfo* worker : idle) {
    if (now_ - worker->since < config_.idle_timeout || has_client_work(worker->process)) continue;
    if (left <= warm && !ended_jobs_.contains(worker->key.job)) continue;
    --left;
    occupy(*worker, WorkerState::kExiting, worker->devices);
    out_.push_back(ExitWorker{worker->process, true, "idle"});
  }
}

void Agent::check_deadlines() {
  for (auto& [process, worker] : workers_) {
    if (worker.state != WorkerState::kExiting || now_ - worker.since < config_.exit_grace) continue;
    if (has_client_work(process)) worker.since = now_;
    else kill(worker, {ErrorKind::kSystem, "told to exit, but it did not", "", {}});
  }
  std::vector<uint64_t> late;
  for (const auto& [token, spawn] : spawns_) {
    if (now_ - spawn.started >= config_.spawn_timeout) late.push_back(token);
  }
  for (uint64_t token : late) {
    spawn_failed(token, {ErrorKind::kSystem, "a new worker did not register in time", "", {}});
  }
}

void Agent::spawn(const PoolKey& key) {
  const uint64_t token = next_token_++;
  spawns_[token] = {key, now_};
  out_.push_back(SpawnWorker{token, key});
}

bool Agent::key_is_wanted(const PoolKey& key) const {
  for (const auto& [order, wait] : waiting_) {
    auto actor = actors_.find(wait.actor);
    if (actor != actors_.end() && actor->second.job == key.job) return true;
  }
  return std::any_of(flows_.begin(), flows_.end(), [&](const auto& entry) {
    return entry.second.backlog > 0 && entry.second.key == key;
  });
}

// Below the process limit, or made so by sending an idle worker of another kind away (then the
// room comes when it has gone).
bool Agent::make_room_for_worker() {
  if (workers_.size() + spawns_.size() < config_.max_workers) return true;
  WorkerInfo* oldest = nullptr;
  for (auto& [process, worker] : workers_) {
    if (worker.state == WorkerState::kExiting) return false;   // room is coming
    if (worker.state != WorkerState::kIdle || worker.kill_sent) continue;
    if (has_client_work(process)) continue;
    if (!oldest || worker.since < oldest->since) oldest = &worker;
  }
  if (oldest) {
    occupy(*oldest, WorkerState::kExiting, oldest->devices);
    out_.push_back(ExitWorker{oldest->process, true, "another kind of worker is needed"});
  }
  return false;
}

uint32_t Agent::cpu_count() const {
  return static_cast<uint32_t>(
      std::max<ResourceAmount>(1, amount_of(pool_.total(), kCpu) / kResourceUnit));
}

uint32_t Agent::spawn_limit() const {
  return config_.max_spawns_in_flight ? config_.max_spawns_in_flight : std::max(2u, cpu_count());
}

// Detached actors outlive their job, but nobody starts more of them.
void Agent::note_turn(const PoolKey& key, std::deque<Time> Turnover::* which) {
  if (config_.spare_workers == 0 || ended_jobs_.contains(key.job)) return;
  std::deque<Time>& times = turnover_[key].*which;
  times.push_back(now_);
  if (times.size() > config_.spare_workers) times.pop_front();
}

// As many as have come and gone lately, whichever is less: who starts its actors once gets none.
uint32_t Agent::spares_wanted(const Turnover& turnover) const {
  const auto recent = [&](const std::deque<Time>& times) {
    return std::count_if(times.begin(), times.end(),
                         [&](Time at) { return now_ - at <= config_.spare_window; });
  };
  return static_cast<uint32_t>(std::min(recent(turnover.placed), recent(turnover.ended)));
}

void Agent::on(const EndJob& message) {
  const JobId job = message.job;
  ended_jobs_.insert(job);
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    auto actor = actors_.find(it->second.actor);
    const bool drop = actor != actors_.end() && actor->second.job == job &&
                      !actor->second.spec->detached;
    if (drop) actors_.erase(actor);
    it = drop ? waiting_.erase(it) : std::next(it);
  }
  const std::set<ProcessId> kept = workers_of_detached_actors(job);
  for (auto& [process, worker] : workers_) {
    if (worker.key.job != job || kept.contains(process)) continue;
    kill(worker, {ErrorKind::kOwnerDied, "the job has ended", "", {}});
  }
  for (auto it = flows_.begin(); it != flows_.end();) {
    const bool stays = it->second.job != job || is_live_client(it->first.first, job);
    if (!stays) {
      it->second.backlog = 0;
      withdraw_asks(it->first, it->second);
    }
    const bool held = it->second.held > 0 || !it->second.held_at.empty();
    it = !stays && !held ? flows_.erase(it) : std::next(it);
  }
  std::erase_if(prestart_, [&](const auto& entry) { return entry.first.job == job; });
  std::erase_if(turnover_, [&](const auto& entry) { return entry.first.job == job; });
  std::erase_if(backoff_, [&](const auto& entry) { return entry.first.job == job; });
  forget_job_if_done(job);
  dirty_ = true;
}

// Detached actors of the job, the workers that they lease, and so on.
std::set<ProcessId> Agent::workers_of_detached_actors(JobId job) const {
  std::set<ProcessId> kept;
  for (const auto& [id, actor] : actors_) {
    if (actor.job == job && actor.worker && actor.spec->detached) kept.insert(actor.worker);
  }
  for (size_t before = 0; before != kept.size();) {
    before = kept.size();
    for (const auto& [id, lease] : leases_) {
      if (kept.contains(lease.client)) kept.insert(lease.worker);
    }
  }
  return kept;
}

void Agent::forget_job_if_done(JobId job) {
  if (!ended_jobs_.contains(job)) return;
  for (const auto& [process, worker] : workers_) {
    if (worker.key.job == job) return;
  }
  for (const auto& [token, spawn] : spawns_) {
    if (spawn.key.job == job) return;
  }
  for (const auto& [id, actor] : actors_) {
    if (actor.job == job) return;
  }
  ended_jobs_.erase(job);
  std::erase_if(backoff_, [&](const auto& entry) { return entry.first.job == job; });
  std::erase_if(turnover_, [&](const auto& entry) { return entry.first.job == job; });
}

}  // namespace sheaf::scheduler
