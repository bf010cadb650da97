// What must hold: after every event, after a restart, and when everything has come to rest.
#include <fmt/format.h>

#include "tests/sim/world.h"

namespace sheaf::sim {

using protocol::ActorState;
using protocol::GroupState;

namespace {
ResourceAmount cpu_of(const ResourceMap& map) { return amount_of(map, kCpu); }
}  // namespace

// LeaseConservation: nothing is handed out that is not there. Blocked workers that run again may
// overdraw CPUs, but then no more are granted.
void World::check_grants(const AgentActions& actions) {
  for (const AgentAction& action : actions) {
    const Holding* holding = nullptr;
    if (const auto* grant = std::get_if<GrantLease>(&action)) {
      auto it = agent_->leases().find(grant->lease);
      if (it != agent_->leases().end()) holding = &it->second.holding;
    } else if (const auto* start = std::get_if<StartActor>(&action)) {
      auto it = agent_->actors().find(start->actor);
      if (it != agent_->actors().end()) holding = &it->second.holding;
    }
    if (!holding || cpu_of(holding->allocation.resources) == 0) continue;
    const ResourcePool* pool = &agent_->resources();
    if (holding->bundle) {
      const ReservedGroup& group = agent_->groups().at(holding->bundle->first);
      pool = &group.bundles.at(holding->bundle->second).pool;
    }
    if (cpu_of(pool->available()) < 0) {
      fail("LeaseConservation", "CPUs were granted while more were in use than there are");
    }
  }
}

// From the simulator's own account of who was given what, and the agent's books against it.
void World::check_leases() {
  ++stats_.checks;
  ResourceMap used;
  std::map<std::pair<std::string, uint32_t>, ResourceAmount> device_use;
  for (const auto& [process, use] : usage_) {
    for (const auto& [name, indices] : use.devices) {
      const ResourceAmount amount = amount_of(use.resources, name);
      for (uint32_t index : indices) {
        device_use[{name, index}] += std::min<ResourceAmount>(amount, kResourceUnit);
      }
    }
    if (use.group) continue;   // counted with its group's reservation
    add(used, use.resources);
    if (use.blocked) used[std::string(kCpu)] -= cpu_of(use.resources);
  }
  for (const auto& [id, group] : agent_->groups()) {
    for (const auto& [index, bundle] : group.bundles) add(used, bundle.reserved.resources);
  }
  for (const auto& [name, amount] : used) {
    if (name != kCpu && amount > amount_of(total_, name)) {
      fail("LeaseConservation", fmt::format("{} of {} are in use, which has {}", amount, name,
                                            amount_of(total_, name)));
    }
  }
  for (const auto& [device, amount] : device_use) {
    if (amount > kResourceUnit) {
      fail("LeaseConservation",
           fmt::format("{} {} is shared beyond 1", device.first, device.second));
    }
  }
  for (const auto& [key, flow] : agent_->flows()) {
    if (flow.held == 0 && !processes_.contains(key.first)) {
      fail("NoLeak",
           fmt::format("the agent keeps requests of process {}, which is gone", key.first));
    }
  }
  // The books: what is free and what is held make up the whole.
  ResourceMap books = agent_->resources().available();
  const auto count = [&](const Holding& holding) {
    if (holding.bundle) return;
    add(books, holding.allocation.resources);
    books[std::string(kCpu)] -= holding.lent_cpu;
  };
  for (const auto& [id, lease] : agent_->leases()) count(lease.holding);
  for (const auto& [id, actor] : agent_->actors()) count(actor.holding);
  for (const auto& [id, worker] : agent_->workers()) count(worker.remains);
  for (const auto& [id, group] : agent_->groups()) {
    for (const auto& [index, bundle] : group.bundles) add(books, bundle.reserved.resources);
  }
  for (const auto& [name, amount] : books) {
    if (amount != amount_of(agent_->resources().total(), name)) {
      fail("LeaseConservation", fmt::format("the books of {} are off by {}", name,
                                            amount - amount_of(agent_->resources().total(), name)));
    }
  }
}

// OneAuthority: at most one process may act as an actor, and it is the one the controller names.
void World::check_actors() {
  ++stats_.checks;
  std::map<ActorId, ProcessId> speaking;
  for (const auto& [id, process] : processes_) {
    if (!process.alive || !process.actor_ready) continue;
    const WorkerInfo* worker = nullptr;
    if (auto it = agent_->workers().find(id); it != agent_->workers().end()) worker = &it->second;
    if (!worker || worker->kill_sent) continue;
    auto [other, first] = speaking.emplace(process.actor, id);
    if (first) continue;
    fail("OneAuthority", fmt::format("processes {} and {} are one actor", id, other->second));
  }
  for (const auto& [id, actor] : controller_->actors()) {
    if (actor.state != ActorState::kAlive) continue;
    auto process = processes_.find(actor.process);
    if (process == processes_.end()) {
      fail("OneAuthority", "an actor is said to live in a process that is gone");
      continue;
    }
    if (process->second.actor != id || process->second.actor_incarnation != actor.incarnation) {
      fail("OneAuthority", "a process that is not the actor was given its authority");
    }
  }
}

// JournalPrefix: whatever somebody was told is still there in the next life.
void World::check_replay() {
  ++stats_.checks;
  for (const auto& [key, ledger] : ledger_) {
    auto it = controller_->key_values().find({"user", key});
    const uint64_t found = it == controller_->key_values().end() ? 0 : std::stoull(it->second);
    if (found < ledger.known || found > ledger.issued) {
      fail("JournalPrefix",
           fmt::format("{} is {}, but {} was acknowledged", key, found, ledger.known));
    }
  }
  // What never ran is constructed again, restarts or not.
  auto comes_back = [](const DetachedLedger& ledger, const ActorInfo& actor) {
    return ledger.restartable || !actor.ran;
  };
  for (const auto& [id, ledger] : detached_) {
    auto it = controller_->actors().find(id);
    if (it == controller_->actors().end()) {
      fail("JournalPrefix", fmt::format("detached actor {} is forgotten", id.lo));
    } else if (comes_back(ledger, it->second) != (it->second.state == ActorState::kRestarting)) {
      fail("JournalPrefix", fmt::format("detached actor {} came back in the wrong state", id.lo));
    } else if (ledger.restartable && !controller_->jobs().contains(ledger.job)) {
      fail("JournalPrefix", fmt::format("detached actor {} lost its job's environment", id.lo));
    }
  }
  for (const PlacementGroupId& id : detached_groups_) {
    if (!controller_->groups().contains(id)) fail("JournalPrefix", "a detached group is forgotten");
  }
  // Those without restarts that ran are gone for good from here on.
  std::erase_if(detached_, [&](const auto& entry) {
    auto it = controller_->actors().find(entry.first);
    return it == controller_->actors().end() || !comes_back(entry.second, it->second);
  });
}

std::string World::describe_agent() const {
  std::string out = fmt::format("the agent has {} free", to_text(agent_->resources().available()));
  for (const auto& [id, worker] : agent_->workers()) {
    out += fmt::format(", worker {} in state {}{}", id, static_cast<int>(worker.state),
                       worker.kill_sent ? " (killed)" : "");
  }
  for (const auto& [token, spawn] : agent_->spawns()) out += fmt::format(", spawn {}", token);
  for (const auto& [id, actor] : agent_->actors()) {
    out += fmt::format(", actor {} in worker {} with {}", id.lo, actor.worker,
                       to_text(actor.holding.allocation.resources));
  }
  for (const auto& [id, group] : agent_->groups()) {
    out += fmt::format(", group {}{}", id.lo, group.releasing ? " (releasing)" : "");
  }
  for (const auto& [order, wait] : agent_->waiting()) {
    out += fmt::format(", waiting actor {} group {}", wait.actor.lo, wait.group.lo);
  }
  for (const auto& [id, lease] : agent_->leases()) {
    out += fmt::format(", lease {} of {} on {}", id, lease.client, lease.worker);
  }
  return out;
}

// NoHang: faults have stopped long ago, so every program has ended.
void World::check_progress() {
  ++stats_.checks;
  for (const auto& [id, p] : processes_) {
    if (!p.alive || !p.driver) continue;
    std::string waits;
    if (p.job == 0) waits += " its job";
    for (const auto& [class_id, c] : p.classes) {
      if (c.queue.empty()) continue;
      auto flow = agent_->flows().find({id, class_id});
      waits += fmt::format(" {} tasks of {} ({} asked for, {} known)", c.queue.size(),
                           to_text(c.spec.resources), c.requested,
                           flow == agent_->flows().end() ? 0 : flow->second.backlog);
    }
    for (const auto& [lease_id, lease] : p.leases) {
      waits += fmt::format(" lease {} on {} (task {})", lease_id, lease.worker, lease.task);
    }
    for (const auto& [actor, handle] : p.actors) {
      if (!handle.done) {
        waits += fmt::format(" actor {} (state {}, {} calls left, {} in flight)", actor.lo,
                             static_cast<int>(handle.state), handle.calls_left, handle.in_flight);
      }
    }
    for (const auto& [group, use] : p.groups) {
      if (!use.removed) waits += fmt::format(" group {}", group.lo);
    }
    for (const auto& [key, writer] : p.writers) {
      if (writer.in_doubt) waits += " a write";
    }
    fail("NoHang", fmt::format("driver {} still waits for{}; {}", id, waits, describe_agent()));
  }
}

// NoLeak: with everybody gone nothing is held, and the journal has nothing but values.
void World::check_quiescence() {
  ++stats_.checks;
  const auto expect = [&](bool holds, const std::string& what) {
    if (!holds) fail("NoLeak", what);
  };
  expect(agent_->leases().empty(), "leases are left");
  expect(agent_->flows().empty(), "requests are left");
  expect(agent_->actors().empty(), "placed actors are left");
  expect(agent_->groups().empty(), "reserved groups are left");
  expect(agent_->waiting().empty(), "waiting placements are left");
  expect(agent_->spawns().empty(), "spawns are left");
  expect(agent_->resources().unused(),
         "resources are left in use: " + to_text(agent_->resources().available()));
  expect(agent_->workers().empty(), fmt::format("{} workers of ended jobs are left",
                                                agent_->workers().size()));
  for (const auto& [id, actor] : controller_->actors()) {
    expect(actor.state == ActorState::kDead, fmt::format("actor {} lives on", id.lo));
  }
  for (const auto& [id, group] : controller_->groups()) {
    expect(group.state == GroupState::kRemoved, fmt::format("group {} is left", id.lo));
  }
  for (const auto& [id, job] : controller_->jobs()) expect(!job.alive, "a job has not ended");
  for (const auto& [key, value] : controller_->key_values()) {
    expect(key.first == "user", "a function is left: " + key.second);
  }
  journal_->sync();
  const auto replayed = journal_->replay();
  for (const JournalRecord& record : replayed->records) {
    const bool user_value =
        record.kind == RecordKind::kKeyValue && record.key.starts_with(std::string("user\0", 5));
    expect(record.kind == RecordKind::kBoot || user_value,
           fmt::format("a record of kind {} is left", static_cast<int>(record.kind)));
  }
}

}  // namespace sheaf::sim
