// What a daemon does around its agent, and the head's around the controller.
#include "tests/sim/cluster.h"
#include "tests/sim/cluster_requests.h"

namespace sheaf::sim {

namespace {
constexpr size_t kHead = 11;   // of a message in the mesh: type, number, length
}

void Cluster::to_agent(SimNode& node, AgentEvent event) {
  work_.push_back([this, slot = node.slot, life = node.life, event = std::move(event)] {
    SimNode& self = *nodes_[slot];
    if (self.life != life || !self.up || !self.agent) return;
    note(10, self.number, event.index());
    if (const auto* told = std::get_if<FromController>(&event)) {
      if (const auto* gone = std::get_if<NodeGone>(&told->message)) {
        if (gone->number != 1) self.agent_told.insert(gone->number);
      }
    }
    for (const AgentAction& action : self.agent->handle(event, now_)) perform(self, action);
    check_books(self);
    tick(self);
  });
  drain();
}

void Cluster::to_controller(ControllerEvent event) {
  work_.push_back([this, event = std::move(event)] {
    if (!controller_) return;
    note(20, event.index());
    for (const ControllerAction& action : controller_->handle(event, now_)) {
      std::visit([&](const auto& a) { act(a); }, action);
    }
    tick_controller();
  });
  drain();
}

void Cluster::perform(SimNode& node, const AgentAction& action) {
  std::visit([&](const auto& a) { act(node, a); }, action);
}

// ---- The agent's actions ------------------------------------------------------------------------

void Cluster::act(SimNode& node, const SpawnWorker& a) {
  const bool fails = faults_on_ && random_.one_in(40);
  at_node(node, now_ + delay(500, 5000), [this, a, fails](SimNode& self) {
    if (fails) {
      const ErrorRecord error{ErrorKind::kSystem, "fork failed", "", {}};
      return to_agent(self, WorkerSpawnFailed{a.token, error});
    }
    const ProcessId id = make_process_on(self, false, a.key.job).id;
    tell_head(self, ClientJoined{id, protocol::ClientKind::kWorker, a.key.job}, 13);
    to_agent(self, WorkerRegistered{a.token, id});
  });
}

void Cluster::act(SimNode& node, const GrantLease& a) {
  note(32, a.lease, a.worker);
  const uint16_t there = node_of(a.client);
  // Dead or not: the news of its death go to all that know of it.
  if (auto worker = processes_.find(a.worker); worker != processes_.end()) {
    worker->second.related.insert(there);
  }
  if (there == node.number) {
    return to_process(a.client, [this, a](SimProcess& p) {
      on_grant(p, a.class_id, a.lease, a.worker);
    });
  }
  send(node, there, kHead + 32, [this, a, from = node.number](SimNode& home) {
    to_agent(home, RemoteGrant{a.client, a.class_id, a.lease, from, a.worker});
    to_process(a.client, [this, a](SimProcess& p) { on_grant(p, a.class_id, a.lease, a.worker); });
  });
}

void Cluster::act(SimNode& node, const RecallLease& a) {
  const auto deliver = [this, lease = a.lease](SimProcess& p) {
    auto it = p.leases.find(lease);
    if (it == p.leases.end()) return;
    it->second.recalled = true;
    if (it->second.task == 0) give_back(p, lease);
  };
  const uint16_t there = node_of(a.client);
  if (there == node.number) return to_process(a.client, deliver);
  send(node, there, kHead + 16,
       [this, a, deliver](SimNode&) { to_process(a.client, deliver); });
}

void Cluster::act(SimNode& node, const RefuseLease& a) {
  const uint16_t there = node_of(a.client);
  if (there == node.number) {
    return to_process(a.client, [this, a](SimProcess& p) { on_refused(p, a.class_id); });
  }
  send(node, there, kHead + 60, [this, a, from = node.number](SimNode& home) {
    to_agent(home, RemoteRefused{a.client, a.class_id, from, a.error});
  });
}

void Cluster::act(SimNode& node, const StartActor& a) {
  note(35, a.actor.lo, a.incarnation);
  auto [started, first] = started_.try_emplace(a.actor, a.incarnation);
  if (!first && a.incarnation <= started->second) {
    fail("OneAuthority", "an incarnation was started twice");
  }
  started->second = std::max(started->second, a.incarnation);
  to_process(a.worker, [this, a](SimProcess& p) {
    p.actor = a.actor;
    p.actor_incarnation = a.incarnation;
    at_node(*nodes_[p.slot], now_ + delay(50, 5000), [this, id = p.id](SimNode&) {
      SimProcess* self = live(id);
      if (!self) return;
      check_authority(self->actor, id, self->actor_incarnation);
      self->actor_ready = true;
      post(*self, protocol::ActorStarted{self->actor, self->actor_incarnation, true, {}});
    });
  });
}

void Cluster::act(SimNode& node, const KillWorker& a) {
  at_node(node, now_ + delay(1, 300), [this, id = a.process](SimNode&) { kill_process(id); });
}

void Cluster::act(SimNode& node, const ExitWorker& a) {
  to_process(a.process, [this](SimProcess& p) {
    at_node(*nodes_[p.slot], now_ + delay(100, 1000), [this, id = p.id](SimNode&) {
      SimProcess* self = live(id);
      if (self && self->running == 0) kill_process(id);
    });
  });
}

void Cluster::act(SimNode& node, const ToController& a) {
  const size_t bytes = options_.count_bytes ? kHead + encode(a.report).size() : 0;
  tell_head(node, FromNode{node.id, a.report}, bytes);
}

void Cluster::act(SimNode& node, const AskNode& a) {
  if (node.agent_told.contains(a.number)) fail("Fence", "a node that is dead is asked for leases");
  const ProcessId client = a.request.client;
  if (auto p = processes_.find(client); p != processes_.end()) p->second.related.insert(a.number);
  const size_t bytes = options_.count_bytes ? kHead + wire::encode(a.request).size() : 0;
  send(node, a.number, bytes,
       [this, request = a.request](SimNode& other) { to_agent(other, request); });
}

void Cluster::act(SimNode& node, const ReturnToNode& a) {
  if (node.agent_told.contains(a.number)) fail("Fence", "a lease goes back to a node that is dead");
  send(node, a.number, kHead + 17,
       [this, lease = a.lease](SimNode& other) { to_agent(other, lease); });
}

// ---- The controller's ---------------------------------------------------------------------------

void Cluster::act(const AppendJournal& a) {
  journal_->append(a.sequence, a.records);
  sync_journal();
}

void Cluster::act(const Reply& a) {
  const auto deliver = [a](SimProcess& p) {
    auto waiting = p.waiting.extract(a.request);
    if (waiting) waiting.mapped()(p, a);
  };
  if (node_of(a.process) == 1) return to_process(a.process, deliver);
  send(head(), node_of(a.process), kHead + 20 + a.payload.size(),
       [this, a, deliver](SimNode& self) {
         std::string bytes;
         wire::Writer writer(bytes);
         writer(protocol::Envelope{a.request}, protocol::ReplyHead{a.code, a.message});
         bytes += a.payload;
         (void)self.ledger.answered(a.process, wire::as_bytes(bytes));
         SimProcess* p = live(a.process);   // the first that a driver asks for is its job
         if (p && p->driver && p->job == 0 && a.code == StatusCode::kOk) {
           if (auto reply = wire::decode<protocol::RegisterJobReply>(a.payload)) p->job = reply->job;
         }
         to_process(a.process, deliver);
       });
}

void Cluster::act(const ToNode& a) {
  if (const auto* closed = std::get_if<BarrierClosed>(&a.message)) check_barrier(*closed);
  SimNode* node = by_number(a.number);
  if (node && node->id != a.node) node = nullptr;
  const auto* gone = std::get_if<NodeGone>(&a.message);
  const bool itself = gone && node && gone->number == a.number &&
                      gone->incarnation == node->incarnation;
  if (itself) check_condemned(*node);
  if (a.number == 1) return from_head(head(), a.message);
  size_t bytes = 0;
  if (options_.count_bytes) bytes = kHead + encode(a.message).size();
  if (std::holds_alternative<ClusterView>(a.message)) {
    ++stats_.views;
    stats_.view_bytes += bytes;
  }
  if (!node) return;
  send(head(), a.number, bytes, [this, message = a.message](SimNode& self) {
    from_head(self, message);
  });
}

void Cluster::act(const PushActorUpdate& a) {
  const auto deliver = [this, a](SimProcess& p) { on_actor_update(p, a.update); };
  if (node_of(a.process) == 1) return to_process(a.process, deliver);
  send(head(), node_of(a.process), kHead + 80, [this, a, deliver](SimNode& self) {
    self.ledger.updated(a.process, a.update);
    to_process(a.process, deliver);
  });
}

void Cluster::act(const NodeAccepted& a) {
  auto [known, first] = numbers_.try_emplace(a.number, LifeKey{});
  for (auto& node : nodes_) {
    if (node->id != a.node || !node->up) continue;
    const LifeKey life{node->slot, node->life};
    if (!first && known->second != life) fail("Fence", "a number was given out twice");
    known->second = life;
    at_node(*node, now_ + delay(50, 500), [this, a, from = head().life,
                                            incarnation = head().incarnation](SimNode& self) {
      if (!a.member && self.number == 0) {
        self.head_life = from;
        self.head_incarnation = incarnation;
        self.number = a.number;
        self.incarnation = a.incarnation;
        AgentConfig config;
        config.node = self.id;
        config.number = a.number;
        config.total = self.total;
        config.labels = self.labels;
        self.agent = std::make_unique<Agent>(config);
        join(self);
        if (head().life != from || !head().up) seek_head(self);
      } else if (a.member && self.head_life == from && !self.away) {
        const bool first = !self.lease;
        if (!first && !self.rejoining) return;
        self.lease.emplace(NodeLeaseConfig{}, self.asked_at);
        self.member = true;
        if (std::exchange(self.rejoining, false)) to_agent(self, ControllerBack{});
        if (first) heartbeat(self);
      }
    });
    return;
  }
}

void Cluster::act(const NodeRefused& a) {
  for (auto& node : nodes_) {
    if (node->id == a.node && node->up) return stop_node(*node, true);
  }
}

void Cluster::act(const RenewLease& a) {
  send(head(), a.number, kHead + 8, [sent_at = a.sent_at](SimNode& self) {
    if (self.lease) self.lease->renewed(sent_at);
  });
}

void Cluster::act(const FenceNode& a) {
  check_fence(a);
  head().gone.insert(a.number);
}

// ---- What the head tells a node -----------------------------------------------------------------

void Cluster::from_head(SimNode& node, NodeMessage message) {
  if (const auto* gone = std::get_if<NodeGone>(&message)) {
    const bool itself = gone->number == node.number && gone->incarnation == node.incarnation;
    if (itself) return stop_node(node, true);   // it has been told to go
    node_gone(node, *gone);
  } else if (const auto* job = std::get_if<JobStarted>(&message)) {
    node.jobs[job->job] = *job;
  } else if (const auto* ended = std::get_if<ForgetJob>(&message)) {
    node.jobs.erase(ended->job);
  }
  to_agent(node, FromController{message});
  if (const auto* gone = std::get_if<NodeGone>(&message)) {
    tell_head(node, FromNode{node.id, BarrierReached{gone->barrier}}, kHead + 9);
  }
}

void Cluster::node_gone(SimNode& node, const NodeGone& gone) {
  if (gone.number != 1) node.gone.insert(gone.number);
  reached_[gone.barrier].insert(node.number);
  each_process(node, [&](SimProcess& p) {
    to_process(p.id, [this, gone](SimProcess& self) {
      on_node_down(self, gone.number, gone.incarnation);
    });
  });
}

}  // namespace sheaf::sim
