// The daemon around the machines: it carries out what they return, with faults where forks and
// disks have them.
#include "tests/sim/world.h"

namespace sheaf::sim {

void World::perform(const SpawnWorker& action) {
  note(30, action.token);
  const uint64_t life = life_;
  if (faults_on_ && random_.one_in(spawn_failure_)) {
    ++stats_.faults;
    const bool final = random_.one_in(20);
    after(delay(100, 20000), [this, life, token = action.token, final] {
      if (life != life_) return;
      const ErrorKind kind = final ? ErrorKind::kRuntimeEnvSetup : ErrorKind::kSystem;
      to_agent(WorkerSpawnFailed{token, {kind, "fork failed", "", {}}});
    });
    return;
  }
  const bool late = faults_on_ && random_.one_in(late_registration_);
  if (late) ++stats_.faults;
  after(late ? delay(1000000, 4000000) : delay(500, 5000), [this, life, action] {
    if (life == life_) register_worker(action.token, action.key, life);
  });
}

void World::register_worker(uint64_t token, const PoolKey& key, uint64_t life) {
  if (faults_on_ && random_.one_in(spawn_failure_)) {   // it died before it could say hello
    ++stats_.faults;
    to_agent(WorkerSpawnFailed{token, {ErrorKind::kSystem, "died at its start", "", {}}});
    return;
  }
  const ProcessId id = make_process(false, key.job).id;
  note(31, token, id);
  to_controller(ClientJoined{id, protocol::ClientKind::kWorker, key.job});
  to_agent(WorkerRegistered{token, id});
  if (faults_on_ && random_.one_in(double_registration_)) {
    ++stats_.faults;
    const bool impostor = random_.one_in(2);
    after(delay(0, 5000), [this, life, token, id, impostor, job = key.job] {
      if (life != life_) return;
      to_agent(WorkerRegistered{token, impostor ? make_process(false, job).id : id});
    });
  }
}

void World::perform(const GrantLease& action) {
  note(32, action.lease, action.worker);
  Usage& use = usage_[action.worker];
  if (use.lease != 0 || use.is_actor) fail("LeaseConservation", "a worker was granted twice");
  const LeaseInfo* lease = nullptr;
  if (auto it = agent_->leases().find(action.lease); it != agent_->leases().end()) {
    lease = &it->second;
    use.resources = lease->holding.allocation.resources;
    if (lease->holding.bundle) use.group = lease->holding.bundle->first;
  }
  use.lease = action.lease;
  use.client = action.client;
  use.devices = action.devices;
  use.blocked = false;
  send_to_process(action.client, [this, action](Process& p) { on_grant(p, action); });
}

void World::perform(const RecallLease& action) {
  note(33, action.lease);
  send_to_process(action.client, [this, lease = action.lease](Process& p) {
    auto it = p.leases.find(lease);
    if (it == p.leases.end()) return;
    it->second.recalled = true;
    if (it->second.task == 0) give_lease_back(p, lease, false);
  });
}

void World::perform(const RefuseLease& action) {
  note(34, action.client, action.class_id);
  send_to_process(action.client, [this, id = action.class_id](Process& p) { on_refused(p, id); });
}

void World::perform(const StartActor& action) {
  note(35, action.actor.lo, action.incarnation);
  Usage& use = usage_[action.worker];
  if (use.lease != 0 || use.is_actor) fail("LeaseConservation", "a worker was granted twice");
  if (auto it = agent_->actors().find(action.actor); it != agent_->actors().end()) {
    use.resources = it->second.holding.allocation.resources;
    if (it->second.holding.bundle) use.group = it->second.holding.bundle->first;
  }
  use.is_actor = true;
  use.devices = action.devices;
  use.lifetime = action.spec->placement.resources;
  auto [started, first] = started_.try_emplace(action.actor, action.incarnation);
  if (!first && action.incarnation <= started->second) {
    fail("OneAuthority", "an incarnation was started twice");
  }
  started->second = action.incarnation;
  send_to_process(action.worker, [this, action](Process& p) { become_actor(p, action); });
}

void World::perform(const KillWorker& action) {
  note(36, action.process);
  after(delay(1, 500), [this, life = life_, id = action.process] {
    if (life == life_) kill_process(id);
  });
}

void World::perform(const ExitWorker& action) {
  note(37, action.process);
  send_to_process(action.process, [this](Process& p) {
    p.exiting = true;
    if (p.running == 0 && !p.leaving) {
      p.leaving = true;
      after(delay(10, 2000), [this, id = p.id, life = life_] {
        if (life == life_) kill_process(id);
      });
    }
  });
}

void World::perform(const WarnClient&) {}
void World::perform(const WarnJob&) {}
void World::perform(const ActorAccepted&) {}
void World::perform(const ActorGone&) {}
void World::perform(const JobFinished&) {}

void World::perform(const ToController& action) {
  if (const auto* assigned = std::get_if<ActorAssigned>(&action.report)) {
    note(38, assigned->actor.lo, assigned->process);
  }
  to_controller(FromNode{agent_->config().node, action.report});
}

void World::perform(const AppendJournal& action) {
  journal_->append(action.sequence, action.records);
  sync_journal();
}

void World::perform(const Reply& action) {
  note(40, action.process, action.request);
  send_to_process(action.process, [action](Process& p) {
    auto waiting = p.waiting.extract(action.request);
    if (waiting) waiting.mapped()(action);
  });
}

void World::perform(const ToNode& action) {
  if (const auto* running = std::get_if<ActorRunning>(&action.message)) {
    for (auto& [id, use] : usage_) {
      const Process* p = live(id);
      if (p && use.is_actor && p->actor == running->actor) use.resources = use.lifetime;
    }
  }
  to_agent(FromController{action.message});
}

void World::perform(const PushActorUpdate& action) {
  note(41, action.process, action.update.actor.lo);
  send_to_process(action.process,
                  [this, update = action.update](Process& p) { on_actor_update(p, update); });
}

void World::perform(const PushGroupUpdate& action) {
  note(42, action.process, action.update.group.lo);
  send_to_process(action.process,
                  [this, update = action.update](Process& p) { on_group_update(p, update); });
}

}  // namespace sheaf::sim
