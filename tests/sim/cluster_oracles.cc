// What must hold in a cluster: all the time, at every declared death, and when all is done.
#include <fmt/format.h>

#include "tests/sim/cluster.h"

namespace sheaf::sim {

using protocol::ActorState;

namespace {
// A half of a lease's time until the head is told, one until it acts, one for a node that it cannot
// tell; and as much again for what delays the news meanwhile.
constexpr Time kPartingEnds = 15s;
// From a link that is there again to a controller that knows it.
constexpr Time kNewsTake = 2500ms;
}  // namespace

// LeaseConservation: what is free and what is held make up the whole, on every node.
void Cluster::check_books(const SimNode& node) {
  ++stats_.checks;
  if (options_.tasks && stats_.checks % 4096 != 0) return;
  const Agent& agent = *node.agent;
  ResourceMap books = agent.resources().available();
  const auto count = [&](const Holding& holding) {
    if (holding.bundle) return;
    add(books, holding.allocation.resources);
    books[std::string(kCpu)] -= holding.lent_cpu;
  };
  for (const auto& [id, lease] : agent.leases()) count(lease.holding);
  for (const auto& [id, actor] : agent.actors()) count(actor.holding);
  for (const auto& [id, worker] : agent.workers()) count(worker.remains);
  for (const auto& [id, group] : agent.groups()) {
    for (const auto& [index, bundle] : group.bundles) add(books, bundle.reserved.resources);
  }
  for (const auto& [name, amount] : books) {
    if (amount != amount_of(agent.resources().total(), name)) {
      fail("LeaseConservation", fmt::format("the books of {} on node {} are off by {}", name,
                                            node.number,
                                            amount - amount_of(agent.resources().total(), name)));
    }
  }
  check_known_dead(node);
  for (const auto& [id, lease] : agent.leases()) {
    const uint16_t client = node_of(lease.client);
    if (client != node.number && node.agent_told.contains(client) && !agent.workers().empty() &&
        !agent.workers().at(lease.worker).kill_sent) {
      fail("NoLeak",
           fmt::format("node {} keeps a lease for a process of a dead node", node.number));
    }
  }
}

// NoLeak: nothing is counted as held at, or asked of, a node that is dead.
void Cluster::check_known_dead(const SimNode& node) {
  if (node.agent_told.empty()) return;
  for (const auto& [id, lease] : node.agent->remote_leases()) {
    if (!node.agent_told.contains(lease.number)) continue;
    fail("NoLeak", fmt::format("node {} keeps a lease of node {}, which is dead", node.number,
                               lease.number));
  }
  for (const auto& [key, flow] : node.agent->flows()) {
    for (const auto& [number, count] : flow.asked) {
      if (!node.agent_told.contains(number)) continue;
      fail("NoLeak", fmt::format("node {} asks node {}, which is dead", node.number, number));
    }
  }
}

// NoHang: two members that cannot reach each other do not stay members for ever.
void Cluster::check_parting(const SimNode& node, uint16_t other, Time since) {
  ++stats_.checks;
  if (now_ < since + kPartingEnds || !controller_) return;
  if (controller_->node_with(node.number).is_nil() || controller_->node_with(other).is_nil()) {
    return;
  }
  fail("NoHang", fmt::format("nodes {} and {} have not reached each other for {} ms, and both are "
                             "members", node.number, other, (now_ - since) / 1ms));
}

// NoFlap: nobody has to go but for a link that has been down for a lease's time, and was just now.
void Cluster::check_condemned(const SimNode& node) {
  ++stats_.checks;
  for (const auto& [pair, cut] : cuts_) {
    if (pair.first == 0 || (pair.first != node.slot && pair.second != node.slot)) continue;
    const Time end = cut.mended == Time{0} ? now_ : cut.mended;
    if (end - cut.since >= NodeLeaseConfig{}.lease_time && now_ - end <= kNewsTake) return;
  }
  fail("NoFlap", fmt::format("node {} has to go though it reaches everybody", node.number));
}

// OneAuthority: when an actor begins to answer, nobody else in the cluster still may, but for
// processes of nodes that have lost their lease.
void Cluster::check_authority(ActorId actor, ProcessId process, uint32_t incarnation) {
  ++stats_.checks;
  for (const auto& [id, p] : processes_) {
    if (id == process || p.actor != actor || !p.actor_ready || !p.alive) continue;
    const SimNode& node = *nodes_[p.slot];
    if (!node.up || (node.lease && node.lease->expired(now_))) continue;
    auto worker = node.agent->workers().find(id);
    if (worker == node.agent->workers().end() || worker->second.kill_sent) continue;
    fail("OneAuthority", fmt::format("incarnation {} of actor {} begins while {} still answers",
                                     incarnation, actor.lo, p.actor_incarnation));
  }
}

// Fence: a node that is declared dead is dead, or has stopped by itself.
void Cluster::check_fence(const FenceNode& fence) {
  ++stats_.checks;
  SimNode* node = by_number(fence.number);
  if (!node || node->id != fence.node) return;
  if (!node->lease || node->lease->expired(now_)) return;
  fail("Fence", fmt::format("node {} is declared dead while its lease goes on for {} ms",
                            fence.number, (node->lease->fence_at() - now_) / 1ms));
}

// Barrier: it closes when everybody alive has stopped listening to the dead node.
void Cluster::check_barrier(const BarrierClosed& closed) {
  ++stats_.checks;
  const std::set<uint16_t>& reached = reached_[closed.barrier];
  for (const auto& [id, info] : controller_->nodes()) {
    if (info.incarnation == 0 || reached.contains(info.number)) continue;
    const SimNode* node = by_number(info.number);
    // Who joined after it was opened never knew the dead one. Of the head they know the next life.
    if (closed.number == 1) continue;
    if (node && node->agent && node->agent->cluster().find(closed.number)) {
      fail("Barrier", fmt::format("it closed before node {} had reached it", info.number));
    }
  }
}

std::string Cluster::what_it_waits_for(const SimProcess& p) {
  std::string waits;
  for (const auto& [class_id, c] : p.classes) {
    if (c.queue.empty()) continue;
    const Agent& agent = *nodes_[p.slot]->agent;
    auto flow = agent.flows().find({p.id, class_id});
    waits += fmt::format(" {} tasks of {} strategy {} {}", c.queue.size(),
                         to_text(c.spec.resources), static_cast<int>(c.spec.strategy.kind),
                         c.spec.strategy.node);
    if (flow == agent.flows().end()) continue;
    waits += fmt::format(" (backlog {}", flow->second.backlog);
    for (const auto& [number, count] : flow->second.asked) {
      waits += fmt::format(", {} asked of {}", count, number);
    }
    waits += ")";
  }
  for (const auto& [lease, held] : p.leases) {
    waits += fmt::format(" lease {:x} on {:x}", lease, held.worker);
  }
  for (const auto& [actor, handle] : p.actors) {
    if (handle.done) continue;
    waits += fmt::format(" actor {} in state {} on {:x}, {} in flight", actor.lo,
                         static_cast<int>(handle.state), handle.process, handle.in_flight);
  }
  for (const auto& [group, use] : p.groups) {
    if (use.removed) continue;
    waits += fmt::format(" group {}", group.lo);
    auto info = controller_->groups().find(group);
    if (info == controller_->groups().end()) continue;
    waits += fmt::format(" in state {}, attempt {}, {} settling, {} awaited, on",
                         static_cast<int>(info->second.state), info->second.attempt,
                         info->second.settling.size(), info->second.awaiting.size());
    for (const NodeId& place : info->second.placed) waits += " " + to_hex(place);
  }
  waits += "; it knows of";
  for (const auto& [number, other] : nodes_[p.slot]->agent->cluster().nodes()) {
    waits += fmt::format(" {} ({})", number, to_text(other.free));
  }
  waits += "; members are";
  for (const auto& [node, info] : controller_->nodes()) {
    waits += fmt::format(" {}{}", info.number, info.draining ? " (drains)" : "");
  }
  return waits;
}

// NoHang, then NoLeak: every program has ended, and nothing is held for them anywhere.
void Cluster::check_end() {
  ++stats_.checks;
  for (const auto& [id, p] : processes_) {
    if (!p.driver || !p.alive) continue;
    return fail("NoHang", fmt::format("driver {:x} on node {} still waits for{}", id,
                                      nodes_[p.slot]->number, what_it_waits_for(p)));
  }
  const auto expect = [&](bool holds, uint16_t number, const char* what) {
    if (!holds) fail("NoLeak", fmt::format("node {}: {} are left", number, what));
  };
  for (const auto& node : nodes_) {
    if (!node->up || !node->member) continue;
    const Agent& agent = *node->agent;
    expect(agent.leases().empty(), node->number, "leases");
    expect(agent.flows().empty(), node->number, "requests");
    expect(agent.remote_leases().empty(), node->number, "leases of other nodes");
    expect(agent.actors().empty(), node->number, "actors");
    expect(agent.groups().empty(), node->number, "groups");
    expect(agent.waiting().empty(), node->number, "waiting placements");
    expect(agent.resources().unused(), node->number, "resources in use");
  }
  expect(controller_->barriers().empty(), 1, "barriers");
  for (const auto& [id, actor] : controller_->actors()) {
    expect(actor.state == ActorState::kDead, 1, "live actors");
  }
  for (const auto& [id, info] : controller_->nodes()) {
    const SimNode* node = by_number(info.number);
    expect(node && node->id == id, info.number, "dead members");
    expect(info.actors == 0 && info.placing.empty(), info.number, "counted actors");
  }
}

}  // namespace sheaf::sim
