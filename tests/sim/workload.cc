// The drivers' programs, the faults, and the cleaning up at the end.
#include <fmt/format.h>

#include "tests/sim/world.h"
#include "tests/sim/world_requests.h"

namespace sheaf::sim {

using protocol::ActorState;
using protocol::GroupState;
using protocol::StrategyKind;

uint32_t World::class_of(Process& p, const protocol::SchedulingClass& spec) {
  for (const auto& [id, c] : p.classes) {
    if (c.spec == spec) return id;
  }
  const auto id = static_cast<uint32_t>(p.classes.size() + 1);
  p.classes[id].spec = spec;
  return id;
}

void World::start_driver() {
  Process& p = make_process(true, 0);
  ++drivers_started_;
  to_controller(ClientJoined{p.id, protocol::ClientKind::kDriver, 0});
  protocol::RegisterJob job;
  job.name_space = random_.one_in(3) ? "" : "shared";
  ask(p, job, [this, id = p.id](const Reply& reply) {
    Process* self = live(id);
    auto answer = wire::decode<protocol::RegisterJobReply>(reply.payload);
    if (reply.code == StatusCode::kOutOfMemory) {   // said so, and gone; another comes later
      kill_process(id);
      if (!faults_on_ || drivers_started_ >= 12) return;
      after(delay(1000, 200000), [this] { start_driver(); });
      return;
    }
    if (!self || !answer) return;
    self->job = answer->job;
    run_program(id);
  });
}

void World::run_program(ProcessId id) {
  Process& p = *live(id);
  ask(p, protocol::KvPut{"fn", fmt::format("function-{}", random_.below(5)), "code", false},
      [](const Reply&) {});
  const auto times = [&](uint64_t most, auto what) {
    for (uint64_t n = random_.below(most + 1); n > 0; --n) what();
  };
  add_tasks(p);
  times(3, [&] { add_tasks(p); });
  times(5, [&] { add_actor(p); });
  times(2, [&] {   // after whatever happens to what the job wrote first
    ++p.tasks_open;
    after(delay(0, 500000), [this, id, life = life_] {
      Process* self = life == life_ ? live(id) : nullptr;
      if (!self) return;
      --self->tasks_open;
      add_actor(*self);
    });
  });
  times(2, [&] { look_up_actor(p); });
  times(3, [&] { add_group(p); });
  times(3, [&] { add_writer(p); });
  times(3, [&] { read_key(p); });
  check_driver_done(p);
}

void World::add_tasks(Process& p) {
  protocol::SchedulingClass spec;
  switch (random_.below(8)) {
    case 0: break;   // no resources at all
    case 1: spec.resources = {{"CPU", kResourceUnit / 2}}; break;
    case 2: spec.resources = {{"CPU", kResourceUnit}, {"GPU", kResourceUnit / 2}}; break;
    case 3: spec.resources = {{"GPU", kResourceUnit}}; break;
    case 4: spec.resources = {{"CPU", kResourceUnit}, {"late", kResourceUnit}}; break;
    default: spec.resources = {{"CPU", kResourceUnit}}; break;
  }
  if (random_.one_in(10)) spec.language = "cpp:lib.so";
  const uint32_t class_id = class_of(p, spec);
  const bool nests = !spec.resources.contains("late") && random_.one_in(3);
  for (uint64_t n = random_.between(1, 40); n > 0; --n) {
    Task task;
    task.class_id = class_id;
    task.duration = delay(10, random_.one_in(10) ? 100000 : 3000);
    if (nests && random_.one_in(4)) task.children = static_cast<uint32_t>(random_.between(1, 3));
    submit(p, task);
  }
}

void World::add_actor(Process& p) {
  protocol::ActorSpec spec;
  spec.actor = ActorId::make(p.id, p.next_id++);
  spec.detached = random_.one_in(4);
  spec.max_restarts = static_cast<int32_t>(random_.below(4)) - 1;
  spec.creation_resources = {{"CPU", kResourceUnit}};
  if (!spec.detached && random_.one_in(2)) spec.placement.resources = {{"CPU", kResourceUnit}};
  if (!spec.detached && random_.one_in(6)) spec.placement.resources["GPU"] = kResourceUnit / 2;
  if (spec.detached) spec.placement.resources = {{"disk", kResourceUnit}};
  if (spec.detached || random_.one_in(4)) {
    spec.name = fmt::format("name-{}", random_.below(6));
    spec.get_if_exists = random_.one_in(2);
  }
  spec.handle = "handle";
  ActorHandle& handle = p.actors[spec.actor];
  handle.actor = spec.actor;
  handle.calls_left = static_cast<uint32_t>(random_.between(0, 30));
  handle.kill_at_end = random_.one_in(spec.detached ? 3 : 5);
  post(p, protocol::ActorSubscribe{spec.actor});
  ask(p, protocol::ActorCreate{spec}, [this, id = p.id, spec](const Reply& reply) {
    Process* self = live(id);
    ActorHandle& own = self->actors.at(spec.actor);
    auto answer = wire::decode<protocol::ActorCreateReply>(reply.payload);
    if (reply.code != StatusCode::kOk || (answer && answer->existing)) {
      own.done = true;   // taken, found, or the journal is full
      check_driver_done(*self);
      return;
    }
    if (spec.detached) {
      detached_[spec.actor] = {self->job, spec.max_restarts != 0, spec.name, ""};
      ++stats_.acked_writes;
    }
    own.created = true;
    call_actor(*self, own);
  });
}

void World::look_up_actor(Process& p) {
  const std::string name = fmt::format("name-{}", random_.below(6));
  after(delay(0, 300000), [this, id = p.id, name] {
    Process* self = live(id);
    if (!self) return;
    ask(*self, protocol::ActorLookup{name, ""}, [this, id](const Reply& reply) {
      Process* owner = live(id);
      auto found = wire::decode<protocol::ActorLookupReply>(reply.payload);
      if (reply.code != StatusCode::kOk || !found || owner->actors.contains(found->actor)) return;
      ActorHandle& handle = owner->actors[found->actor];
      handle.actor = found->actor;
      handle.created = true;
      handle.calls_left = static_cast<uint32_t>(random_.between(1, 10));
      post(*owner, protocol::ActorHold{found->actor, 1});
      post(*owner, protocol::ActorSubscribe{found->actor});
    });
  });
}

// ---- Placement groups ---------------------------------------------------------------------------

void World::add_group(Process& p) {
  protocol::GroupCreate spec;
  spec.group =
      PlacementGroupId::make(p.id, p.next_id++);
  spec.detached = random_.one_in(4);
  const auto cpus = static_cast<uint64_t>(total_.at("CPU") / kResourceUnit);
  const ResourceMap bundle = spec.detached ? ResourceMap{{"disk", kResourceUnit}}
                                           : ResourceMap{{"CPU", kResourceUnit}};
  spec.bundles.assign(random_.between(1, spec.detached ? 3 : cpus), bundle);
  GroupUse& use = p.groups[spec.group];
  use.group = spec.group;
  use.detached = spec.detached;
  use.tasks_left = static_cast<uint32_t>(random_.between(1, 6));
  use.remove_early = random_.one_in(4);
  protocol::SchedulingClass task_class;
  task_class.resources = bundle;
  if (random_.one_in(4)) task_class.resources.clear();
  task_class.strategy.kind = StrategyKind::kPlacementGroup;
  task_class.strategy.group = spec.group;
  if (random_.one_in(3)) {
    task_class.strategy.bundle = static_cast<int32_t>(random_.below(spec.bundles.size()));
  }
  use.class_id = class_of(p, task_class);
  ask(p, spec, [this, id = p.id, group = spec.group, detached = spec.detached](const Reply& reply) {
    Process* self = live(id);
    if (reply.code != StatusCode::kOk) {
      self->groups.at(group).removed = true;   // the journal is full
      self->groups.at(group).tasks_left = 0;
      check_driver_done(*self);
      return;
    }
    if (detached) {
      detached_groups_.insert(group);
      ++stats_.acked_writes;
    }
    post(*self, protocol::GroupSubscribe{group});
    GroupUse& own = self->groups.at(group);
    if (random_.one_in(2)) own.created = true;   // tasks may be submitted before it is there
    const uint32_t tasks = own.tasks_left;
    for (uint32_t i = 0; i < tasks; ++i) {
      Task task;
      task.class_id = own.class_id;
      task.duration = delay(10, 20000);
      submit(*self, task);
    }
    if (!own.remove_early) return;
    after(delay(0, 30000), [this, id, group] {
      if (Process* owner = live(id)) end_group(*owner, owner->groups.at(group));
    });
  });
}

void World::on_group_update(Process& p, const protocol::GroupUpdate& update) {
  auto it = p.groups.find(update.group);
  if (it == p.groups.end()) return;
  if (update.state == GroupState::kCreated) it->second.created = true;
}

void World::group_task_ended(Process& p, GroupUse& use) {
  if (--use.tasks_left == 0) end_group(p, use);
}

void World::end_group(Process& p, GroupUse& use) {
  if (use.removing) return;
  use.removing = true;
  if (use.detached && !use.remove_early && random_.one_in(2)) {   // it stays behind
    use.removed = true;
    check_driver_done(p);
    return;
  }
  detached_groups_.erase(use.group);   // in doubt until answered, gone afterwards
  ask(p, protocol::GroupRemove{use.group}, [this, id = p.id, group = use.group](const Reply&) {
    Process* self = live(id);
    self->groups.at(group).removed = true;
    check_driver_done(*self);
  });
}

// ---- Key-value ----------------------------------------------------------------------------------

void World::add_writer(Process& p) {
  // One writer a key: what a crash may leave behind is then known exactly.
  const std::string key = fmt::format("key-{}-{}", p.id, p.next_id++);
  p.writers[key] = {key, static_cast<uint32_t>(random_.between(1, 10)), 0};
  write_next(p, key);
}

void World::write_next(Process& p, const std::string& key) {
  KeyWriter& writer = p.writers.at(key);
  if (writer.writes_left == 0) {
    check_driver_done(p);
    return;
  }
  --writer.writes_left;
  const uint64_t number = ++ledger_[key].issued;
  writer.in_doubt = number;
  ask(p, protocol::KvPut{"user", key, std::to_string(number), true},
      [this, id = p.id, key, number](const Reply& reply) {
        Process* self = live(id);
        if (reply.code == StatusCode::kOk) {
          ledger_[key].known = std::max(ledger_[key].known, number);
          ++stats_.acked_writes;
        }
        self->writers.at(key).in_doubt = 0;
        write_next(*self, key);
      });
}

void World::read_key(Process& p) {
  after(delay(0, 200000), [this, id = p.id] {
    Process* self = live(id);
    if (!self || ledger_.empty()) return;
    auto it = ledger_.begin();
    std::advance(it, static_cast<ptrdiff_t>(random_.below(ledger_.size())));
    ask(*self, protocol::KvGet{"user", it->first, 0}, [this, key = it->first](const Reply& reply) {
      auto answer = wire::decode<protocol::KvGetReply>(reply.payload);
      const uint64_t seen = answer && answer->value ? std::stoull(*answer->value) : 0;
      WriteLedger& ledger = ledger_[key];
      ledger.known = std::max(ledger.known, seen);   // told once, it must never be taken back
    });
  });
}

// ---- Ends ---------------------------------------------------------------------------------------

void World::check_driver_done(Process& p) {
  if (p.leaving || p.tasks_open > 0 || p.job == 0) return;
  for (const auto& [id, handle] : p.actors) {
    if (!handle.done) return;
  }
  for (const auto& [id, use] : p.groups) {
    if (!use.removed || use.tasks_left > 0) return;
  }
  for (const auto& [key, writer] : p.writers) {
    if (writer.writes_left > 0 || writer.in_doubt != 0) return;
  }
  p.leaving = true;
  after(delay(1000, 300000), [this, id = p.id, life = life_] {
    if (life != life_) return;
    kill_process(id);   // a clean exit looks the same from here
    if (faults_on_ && drivers_started_ < 12) after(delay(0, 100000), [this] { start_driver(); });
  });
}

void World::inject_fault() {
  ++stats_.faults;
  const uint64_t kind = random_.below(20);
  note(3, kind);
  if (kind == 0) {
    ++stats_.restarts;
    crash_daemon();
    for (uint64_t n = random_.between(1, 2); n > 0; --n) start_driver();
    return;
  }
  if (kind == 1) {
    journal_->fail_creates(true);
    after(delay(1000, 300000), [this] { journal_->fail_creates(false); });
    return;
  }
  const bool want_driver = kind == 2;
  std::vector<ProcessId> victims;
  for (const auto& [id, p] : processes_) {
    if (p.alive && p.driver == want_driver) victims.push_back(id);
  }
  if (victims.empty()) return;
  kill_process(victims[random_.below(victims.size())]);
  if (want_driver && drivers_started_ < 12) start_driver();
}

// A last driver removes what was meant to stay, so that nothing may be left.
void World::clean_up() {
  Process& p = make_process(true, 0);
  to_controller(ClientJoined{p.id, protocol::ClientKind::kDriver, 0});
  ask(p, protocol::RegisterJob{}, [this, id = p.id](const Reply&) {
    Process* self = live(id);
    for (const auto& [actor, info] : controller_->actors()) {
      if (info.state != ActorState::kDead && info.spec->detached) {
        ask(*self, protocol::ActorKill{actor, true}, [](const Reply&) {});
      }
    }
    for (const auto& [group, info] : controller_->groups()) {
      if (info.state != GroupState::kRemoved && info.spec.detached) {
        ask(*self, protocol::GroupRemove{group}, [](const Reply&) {});
      }
    }
    detached_.clear();
    detached_groups_.clear();
    self->leaving = true;
    after(20s, [this, id] { kill_process(id); });
  });
}

}  // namespace sheaf::sim
