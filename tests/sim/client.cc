// What every simulated process does: submit tasks and actors through leases, and run them.
#include <fmt/format.h>

#include "tests/sim/world.h"
#include "tests/sim/world_requests.h"

namespace sheaf::sim {

// ---- Submitting ---------------------------------------------------------------------------------

void World::submit(Process& p, Task task) {
  task.id = next_task_++;
  task.owner = p.id;
  ++p.tasks_open;
  p.classes.at(task.class_id).queue.push_back(task.id);
  const uint32_t class_id = task.class_id;
  tasks_[task.id] = std::move(task);
  update_request(p, class_id);
}

// Level-triggered: says what is wanted now whenever that differs from what the agent believes.
void World::update_request(Process& p, uint32_t class_id) {
  ClassQueue& c = p.classes.at(class_id);
  const auto want = static_cast<uint32_t>(c.queue.size());
  if (want == c.requested) return;
  c.requested = want;
  LeaseRequested request{p.id, p.job, class_id, c.spec, want};
  send_to_daemon(p.id, [this, request = std::move(request)] { to_agent(request); });
}

void World::on_grant(Process& p, const GrantLease& grant) {
  ClassQueue& c = p.classes.at(grant.class_id);
  if (c.requested > 0) --c.requested;
  p.leases[grant.lease] = {grant.worker, grant.class_id, 0, false};
  use_lease(p, grant.lease);
}

void World::use_lease(Process& p, uint64_t id) {
  ClientLease& lease = p.leases.at(id);
  ClassQueue& c = p.classes.at(lease.class_id);
  if (lease.recalled || c.queue.empty()) {
    give_lease_back(p, id, false);
    return;
  }
  lease.task = c.queue.front();
  c.queue.pop_front();
  // Straight to the worker, past the daemon: a dead one loses it silently.
  after(delay(1, 100), [this, task = lease.task, worker = lease.worker, client = p.id, id] {
    if (Process* target = live(worker)) start_task(*target, task, client, id);
  });
  update_request(p, lease.class_id);
}

void World::give_lease_back(Process& p, uint64_t id, bool worker_exits) {
  const uint32_t class_id = p.leases.at(id).class_id;
  const ProcessId worker = p.leases.at(id).worker;
  p.leases.erase(id);
  send_to_daemon(p.id, [this, client = p.id, id, worker, worker_exits] {
    auto use = usage_.find(worker);
    if (use != usage_.end() && use->second.lease == id) {
      if (worker_exits) use->second.blocked = true;
      else usage_.erase(use);
    }
    to_agent(LeaseReturned{client, id, worker_exits});
  });
  update_request(p, class_id);
}

void World::on_refused(Process& p, uint32_t class_id) {
  ClassQueue& c = p.classes.at(class_id);
  c.requested = 0;
  std::deque<uint64_t> refused = std::move(c.queue);
  c.queue.clear();
  for (uint64_t task : refused) task_ended(p, task);
}

void World::on_peer_down(Process& p, ProcessId peer) {
  std::vector<uint64_t> lost;
  for (const auto& [id, lease] : p.leases) {
    if (lease.worker == peer) lost.push_back(id);
  }
  for (uint64_t id : lost) {
    const ClientLease lease = p.leases.at(id);
    p.leases.erase(id);
    if (lease.task != 0) p.classes.at(lease.class_id).queue.push_front(lease.task);
    update_request(p, lease.class_id);
  }
}

void World::on_task_done(Process& p, uint64_t lease, uint64_t task) {
  auto it = p.leases.find(lease);
  if (it == p.leases.end() || it->second.task != task) return;   // the worker was given up
  it->second.task = 0;
  const uint32_t class_id = it->second.class_id;
  ++stats_.tasks;
  if (random_.one_in(15)) {
    const ProcessId worker = it->second.worker;
    give_lease_back(p, lease, true);
    after(delay(10, 3000), [this, worker, life = life_] {
      if (life == life_) kill_process(worker);
    });
  } else if (random_.one_in(8) && p.classes.at(class_id).queue.empty()) {
    // An idle lease is kept for a moment, as the runtime does.
    after(delay(100, 3000), [this, id = p.id, lease, life = life_] {
      Process* client = life == life_ ? live(id) : nullptr;
      if (!client || !client->leases.contains(lease)) return;
      if (client->leases.at(lease).task == 0) use_lease(*client, lease);
    });
  } else {
    use_lease(p, lease);
  }
  task_ended(p, task);
}

void World::task_ended(Process& p, uint64_t id) {
  const Task task = tasks_.at(id);
  tasks_.erase(id);
  --p.tasks_open;
  for (auto& [group_id, use] : p.groups) {
    if (use.class_id == task.class_id && use.tasks_left > 0) {
      group_task_ended(p, use);
      break;
    }
  }
  if (task.parent != 0 && p.running == task.parent && --p.children_open == 0) {
    send_to_daemon(p.id, [this, worker = p.id] {
      if (auto use = usage_.find(worker); use != usage_.end()) use->second.blocked = false;
      to_agent(WorkerUnblocked{worker});
    });
    const Time duration = task.duration;
    after(duration, [this, worker = p.id, running = p.running] {
      Process* self = live(worker);
      if (self && self->running == running) finish_task(*self);
    });
  }
  if (p.driver) check_driver_done(p);
}

// ---- Working ------------------------------------------------------------------------------------

void World::start_task(Process& worker, uint64_t id, ProcessId client, uint64_t lease) {
  auto it = tasks_.find(id);
  if (it == tasks_.end()) return;   // its owner is gone
  const Task task = it->second;
  if (worker.running != 0) fail("LeaseConservation", "a worker was given two tasks at once");
  worker.running = id;
  worker.running_for = client;
  worker.running_lease = lease;
  if (task.children == 0) {
    after(task.duration, [this, process = worker.id, id] {
      Process* self = live(process);
      if (self && self->running == id) finish_task(*self);
    });
    return;
  }
  worker.children_open = task.children;
  send_to_daemon(worker.id, [this, process = worker.id] {
    if (auto use = usage_.find(process); use != usage_.end()) use->second.blocked = true;
    to_agent(WorkerBlocked{process});
  });
  protocol::SchedulingClass spec;
  if (!random_.one_in(4)) spec.resources = {{"CPU", kResourceUnit}};
  const uint32_t class_id = class_of(worker, spec);
  for (uint32_t i = 0; i < task.children; ++i) {
    Task child;
    child.class_id = class_id;
    child.duration = delay(10, 5000);
    child.depth = task.depth + 1;
    child.parent = id;
    child.children = child.depth < 3 && random_.one_in(6) ? 1 : 0;
    submit(worker, child);
  }
}

void World::finish_task(Process& worker) {
  const uint64_t task = worker.running, lease = worker.running_lease;
  const ProcessId client = worker.running_for;
  worker.running = 0;
  after(delay(1, 100), [this, client, lease, task, life = life_] {
    Process* owner = life == life_ ? live(client) : nullptr;
    if (owner) on_task_done(*owner, lease, task);
  });
  if (worker.exiting && !worker.leaving) {
    worker.leaving = true;
    after(delay(10, 2000), [this, id = worker.id, life = life_] {
      if (life == life_) kill_process(id);
    });
  }
}

// ---- Actors -------------------------------------------------------------------------------------

void World::become_actor(Process& worker, const StartActor& start) {
  worker.actor = start.actor;
  worker.actor_incarnation = start.incarnation;
  worker.actor_ready = false;
  const bool broken = random_.one_in(30);
  after(delay(50, 5000), [this, id = worker.id, actor = start.actor, broken,
                          incarnation = start.incarnation] {
    Process* self = live(id);
    if (!self || self->actor != actor) return;
    self->actor_ready = !broken;
    protocol::ActorStarted started{actor, incarnation, !broken, {}};
    if (broken) started.error = {ErrorKind::kUserException, "constructor raised", "", {}};
    post(*self, started);
    if (!broken && random_.one_in(20)) {   // exit_actor() at some point
      after(delay(100, 50000), [this, id, actor, incarnation] {
        Process* process = live(id);
        if (!process) return;
        post(*process, protocol::ActorExiting{actor, incarnation, true, "exit_actor()"});
        after(delay(10, 1000), [this, id] { kill_process(id); });
      });
    }
  });
}

void World::on_actor_update(Process& p, const protocol::ActorUpdate& update) {
  auto it = p.actors.find(update.actor);
  if (it == p.actors.end() || it->second.done) return;
  ActorHandle& handle = it->second;
  if (update.incarnation < handle.incarnation) fail("OneAuthority", "updates went backwards");
  if (update.incarnation == handle.incarnation && update.process != 0 && handle.process != 0 &&
      update.process != handle.process) {
    fail("OneAuthority", "two processes speak for one incarnation");
  }
  handle.state = update.state;
  handle.incarnation = update.incarnation;
  handle.process = update.process;
  // Calls to the one before end with a typed error.
  if (update.state != protocol::ActorState::kAlive) handle.in_flight = 0;
  if (update.state == protocol::ActorState::kDead) {
    handle.calls_left = 0;
    handle.done = true;
    if (p.driver) check_driver_done(p);
    return;
  }
  call_actor(p, handle);
}

void World::call_actor(Process& p, ActorHandle& handle) {
  if (handle.state != protocol::ActorState::kAlive) return;
  while (handle.calls_left > 0 && handle.in_flight < 4) {
    --handle.calls_left;
    ++handle.in_flight;
    after(delay(1, 200), [this, life = life_, caller = p.id, actor = handle.actor,
                          process = handle.process, incarnation = handle.incarnation] {
      Process* target = life == life_ ? live(process) : nullptr;
      if (!target || target->actor != actor || !target->actor_ready) return;
      after(delay(1, 2000), [this, life, caller, actor, incarnation, process] {
        Process* owner = life == life_ && live(process) ? live(caller) : nullptr;
        if (!owner) return;
        auto it = owner->actors.find(actor);
        if (it == owner->actors.end() || it->second.incarnation != incarnation) return;
        if (it->second.in_flight == 0) return;
        --it->second.in_flight;
        ++stats_.calls;
        call_actor(*owner, it->second);
      });
    });
  }
  maybe_end_handle(p, handle);
}

void World::maybe_end_handle(Process& p, ActorHandle& handle) {
  if (handle.done || handle.calls_left > 0 || handle.in_flight > 0 || !handle.created) return;
  handle.done = true;
  const ActorId actor = handle.actor;
  if (handle.kill_at_end) {
    ask(p, protocol::ActorKill{actor, true}, [this, actor](const Reply& reply) {
      if (reply.code == StatusCode::kOk) detached_.erase(actor);
    });
    // From here on it may or may not be found after a crash.
    detached_.erase(actor);
  } else {
    post(p, protocol::ActorHold{actor, -1});
  }
  if (p.driver) check_driver_done(p);
}

}  // namespace sheaf::sim
