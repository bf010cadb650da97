// The head's deaths and next lives, and what its members do meanwhile: as launchers/service_head.cc,
// with the real ledger.
#include <fmt/format.h>

#include "launchers/control_events.h"
#include "tests/sim/cluster.h"
#include "tests/sim/cluster_requests.h"

namespace sheaf::sim {

void Cluster::start_head() {
  SimNode& node = head();
  ++node.life;
  note(6, node.life);
  node.id = {1000, node.life};
  node.number = 1;
  node.up = node.member = true;
  node.paused_until = {};
  node.tick_at.reset();
  node.next_process = 2;
  node.gone.clear();
  node.agent_told.clear();
  numbers_[1] = {0, node.life};
  if (!journal_) journal_ = std::make_unique<MemoryJournal>(nullptr, false);
  journal_->reopen([this](JournalCompletion done) {
    at_node(head(), now_ + delay(1, 50),
            [this, done](SimNode&) { to_controller(JournalSynced{done}); });
  });
  controller_ = std::make_unique<Controller>();
  auto replayed = journal_->replay();
  if (auto strange = controller_->restore(replayed->records); !strange.empty()) {
    fail("NoHang", "the journal is not understood: " + strange.front());
  }
  node.incarnation = static_cast<uint16_t>(controller_->boot());
  // Who has a number and is not expected was declared dead.
  for (uint16_t number = 2; number <= controller_->last_number(); ++number) {
    if (!controller_->expected().contains(number)) node.gone.insert(number);
  }
  AgentConfig config;
  config.node = node.id;
  config.number = 1;
  config.total = node.total;
  config.labels = node.labels;
  node.agent = std::make_unique<Agent>(config);
  for (const ControllerAction& action : controller_->start(now_)) {
    std::visit([&](const auto& a) { act(a); }, action);
  }
  to_controller(NodeJoined{node.id, node.total, node.labels, "head", "head:1", 1, 0});
  // Its mesh looks for those that may come back: a port that refuses is as good as a death.
  for (const auto& [number, expected] : controller_->expected()) {
    if (expected.address.empty()) continue;
    at_node(node, now_ + delay(200, 30000), [this, number = number, id = expected.node](SimNode&) {
      if (by_number(number) || cut(0, numbers_.at(number).first)) return;
      to_controller(NodeLost{id, {ErrorKind::kNodeDied, "connection refused", "", {}}});
    });
  }
}

void Cluster::crash_head() {
  SimNode& node = head();
  if (!node.up) return;
  ++stats_.head_deaths;
  note(7, node.life);
  node.up = node.member = false;
  std::erase_if(processes_, [&](const auto& entry) {
    if (entry.second.slot != 0) return false;
    drivers_alive_ -= entry.second.driver;
    return true;
  });
  std::erase_if(tasks_, [&](const auto& entry) {
    auto owner = processes_.find(entry.second.owner);
    return owner == processes_.end();
  });
  journal_->crash(random_.below(journal_->unsynced() + 1));
  node.agent.reset();
  controller_.reset();
  controller_tick_.reset();
  sync_planned_ = false;
  for (const auto& other : nodes_) {
    if (other->slot == 0 || !other->up) continue;
    at_node(*other, now_ + delay(100, 20000), [this](SimNode& self) { seek_head(self); });
  }
  at(now_ + delay(20000, random_.one_in(4) ? 5000000 : 800000), [this] { start_head(); });
}

// Looks where the head was, until the one that is there is its own.
void Cluster::seek_head(SimNode& node) {
  if (node.number == 0) return;
  at(now_ + delay(50, 500), [this, slot = node.slot, life = node.life, sent_at = now_] {
    SimNode& self = *nodes_[slot];
    if (self.life != life || !self.up) return;
    const bool silent = cut(0, slot) || (head().up && head().paused_until > now_);
    const bool refused = !silent && !head().up;
    const uint64_t found = silent || refused ? 0 : head().life;
    at_node(self, now_ + delay(50, 500), [this, sent_at, refused, found](SimNode& n) {
      head_sought(n, sent_at, refused, found);
    });
  });
}

void Cluster::head_sought(SimNode& node, Time sent_at, bool refused, uint64_t found) {
  if (found != 0 && found == node.head_life) return;
  if ((refused || found != 0) && !node.away) lose_head(node);   // another life proves it, too
  else if (refused && node.lease) node.lease->renewed(sent_at);
  else if (found != 0) return rejoin(node, found);
  at_node(node, now_ + delay(20000, 300000), [this](SimNode& self) { seek_head(self); });
}

void Cluster::lose_head(SimNode& node) {
  note(8, node.number);
  node.away = true;
  const NodeGone gone{{}, 1, node.head_incarnation,
                      {ErrorKind::kNodeDied, "the head's daemon has died", "", {}}, 0};
  each_process(node, [&](SimProcess& p) {
    to_process(p.id, [this, gone](SimProcess& self) {
      on_node_down(self, 1, gone.incarnation);
    });
  });
  to_agent(node, FromController{gone});
}

void Cluster::rejoin(SimNode& node, uint64_t life) {
  note(9, node.number);
  // The head's fabric refuses whom the journal knows as dead.
  if (head().life == life && head().gone.contains(node.number)) return stop_node(node, true);
  node.away = false;
  node.rejoining = true;
  node.head_life = life;
  node.head_incarnation = head().incarnation;
  node.silent_since.clear();
  join(node);
  const auto refuse = [&](ProcessId process, uint64_t request) {
    fail("NoHang", fmt::format("request {} of {:x} may not be repeated", request, process));
  };
  for (const launchers::ForwardedRequest& request : node.ledger.to_repeat(refuse)) {
    forward(node, request);
  }
  // Should it die before it hears of this: whoever was alive then was told to look for it.
  if (head().life != life) seek_head(node);
}

void Cluster::forward(SimNode& node, const launchers::ForwardedRequest& request) {
  auto event = launchers::control_event(static_cast<protocol::MessageType>(request.type),
                                        request.process, request.request,
                                        wire::as_bytes(request.body));
  send(node, 1, 30 + request.body.size(),
       [this, event = std::move(*event)](SimNode&) { to_controller(event); });
}

void Cluster::add_what_lives(SimNode& node, NodeJoin& join) {
  join.actors = node.agent->live_actors();
  for (LiveActor& live : join.actors) {
    live.running = live.running || node.ledger.has_started(live.process);
  }
  join.groups = node.agent->live_groups();
  each_process(node, [&](SimProcess& p) {
    LiveClient live;
    live.process = p.id;
    live.kind = p.driver ? protocol::ClientKind::kDriver : protocol::ClientKind::kWorker;
    live.job = p.job;
    node.ledger.describe(live);
    join.clients.push_back(std::move(live));
  });
  for (const auto& [id, job] : node.jobs) join.jobs.push_back(job);
  join.exited = node.ledger.exited();
}

bool Cluster::knows_dead(const SimNode& node, ProcessId process) {
  if (node.gone.contains(node_of(process))) return true;
  if (node.slot == 0 || node_of(process) != 1) return false;
  return node.away || incarnation_of(process) != node.head_incarnation;
}

}  // namespace sheaf::sim
