#include "tests/checker/model.h"

#include <fmt/format.h>

#include <algorithm>

namespace sheaf::checker {

using protocol::ActorState;
using protocol::ErrorKind;
using protocol::ErrorRecord;

namespace {

constexpr Time kNever = std::chrono::hours(1000);
constexpr Time kSoon = std::chrono::milliseconds(1);

AgentConfig agent_config(const NodeId& node) {
  AgentConfig config;
  config.node = node;
  config.total = {{"CPU", 2 * kResourceUnit}, {"disk", 10 * kResourceUnit}};
  config.max_spawns_in_flight = 4;
  config.spawn_retry = Time{0};
  config.unmetered_pace = Time{0};
  for (Time* wait : {&config.idle_timeout, &config.starve_after, &config.hold_window,
                     &config.warn_interval, &config.spawn_timeout, &config.exit_grace,
                     &config.report_interval}) {
    *wait = kNever;
  }
  return config;
}

ControllerConfig controller_config() {
  ControllerConfig config;
  config.holder_grace = Time{1};
  config.boot_retry = Time{1};
  config.warn_interval = kNever;
  return config;
}

constexpr const char* kActNames[] = {
    "spawn", "construct", "obey", "message", "sync", "free disk", "spawn fails", "break", "crash",
    "exit", "fill disk", "restart", "join", "driver dies", "create", "drop", "kill", "soft kill",
    "look up", "put", "get", "function"};

}  // namespace

std::string to_text(const Step& step) {
  return fmt::format("{} {} {}", kActNames[static_cast<size_t>(step.act)], step.a, step.b);
}

Model::Model(const Config& config)
    : config_(&config), controller_(controller_config()), agent_(agent_config(kNode)),
      budget_(config.budget) {
  start();
}

void Model::fail(const char* invariant, const std::string& what) {
  if (violation_.empty()) violation_ = fmt::format("{}: {}", invariant, what);
}

bool Model::spend(Budget budget) {
  if (budget_[budget] == 0) return false;
  --budget_[budget];
  return true;
}

// ---- The daemon ---------------------------------------------------------------------------------

void Model::start() {
  for (const ControllerAction& action : controller_.start(now_)) {
    std::visit([this](const auto& a) { perform(a); }, action);
  }
  if (config_->with_node) {
    enqueue(ControllerEvent(NodeJoined{kNode, agent_.config().total, {}}));
  }
  drain();
}

// kill -9 of the daemon: of what it appended, `kept` batches are on disk.
void Model::restart(uint32_t kept) {
  std::erase_if(acked_, [&](const auto& entry) {   // who had died by then owes nobody a life
    auto it = controller_.actors().find(entry.first);
    return it == controller_.actors().end() || it->second.state == ActorState::kDead;
  });
  for (uint32_t i = 0; i < kept; ++i) apply_batch(journal_[i]);
  journal_.clear();
  spawns_.clear();
  processes_.clear();
  agent_queue_.clear();
  controller_queue_.clear();
  controller_ = Controller(controller_config());
  agent_ = Agent(agent_config(kNode));
  std::vector<JournalRecord> records;
  for (const auto& [key, value] : disk_) records.push_back({key.first, key.second, value});
  if (auto strange = controller_.restore(records); !strange.empty()) {
    fail("JournalPrefix", strange.front());
  }
  check_restored();
  start();
}

bool Model::apply_batch(const Batch& batch) {
  const bool creates = std::any_of(batch.records.begin(), batch.records.end(),
                                   [](const JournalRecord& r) { return r.value.has_value(); });
  if (full_ && creates) return false;
  for (const JournalRecord& record : batch.records) {
    if (record.value) disk_[{record.kind, record.key}] = *record.value;
    else disk_.erase({record.kind, record.key});
  }
  return true;
}

void Model::sync() {
  const Batch batch = std::move(journal_.front());
  journal_.pop_front();
  JournalCompletion done{batch.sequence, {}};
  if (!apply_batch(batch)) {
    done.failed.emplace_back(batch.sequence, Status(StatusCode::kOutOfMemory, "full"));
  }
  enqueue(ControllerEvent(JournalSynced{done}));
}

void Model::drain() {
  int idle_ticks = 0;   // of a timer that is set anew whenever it is due
  for (;;) {
    if (!agent_queue_.empty()) {
      const AgentEvent event = std::move(agent_queue_.front());
      agent_queue_.pop_front();
      for (const AgentAction& action : agent_.handle(event, now_)) {
        std::visit([this](const auto& a) { perform(a); }, action);
      }
    } else if (!controller_queue_.empty()) {
      const ControllerEvent event = std::move(controller_queue_.front());
      controller_queue_.pop_front();
      for (const ControllerAction& action : controller_.handle(event, now_)) {
        std::visit([this](const auto& a) { perform(a); }, action);
      }
    } else if (auto due = controller_.next_tick(); due && *due <= now_ + kSoon && idle_ticks < 4) {
      now_ = std::max(now_, *due);
      const ControllerActions actions = controller_.handle(ControllerTick{}, now_);
      idle_ticks = actions.empty() ? idle_ticks + 1 : 0;
      for (const ControllerAction& action : actions) {
        std::visit([this](const auto& a) { perform(a); }, action);
      }
    } else if (auto tick = agent_.next_tick(); tick && *tick <= now_) {
      const AgentActions actions = agent_.handle(Tick{}, now_);
      for (const AgentAction& action : actions) {
        std::visit([this](const auto& a) { perform(a); }, action);
      }
      if (actions.empty()) return;   // nothing more that this instant can bring
    } else {
      return;
    }
  }
}

void Model::perform(const StartActor& a) {
  auto [highest, first] = started_.try_emplace(a.actor, a.incarnation);
  if (!first && a.incarnation <= highest->second) {
    fail("OneAuthority", fmt::format("incarnation {} was given out twice", a.incarnation));
  }
  highest->second = a.incarnation;
  auto worker = processes_.find(a.worker);
  if (worker == processes_.end()) return;
  worker->second.actor = a.actor;
  worker->second.incarnation = a.incarnation;
}

void Model::perform(const KillWorker& a) {
  if (auto it = processes_.find(a.process); it != processes_.end()) it->second.told_to_go = true;
}

void Model::perform(const ExitWorker& a) {
  if (auto it = processes_.find(a.process); it != processes_.end()) it->second.told_to_go = true;
}

void Model::perform(const PushActorUpdate& a) {
  auto process = processes_.find(a.process);
  if (process == processes_.end() || !process->second.alive) return;
  View& view = process->second.views[a.update.actor];
  if (a.update.incarnation < view.incarnation && a.update.state != ActorState::kDead) {
    fail("OneAuthority", "a subscriber was told of an older incarnation");
  }
  if (a.update.incarnation == view.incarnation && view.process != 0 && a.update.process != 0 &&
      view.process != a.update.process) {
    fail("OneAuthority", "two processes speak for one incarnation");
  }
  view.state = a.update.state;
  view.incarnation = std::max(view.incarnation, a.update.incarnation);
  view.process = a.update.process;
}

// ---- Processes ----------------------------------------------------------------------------------

template <class M>
void Model::send(ProcessId from, M message, std::optional<Wait> wait) {
  Process& process = processes_.at(from);
  uint64_t request = 0;
  if (wait) {
    request = ++process.requests;
    process.waits[request] = *wait;
  }
  process.sent.push_back(ControllerEvent(From<M>{from, request, std::move(message)}));
}

void Model::perform(const Reply& a) {
  auto process = processes_.find(a.process);
  if (process == processes_.end() || !process->second.alive) return;
  auto wait = process->second.waits.extract(a.request);
  if (!wait) fail("Idempotent", "a request was answered twice");
  else answered(process->second, wait.mapped(), a);
}

void Model::answered(Process& process, const Wait& wait, const Reply& reply) {
  const bool ok = reply.code == StatusCode::kOk;
  switch (wait.what) {
    case Act::kJoin: {
      auto answer = wire::decode<protocol::RegisterJobReply>(reply.payload);
      if (!ok || !answer) return;
      if (answer->job <= newest_job_) fail("JournalPrefix", "a job number was given out twice");
      newest_job_ = process.job = answer->job;
      return;
    }
    case Act::kCreate: {
      View& view = process.views[wait.actor];
      auto answer = wire::decode<protocol::ActorCreateReply>(reply.payload);
      view.held = ok && answer && !answer->existing;
      const ActorPlan& plan = config_->actors[wait.number];
      if (view.held && plan.detached) acked_[wait.actor] = {process.job, plan.max_restarts != 0};
      return;
    }
    case Act::kLookUp: {
      auto found = wire::decode<protocol::ActorLookupReply>(reply.payload);
      if (!ok || !found || process.views.contains(found->actor)) return;
      process.views[found->actor].held = true;
      for (auto& [id, p] : processes_) {
        if (&p != &process) continue;
        send(id, protocol::ActorHold{found->actor, 1});
        send(id, protocol::ActorSubscribe{found->actor});
      }
      return;
    }
    case Act::kPut:
      if (ok) known_ = std::max(known_, wait.number);
      return;
    case Act::kGet: {
      auto answer = wire::decode<protocol::KvGetReply>(reply.payload);
      if (answer && answer->value) {
        known_ = std::max(known_, static_cast<uint32_t>(std::stoul(*answer->value)));
      }
      return;
    }
    default: return;
  }
}

void Model::join() {
  const ProcessId id = next_process_++;
  processes_[id].driver = true;
  enqueue(ControllerEvent(ClientJoined{id, protocol::ClientKind::kDriver, 0}));
  protocol::RegisterJob job;
  job.name_space = "shared";
  send(id, job, Wait{Act::kJoin, 0, {}});
}

void Model::create(ProcessId driver, uint32_t index) {
  const ActorPlan& plan = config_->actors[index];
  created_ |= 1u << index;
  protocol::ActorSpec spec;
  spec.actor = ActorId::make(driver, uint64_t{controller_.boot()} << 32 | (index + 1));
  spec.detached = plan.detached;
  spec.max_restarts = plan.max_restarts;
  spec.name = plan.name;
  spec.creation_resources = {{"CPU", kResourceUnit}};
  spec.placement.resources = {{plan.detached ? "disk" : "CPU", kResourceUnit}};
  send(driver, protocol::ActorSubscribe{spec.actor});
  send(driver, protocol::ActorCreate{spec}, Wait{Act::kCreate, index, spec.actor});
}

void Model::kill(ProcessId id) {
  Process& process = processes_.at(id);
  process.alive = false;
  process.waits.clear();
  process.sent.push_back(Death{});
}

// What a process has sent arrives before the news of its death; agent and controller hear of that
// in either order.
void Model::read_message(ProcessId id, bool agent_first) {
  Process& process = processes_.at(id);
  const Message message = std::move(process.sent.front());
  process.sent.pop_front();
  if (const auto* event = std::get_if<ControllerEvent>(&message)) {
    enqueue(*event);
    return;
  }
  const ErrorRecord cause{ErrorKind::kWorkerCrashed, "killed", "", {}};
  processes_.erase(id);
  if (agent_first) {
    enqueue(AgentEvent(ProcessDied{id, cause, true}));
    drain();
  }
  enqueue(ControllerEvent(ClientLeft{id, cause}));
  drain();
  if (!agent_first) enqueue(AgentEvent(ProcessDied{id, cause, true}));
}

ActorId Model::held_actor(uint32_t index) const {
  for (const auto& [id, process] : processes_) {
    for (const auto& [actor, view] : process.views) {
      if (actor.lo == index + 1 && view.held && process.alive) return actor;
    }
  }
  return {};
}

// ---- Steps --------------------------------------------------------------------------------------

std::vector<Step> Model::steps() const {
  std::vector<Step> out;
  const auto may = [&](Budget b) { return budget_[b] > 0; };
  for (const auto& [token, key] : spawns_) {
    const auto a = static_cast<uint32_t>(token);
    out.push_back({Act::kSpawn, a, 0});
    if (may(kSpawnFailures)) out.push_back({Act::kSpawnFails, a, 0});
  }
  if (!journal_.empty()) out.push_back({Act::kSync, 0, 0});
  if (full_) out.push_back({Act::kFreeDisk, 0, 0});
  else if (may(kFullDisks)) out.push_back({Act::kFillDisk, 0, 0});
  if (may(kRestarts)) {
    for (uint32_t kept = 0; kept <= journal_.size(); ++kept) {
      out.push_back({Act::kRestart, kept, 0});
    }
  }
  if (may(kDrivers)) out.push_back({Act::kJoin, 0, 0});
  for (const auto& [id, p] : processes_) {
    if (!p.sent.empty()) {
      out.push_back({Act::kMessage, id, 0});
      if (std::holds_alternative<Death>(p.sent.front())) out.push_back({Act::kMessage, id, 1});
    }
    if (!p.alive) continue;
    if (p.driver) {
      if (may(kDriverDeaths)) out.push_back({Act::kDriverDies, id, 0});
      if (p.job == 0) continue;
      for (uint32_t i = 0; i < config_->actors.size(); ++i) {
        if (!(created_ & 1u << i)) out.push_back({Act::kCreate, id, i});
      }
      uint32_t n = 0;
      for (const auto& [actor, view] : p.views) {
        if (view.held) {
          if (may(kDrops)) out.push_back({Act::kDrop, id, n});
          if (may(kKills)) out.push_back({Act::kKill, id, n});
          if (may(kSoftKills)) out.push_back({Act::kSoftKill, id, n});
        }
        ++n;
      }
      if (may(kLookups)) out.push_back({Act::kLookUp, id, 0});
      if (may(kPuts)) out.push_back({Act::kPut, id, 0});
      if (may(kGets)) out.push_back({Act::kGet, id, 0});
      if (may(kFunctions)) out.push_back({Act::kFunction, id, 0});
      continue;
    }
    if (may(kCrashes)) out.push_back({Act::kCrash, id, 0});
    if (p.told_to_go) out.push_back({Act::kObey, id, 0});
    if (!p.actor.is_nil() && !p.constructed && !p.exiting) {
      out.push_back({Act::kConstruct, id, 0});
      if (may(kBrokenConstructors)) out.push_back({Act::kBreak, id, 0});
    }
    if (p.constructed && !p.exiting && may(kExits)) out.push_back({Act::kExit, id, 0});
  }
  return out;
}

void Model::apply(const Step& step) {
  if (!let_happen(step)) ask(step);
  drain();
  check();
}

// What processes, the disk and the daemon do by themselves. False: it is a client's request.
bool Model::let_happen(const Step& step) {
  Process* p = processes_.contains(step.a) ? &processes_.at(step.a) : nullptr;
  switch (step.act) {
    case Act::kSpawn: {
      const PoolKey key = spawns_.extract(step.a).mapped();
      const ProcessId id = next_process_++;
      processes_[id].job = key.job;
      enqueue(ControllerEvent(ClientJoined{id, protocol::ClientKind::kWorker, key.job}));
      enqueue(AgentEvent(WorkerRegistered{step.a, id}));
      break;
    }
    case Act::kSpawnFails:
      spend(kSpawnFailures);
      spawns_.erase(step.a);
      enqueue(AgentEvent(WorkerSpawnFailed{step.a, {ErrorKind::kSystem, "fork", "", {}}}));
      break;
    case Act::kConstruct:
    case Act::kBreak: {
      const bool ok = step.act == Act::kConstruct;
      if (!ok) spend(kBrokenConstructors);
      p->constructed = ok;
      p->exiting = !ok;
      send(step.a, protocol::ActorStarted{p->actor, p->incarnation, ok, {}});
      break;
    }
    case Act::kExit:
      spend(kExits);
      p->exiting = true;
      send(step.a, protocol::ActorExiting{p->actor, p->incarnation, true, "exit"});
      kill(step.a);
      break;
    case Act::kCrash:
      spend(kCrashes);
      kill(step.a);
      break;
    case Act::kObey: kill(step.a); break;
    case Act::kDriverDies:
      spend(kDriverDeaths);
      kill(step.a);
      break;
    case Act::kMessage: read_message(step.a, step.b == 0); break;
    case Act::kSync: sync(); break;
    case Act::kFreeDisk: full_ = false; break;
    case Act::kFillDisk: full_ = spend(kFullDisks); break;
    case Act::kRestart:
      spend(kRestarts);
      restart(step.a);
      break;
    case Act::kJoin:
      spend(kDrivers);
      join();
      break;
    default: return false;
  }
  return true;
}

void Model::ask(const Step& step) {
  const auto actor_of = [&] {
    auto it = processes_.at(step.a).views.begin();
    std::advance(it, step.b);
    return it->first;
  };
  switch (step.act) {
    case Act::kCreate: create(step.a, step.b); break;
    case Act::kDrop:
      spend(kDrops);
      processes_.at(step.a).views.at(actor_of()).held = false;
      send(step.a, protocol::ActorHold{actor_of(), -1});
      break;
    case Act::kKill:
    case Act::kSoftKill: {
      const ActorId actor = actor_of();
      const bool final = step.act == Act::kKill;
      spend(final ? kKills : kSoftKills);
      if (final) acked_.erase(actor);   // from here on a crash may find it or not
      send(step.a, protocol::ActorKill{actor, final}, Wait{step.act, 0, actor});
      break;
    }
    case Act::kLookUp:
      spend(kLookups);
      send(step.a, protocol::ActorLookup{"name", "shared"}, Wait{Act::kLookUp, 0, {}});
      break;
    case Act::kPut:
      spend(kPuts);
      ++issued_;
      send(step.a, protocol::KvPut{"user", "key", std::to_string(issued_), true},
           Wait{Act::kPut, issued_, {}});
      break;
    case Act::kGet:
      spend(kGets);
      send(step.a, protocol::KvGet{"user", "key", 0}, Wait{Act::kGet, 0, {}});
      break;
    case Act::kFunction:
      spend(kFunctions);
      send(step.a, protocol::KvPut{"fn", "function", "code", false}, Wait{Act::kFunction, 0, {}});
      break;
    default: SHEAF_CHECK(false);
  }
}

}  // namespace sheaf::checker
