#include "tests/sim/world.h"

#include <fmt/format.h>

#include <cstdio>

namespace sheaf::sim {

namespace {
const NodeId kNode{7, 7};
constexpr uint64_t kEventLimit = 400000;
}  // namespace

World::World(Options options) : options_(options), random_(options.seed) {
  total_ = {{"CPU", static_cast<ResourceAmount>(random_.between(1, 6)) * kResourceUnit},
            {"GPU", static_cast<ResourceAmount>(random_.between(1, 3)) * kResourceUnit},
            {"disk", 1000 * kResourceUnit}};
  const auto rate = [&](uint64_t low, uint64_t high) {
    return random_.one_in(3) ? 0 : random_.between(low, high);
  };
  spawn_failure_ = rate(5, 60);
  late_registration_ = rate(20, 100);
  double_registration_ = rate(5, 50);
  death_after_event_ = rate(200, 3000);
  two_phase_death_ = rate(1, 4);
}

World::~World() = default;

void World::at(Time time, std::function<void()> what) {
  queue_.emplace(std::pair(std::max(time, now_), next_event_++), std::move(what));
}

void World::note(uint64_t a, uint64_t b, uint64_t c) {
  for (uint64_t value : {static_cast<uint64_t>(now_.count()), a, b, c}) {
    hash_ = (hash_ ^ value) * 0x100000001b3ull;
  }
  if (options_.trace) {
    std::fprintf(stderr, "%.6f %lu %lu %lu\n", static_cast<double>(now_.count()) * 1e-9,
                 static_cast<unsigned long>(a), static_cast<unsigned long>(b),
                 static_cast<unsigned long>(c));
  }
}

void World::fail(const char* oracle, const std::string& what) {
  if (!oracle_.empty()) return;
  oracle_ = oracle;
  violation_ = fmt::format("{:.6f} s: {}", static_cast<double>(now_.count()) * 1e-9, what);
}

bool World::run() {
  journal_ = std::make_unique<MemoryJournal>(nullptr, false);
  start_daemon();
  const uint64_t drivers = random_.between(1, 4);
  for (uint64_t i = 0; i < drivers; ++i) after(delay(0, 200000), [this] { start_driver(); });
  for (Time t = now_ + delay(0, 300000); t < options_.fault_time; t += delay(10000, 400000)) {
    at(t, [this] { inject_fault(); });
  }
  at(now_ + delay(100000, 2000000), [this] {
    late_capacity_ = true;
    total_["late"] = 4 * kResourceUnit;
    to_agent(CapacityChanged{total_, {}});
  });
  at(options_.fault_time, [this] {
    faults_on_ = false;
    journal_->fail_creates(false);
  });
  at(options_.fault_time + 60s, [this] { clean_up(); });
  const Time deadline = options_.fault_time + options_.patience;
  while (!queue_.empty() && oracle_.empty() && stats_.events < kEventLimit) {
    if (queue_.begin()->first.first > deadline) break;
    step();
  }
  if (oracle_.empty()) check_progress();
  if (oracle_.empty()) check_quiescence();
  return oracle_.empty();
}

void World::step() {
  auto node = queue_.extract(queue_.begin());
  now_ = node.key().first;
  ++stats_.events;
  node.mapped()();
  drain();
  check_leases();
  check_actors();
  if (faults_on_ && random_.one_in(death_after_event_) && !processes_.empty()) {
    auto victim = processes_.begin();
    std::advance(victim, static_cast<ptrdiff_t>(random_.below(processes_.size())));
    if (victim->second.alive) {
      ++stats_.faults;
      kill_process(victim->first);
    }
  }
}

// ---- The daemon ---------------------------------------------------------------------------------

void World::start_daemon() {
  ++life_;
  const uint64_t life = life_;
  AgentConfig config;
  config.node = kNode;
  config.total = total_;
  config.max_workers = 200;
  config.spare_workers = options_.seed % 2 ? 4 : 0;
  config.spawn_timeout = 2s;
  config.exit_grace = 3s;
  agent_ = std::make_unique<Agent>(config);
  controller_ = std::make_unique<Controller>();
  journal_->reopen([this, life](JournalCompletion done) {
    for (const auto& [sequence, status] : done.failed) note(90, sequence);
    after(delay(1, 50), [this, life, done] {
      if (life == life_) to_controller(JournalSynced{done});
    });
  });
  auto replayed = journal_->replay();
  if (auto strange = controller_->restore(replayed->records); !strange.empty()) {
    fail("JournalPrefix", "not understood: " + strange.front());
  }
  check_replay();
  for (ControllerAction& action : controller_->start(now_)) {
    work_.push_back([this, action] { std::visit([this](const auto& a) { perform(a); }, action); });
  }
  to_controller(NodeJoined{kNode, total_, {}});
}

void World::crash_daemon() {
  note(1, life_);
  // Who had died by then owes nobody a second life.
  std::erase_if(detached_, [&](const auto& entry) {
    auto it = controller_->actors().find(entry.first);
    return it == controller_->actors().end() || it->second.state == protocol::ActorState::kDead;
  });
  journal_->crash(random_.below(journal_->unsynced() + 1));
  sync_planned_ = false;
  // Everything that was alive dies with it; messages under way are lost.
  for (auto& [id, process] : processes_) process.alive = false;
  processes_.clear();
  usage_.clear();
  tasks_.clear();
  work_.clear();
  tick_at_.reset();
  agent_.reset();
  controller_.reset();
  start_daemon();
}

void World::to_agent(AgentEvent event) {
  work_.push_back([this, event = std::move(event)] {
    note(10, event.index(), agent_->leases().size());
    AgentActions actions = agent_->handle(event, now_);
    check_grants(actions);
    for (AgentAction& action : actions) {
      note(11, action.index());
      if (const auto* tell = std::get_if<ToController>(&action)) note(12, tell->report.index());
      work_.push_back([this, action = std::move(action)] {
        std::visit([this](const auto& a) { perform(a); }, action);
      });
    }
  });
  if (!draining_) drain();
}

void World::to_controller(ControllerEvent event) {
  work_.push_back([this, event = std::move(event)] {
    note(20, event.index());
    ControllerActions actions = controller_->handle(event, now_);
    for (ControllerAction& action : actions) {
      note(21, action.index());
      work_.push_back([this, action = std::move(action)] {
        std::visit([this](const auto& a) { perform(a); }, action);
      });
    }
  });
  if (!draining_) drain();
}

void World::drain() {
  if (draining_) return;
  draining_ = true;
  while (!work_.empty()) {
    auto work = std::move(work_.front());
    work_.pop_front();
    work();
  }
  draining_ = false;
  tick_daemon();
}

// Keeps one event queued for the earlier of the two machines' next ticks.
void World::tick_daemon() {
  std::optional<Time> next = agent_->next_tick();
  if (auto other = controller_->next_tick(); other && (!next || *other < *next)) next = other;
  if (!next) return;
  const Time due = std::max(*next, now_);
  if (tick_at_ && *tick_at_ <= due) return;
  tick_at_ = due;
  at(due, [this, due, life = life_] {
    if (life != life_ || tick_at_ != due) return;
    tick_at_.reset();
    to_agent(Tick{});
    to_controller(ControllerTick{});
  });
}

void World::sync_journal() {
  if (sync_planned_) return;
  sync_planned_ = true;
  after(delay(50, random_.one_in(10) ? 20000 : 500), [this, life = life_] {
    if (life != life_) return;
    sync_planned_ = false;
    journal_->sync(random_.between(1, 8));
    if (journal_->unsynced() > 0) sync_journal();
  });
}

// ---- Processes ----------------------------------------------------------------------------------

Process& World::make_process(bool driver, JobId job) {
  const ProcessId id = next_process_++;
  Process& p = processes_[id];
  p.id = id;
  p.driver = driver;
  p.job = job;
  return p;
}

Process* World::live(ProcessId id) {
  auto it = processes_.find(id);
  return it == processes_.end() || !it->second.alive ? nullptr : &it->second;
}

void World::send_to_daemon(ProcessId from, std::function<void()> deliver) {
  Process& p = processes_.at(from);
  p.to_daemon = std::max(p.to_daemon, now_) + delay(1, 300);
  at(p.to_daemon, [this, life = life_, deliver = std::move(deliver)] {
    if (life == life_) deliver();
  });
}

void World::send_to_process(ProcessId to, std::function<void(Process&)> deliver) {
  Process* p = live(to);
  if (!p) return;
  p->from_daemon = std::max(p->from_daemon, now_) + delay(1, 300);
  at(p->from_daemon, [this, to, life = life_, deliver = std::move(deliver)] {
    if (life != life_) return;
    if (Process* target = live(to)) deliver(*target);
  });
}

// Messages that it has sent arrive before the news of its death.
void World::kill_process(ProcessId id) {
  Process* p = live(id);
  if (!p) return;
  note(2, id);
  p->alive = false;
  const bool reaped = !random_.one_in(two_phase_death_);
  send_to_daemon(id, [this, id, reaped] { announce_death(id, reaped); });
}

void World::announce_death(ProcessId id, bool reaped) {
  std::vector<ProcessId> peers;
  if (auto use = usage_.find(id); use != usage_.end()) {
    peers.push_back(use->second.client);
    if (reaped) usage_.erase(use);
    else use->second.blocked = true;   // its CPUs are free at once
  }
  for (ProcessId peer : peers) {
    send_to_process(peer, [this, id](Process& p) { on_peer_down(p, id); });
  }
  const ErrorRecord cause{ErrorKind::kWorkerCrashed, "killed by the simulator", "", {}};
  const bool agent_first = random_.one_in(2);
  if (agent_first) to_agent(ProcessDied{id, cause, reaped});
  to_controller(ClientLeft{id, cause});
  if (!agent_first) to_agent(ProcessDied{id, cause, reaped});
  processes_.erase(id);
  if (reaped) return;
  after(delay(1000, 300000), [this, id, life = life_] {
    if (life != life_) return;
    usage_.erase(id);
    to_agent(ProcessReaped{id});
  });
}

}  // namespace sheaf::sim
