// The simulated processes: drivers' programs, and workers anywhere that run what they are sent.
#include <fmt/format.h>

#include "tests/sim/cluster.h"
#include "tests/sim/cluster_requests.h"

namespace sheaf::sim {

using protocol::ActorState;
using protocol::GroupStrategy;
using protocol::StrategyKind;

SimProcess& Cluster::make_process_on(SimNode& node, bool driver, JobId job) {
  const ProcessId id = make_process(node.number, node.incarnation, node.next_process++);
  SimProcess& p = processes_[id];
  p.id = id;
  p.slot = node.slot;
  p.driver = driver;
  p.job = job;
  drivers_alive_ += driver;
  return p;
}

SimProcess* Cluster::live(ProcessId id) {
  auto it = processes_.find(id);
  return it == processes_.end() || !it->second.alive ? nullptr : &it->second;
}

SimNode* Cluster::node_of_process(ProcessId id) { return by_number(node_of(id)); }

void Cluster::to_daemon(SimProcess& p, std::function<void(SimNode&)> what) {
  p.to_daemon = std::max(p.to_daemon, now_ + delay(1, 100));
  at_node(*nodes_[p.slot], p.to_daemon, std::move(what));
}

void Cluster::to_process(ProcessId id, std::function<void(SimProcess&)> what) {
  SimProcess* p = live(id);
  if (!p) return;
  p->from_daemon = std::max(p->from_daemon, now_ + delay(1, 100));
  at_node(*nodes_[p->slot], p->from_daemon, [this, id, what = std::move(what)](SimNode&) {
    if (SimProcess* self = live(id)) what(*self);
  });
}

// Straight over a lane, or relayed by the daemons.
void Cluster::between(ProcessId from, ProcessId to, std::function<void(SimProcess&)> what) {
  SimNode* source = node_of_process(from);
  if (!source) return;
  if (node_of(from) == node_of(to)) {
    return at_node(*source, now_ + delay(1, 50), [this, to, what = std::move(what)](SimNode&) {
      if (SimProcess* self = live(to)) what(*self);
    });
  }
  send(*source, node_of(to), 0, [this, to, what = std::move(what)](SimNode&) {
    to_process(to, what);
  });
}

void Cluster::kill_process(ProcessId id) {
  SimProcess* p = live(id);
  if (!p) return;
  note(2, id);
  p->alive = false;
  to_daemon(*p, [this, id](SimNode& node) { announce_death(node, id); });
}

void Cluster::announce_death(SimNode& node, ProcessId id) {
  auto it = processes_.find(id);
  if (it == processes_.end()) return;
  const ErrorRecord cause{ErrorKind::kWorkerCrashed, "killed by the simulator", "", {}};
  for (uint16_t number : it->second.related) {
    if (number == node.number) continue;
    send(node, number, 40, [this, id, cause](SimNode& other) {
      to_agent(other, ProcessDied{id, cause, true});
      each_process(other, [&](SimProcess& p) {
        to_process(p.id, [this, id](SimProcess& self) { on_peer_down(self, id); });
      });
    });
  }
  each_process(node, [&](SimProcess& p) {
    to_process(p.id, [this, id](SimProcess& self) { on_peer_down(self, id); });
  });
  if (it->second.tasks_open > 0) {
    std::erase_if(tasks_, [&](const auto& entry) { return entry.second.owner == id; });
  }
  node.ledger.client_left(id);
  drivers_alive_ -= it->second.driver;
  processes_.erase(it);
  to_agent(node, ProcessDied{id, cause, true});
  tell_head(node, ClientLeft{id, cause}, 40);
}

// ---- Programs -----------------------------------------------------------------------------------

void Cluster::start_driver(SimNode& node) {
  ++drivers_started_;
  SimProcess& p = make_process_on(node, true, 0);
  tell_head(node, ClientJoined{p.id, protocol::ClientKind::kDriver, 0}, 13);
  ask(p, protocol::RegisterJob{}, [this](SimProcess& self, const Reply& reply) {
    auto answer = wire::decode<protocol::RegisterJobReply>(reply.payload);
    if (!answer) return;
    self.job = answer->job;
    run_program(self);
  });
}

void Cluster::run_program(SimProcess& p) {
  if (options_.tasks) {
    protocol::SchedulingClass spec;
    spec.resources = {{"CPU", kResourceUnit}};
    const uint32_t class_id = class_of(p, spec);
    const uint32_t submitters =
        options_.submitters ? options_.submitters : static_cast<uint32_t>((nodes_.size() + 1) / 2);
    for (uint32_t i = 0; i < options_.tasks / submitters; ++i) {
      add_task(p, class_id, delay(5000, 15000));
    }
    update_request(p, class_id);
    return check_done(p);
  }
  for (uint64_t n = random_.between(1, 4); n > 0; --n) add_tasks(p);
  for (uint64_t n = random_.below(5); n > 0; --n) add_actor(p);
  for (uint64_t n = random_.below(3); n > 0; --n) add_group(p);
  check_done(p);
}

uint32_t Cluster::class_of(SimProcess& p, const protocol::SchedulingClass& spec) {
  for (const auto& [id, c] : p.classes) {
    if (c.spec == spec) return id;
  }
  const auto id = static_cast<uint32_t>(p.classes.size() + 1);
  p.classes[id].spec = spec;
  return id;
}

protocol::Strategy Cluster::some_strategy() {
  protocol::Strategy strategy;
  const uint64_t kind = random_.below(8);
  if (kind == 0) strategy.kind = StrategyKind::kSpread;
  if (kind == 1) {
    strategy.kind = StrategyKind::kNodeAffinity;
    strategy.soft = random_.one_in(2);
    strategy.node = to_hex(nodes_[random_.below(nodes_.size())]->id);
  }
  if (kind == 2) strategy.hard_labels = {{"zone", "even"}};
  if (kind == 3) strategy.soft_labels = {{"zone", "odd"}};
  return strategy;
}

void Cluster::add_tasks(SimProcess& p) {
  protocol::SchedulingClass spec;
  if (random_.one_in(4)) spec.resources = {{"GPU", kResourceUnit / 2}};
  else spec.resources = {{"CPU", kResourceUnit / (random_.one_in(3) ? 2 : 1)}};
  spec.strategy = some_strategy();
  // GPUs may be where an affinity or a label does not lead: those would wait for ever.
  if (spec.resources.contains("GPU")) spec.strategy = {};
  const uint32_t class_id = class_of(p, spec);
  if (random_.one_in(3)) {
    p.classes.at(class_id).bytes_at = {{static_cast<uint16_t>(random_.between(1, 6)), 1 << 20}};
  }
  for (uint64_t n = random_.between(1, 40); n > 0; --n) submit(p, class_id, delay(100, 20000));
}

void Cluster::add_actor(SimProcess& p) {
  protocol::ActorSpec spec;
  spec.actor = ActorId::make(p.id, p.next_id++);
  spec.max_restarts = static_cast<int32_t>(random_.below(4)) - 1;
  spec.creation_resources = {{"CPU", kResourceUnit}};
  if (random_.one_in(3)) spec.placement.resources = {{"CPU", kResourceUnit / 2}};
  spec.placement.strategy = some_strategy();
  p.actors[spec.actor].calls_left = static_cast<uint32_t>(random_.between(1, 30));
  post(p, protocol::ActorSubscribe{spec.actor});
  ask(p, protocol::ActorCreate{spec},
      [this, id = spec.actor](SimProcess& self, const Reply& reply) {
        SimHandle& handle = self.actors.at(id);
        handle.created = true;
        if (reply.code != StatusCode::kOk) handle.done = true;
        call_actor(self, id);
      });
}

void Cluster::add_group(SimProcess& p) {
  protocol::GroupCreate spec;
  spec.group = PlacementGroupId::make(p.id, p.next_id++);
  spec.bundles.assign(random_.between(1, 2), {{"CPU", kResourceUnit}});
  const GroupStrategy strategies[] = {GroupStrategy::kPack, GroupStrategy::kSpread,
                                      GroupStrategy::kStrictSpread};
  spec.strategy = strategies[random_.below(3)];
  protocol::SchedulingClass task_class;
  task_class.resources = {{"CPU", kResourceUnit}};
  task_class.strategy.kind = StrategyKind::kPlacementGroup;
  task_class.strategy.group = spec.group;
  if (random_.one_in(2)) {
    task_class.strategy.bundle = static_cast<int32_t>(random_.below(spec.bundles.size()));
  }
  SimGroup& group = p.groups[spec.group];
  group.class_id = class_of(p, task_class);
  group.tasks_left = static_cast<uint32_t>(random_.between(1, 6));
  const uint32_t tasks = group.tasks_left, class_id = group.class_id;
  ask(p, spec, [this, tasks, class_id](SimProcess& self, const Reply&) {
    for (uint32_t i = 0; i < tasks; ++i) submit(self, class_id, delay(100, 20000));
  });
}

void Cluster::check_done(SimProcess& p) {
  if (!p.driver || p.leaving || p.tasks_open > 0 || p.job == 0) return;
  for (const auto& [id, handle] : p.actors) {
    if (!handle.done) return;
  }
  for (const auto& [id, group] : p.groups) {
    if (!group.removed) return;
  }
  p.leaving = true;
  at_node(*nodes_[p.slot], now_ + delay(1000, 100000),
          [this, id = p.id](SimNode&) { kill_process(id); });
}

// ---- Tasks --------------------------------------------------------------------------------------

void Cluster::add_task(SimProcess& p, uint32_t class_id, Time duration) {
  const uint64_t id = next_task_++;
  tasks_[id] = {class_id, p.id, duration};
  ++p.tasks_open;
  p.classes.at(class_id).queue.push_back(id);
}

void Cluster::submit(SimProcess& p, uint32_t class_id, Time duration) {
  add_task(p, class_id, duration);
  update_request(p, class_id);
}

void Cluster::update_request(SimProcess& p, uint32_t class_id) {
  SimClass& c = p.classes.at(class_id);
  const auto want = static_cast<uint32_t>(c.queue.size());
  if (want == c.requested) return;
  c.requested = want;
  to_daemon(p, [this, id = p.id, class_id](SimNode& node) {
    SimProcess* self = live(id);
    if (!self) return;
    const SimClass& now = self->classes.at(class_id);
    to_agent(node, LeaseRequested{id, self->job, class_id, now.spec, now.requested, now.bytes_at});
  });
}

void Cluster::on_grant(SimProcess& p, uint32_t class_id, uint64_t lease, ProcessId worker) {
  SimClass& c = p.classes.at(class_id);
  if (c.requested > 0) --c.requested;
  p.leases[lease] = {worker, class_id, 0, false};
  // Its node may have been declared dead while the grant was on its way through this one.
  if (knows_dead(*nodes_[p.slot], worker)) return on_peer_down(p, worker);
  use_lease(p, lease);
}

void Cluster::use_lease(SimProcess& p, uint64_t id) {
  SimLease& lease = p.leases.at(id);
  SimClass& c = p.classes.at(lease.class_id);
  if (lease.recalled || c.queue.empty()) return give_back(p, id);
  lease.task = c.queue.front();
  c.queue.pop_front();
  between(p.id, lease.worker, [this, task = lease.task, id, client = p.id](SimProcess& worker) {
    start_task(worker, task, id, client);
  });
  update_request(p, lease.class_id);
}

void Cluster::give_back(SimProcess& p, uint64_t id) {
  const uint32_t class_id = p.leases.at(id).class_id;
  p.leases.erase(id);
  to_daemon(p, [this, client = p.id, id](SimNode& node) {
    to_agent(node, LeaseReturned{client, id, false});
  });
  update_request(p, class_id);
}

void Cluster::on_refused(SimProcess& p, uint32_t class_id) {
  SimClass& c = p.classes.at(class_id);
  c.requested = 0;
  const std::deque<uint64_t> refused = std::move(c.queue);
  c.queue.clear();
  for (uint64_t task : refused) task_ended(p, task);
}

void Cluster::on_peer_down(SimProcess& p, ProcessId worker) {
  std::vector<uint64_t> lost;
  for (const auto& [id, lease] : p.leases) {
    if (lease.worker == worker) lost.push_back(id);
  }
  for (uint64_t id : lost) {
    const SimLease lease = p.leases.at(id);
    p.leases.erase(id);
    if (lease.task != 0) p.classes.at(lease.class_id).queue.push_front(lease.task);
    update_request(p, lease.class_id);
  }
}

void Cluster::on_node_down(SimProcess& p, uint16_t number, uint16_t incarnation) {
  std::set<ProcessId> workers;
  for (const auto& [id, lease] : p.leases) {
    if (node_of(lease.worker) == number && incarnation_of(lease.worker) == incarnation) {
      workers.insert(lease.worker);
    }
  }
  for (ProcessId worker : workers) on_peer_down(p, worker);
}

void Cluster::start_task(SimProcess& worker, uint64_t id, uint64_t lease, ProcessId client) {
  auto it = tasks_.find(id);
  if (it == tasks_.end()) return;   // its owner is gone
  if (worker.running != 0) fail("LeaseConservation", "a worker was given two tasks at once");
  worker.running = id;
  ++busy_;
  if (stats_.filled_at == Time{0} && busy_ * 10 >= nodes_.size() * 8 * 9) stats_.filled_at = now_;
  at_node(*nodes_[worker.slot], now_ + it->second.duration,
          [this, process = worker.id, id, lease, client](SimNode&) {
            SimProcess* self = live(process);
            if (!self || self->running != id) return;
            self->running = 0;
            --busy_;
            if (auto task = tasks_.find(id); task != tasks_.end()) {
              stats_.work_done += task->second.duration;
            }
            if (node_of(client) != node_of(process)) ++stats_.remote_tasks;
            between(process, client,
                    [this, lease, id](SimProcess& p) { on_task_done(p, lease, id); });
          });
}

void Cluster::on_task_done(SimProcess& p, uint64_t lease, uint64_t task) {
  auto it = p.leases.find(lease);
  if (it == p.leases.end() || it->second.task != task) return;   // the worker was given up
  it->second.task = 0;
  ++stats_.tasks;
  stats_.tasks_done = now_;
  use_lease(p, lease);
  task_ended(p, task);
}

void Cluster::task_ended(SimProcess& p, uint64_t id) {
  const uint32_t class_id = tasks_.at(id).class_id;
  tasks_.erase(id);
  --p.tasks_open;
  for (auto& [group, use] : p.groups) {
    if (use.class_id != class_id || use.tasks_left == 0 || --use.tasks_left > 0) continue;
    ask(p, protocol::GroupRemove{group}, [this, group](SimProcess& self, const Reply&) {
      self.groups.at(group).removed = true;
      check_done(self);
    });
  }
  check_done(p);
}

// ---- Actors -------------------------------------------------------------------------------------

void Cluster::on_actor_update(SimProcess& p, const protocol::ActorUpdate& update) {
  auto it = p.actors.find(update.actor);
  if (it == p.actors.end() || it->second.done) return;
  SimHandle& handle = it->second;
  if (update.incarnation < handle.incarnation) fail("OneAuthority", "updates went backwards");
  handle.state = update.state;
  handle.incarnation = update.incarnation;
  handle.process = update.process;
  if (update.state != ActorState::kAlive) handle.in_flight = 0;
  if (update.state == ActorState::kDead) {
    handle.done = true;
    return check_done(p);
  }
  call_actor(p, update.actor);
}

void Cluster::call_actor(SimProcess& p, ActorId id) {
  SimHandle& handle = p.actors.at(id);
  if (handle.done) return;
  while (handle.state == ActorState::kAlive && handle.calls_left > 0 && handle.in_flight < 4) {
    --handle.calls_left;
    ++handle.in_flight;
    between(p.id, handle.process, [this, id, caller = p.id](SimProcess& target) {
      if (target.actor != id || !target.actor_ready) return;
      between(target.id, caller, [this, id, from = target.id](SimProcess& self) {
        SimHandle& own = self.actors.at(id);
        if (own.process != from || own.in_flight == 0) return;
        --own.in_flight;
        ++stats_.calls;
        call_actor(self, id);
      });
    });
  }
  if (handle.calls_left > 0 || handle.in_flight > 0 || !handle.created) return;
  handle.done = true;
  post(p, protocol::ActorHold{id, -1});
  check_done(p);
}

}  // namespace sheaf::sim
