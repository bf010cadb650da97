// The controller's membership: numbers, leases of nodes, deaths and their barriers.
#include <fmt/format.h>

#include <algorithm>

#include "scheduler/controller.h"
#include "scheduler/own_pause.h"

namespace sheaf::scheduler {

using protocol::ErrorKind;
using protocol::ErrorRecord;

void Controller::send(const NodeId& node, NodeMessage message) {
  auto it = nodes_.find(node);
  if (it == nodes_.end()) return;
  out_.push_back(ToNode{node, std::move(message), it->second.number});
}

void Controller::send_to_all(const NodeMessage& message) {
  for (const auto& [id, info] : nodes_) out_.push_back(ToNode{id, message, info.number});
}

NodeId Controller::node_with(uint16_t number) const {
  auto it = numbers_.find(number);
  return it == numbers_.end() ? NodeId{} : it->second;
}

NodeInfo* Controller::member(uint16_t number) {
  auto it = nodes_.find(node_with(number));
  return it == nodes_.end() ? nullptr : &it->second;
}

// ---- Joining ------------------------------------------------------------------------------------

void Controller::on(const NodeJoined& event) {
  NodeInfo info;
  info.node = event.node;
  info.total = info.available = event.total;
  info.labels = event.labels;
  info.number = event.number;
  info.incarnation = event.incarnation ? event.incarnation : static_cast<uint16_t>(boot_);
  info.hostname = event.hostname;
  info.address = event.address;
  info.local = true;
  if (!event.address.empty() && event.address != head_address_) {
    head_address_ = event.address;
    journal({{RecordKind::kNode, "head", head_address_}});
  }
  add_member(std::move(info));
  if (restoring_ && expected_.empty()) end_restoring();
}

void Controller::refuse(const NodeJoin& join, StatusCode code, std::string why) {
  out_.push_back(NodeRefused{join.node, Status(code, std::move(why)), join.number,
                             join.incarnation});
}

void Controller::on(const NodeAsks& event) {
  const NodeJoin& join = event.join;
  auto member = nodes_.find(join.node);
  if (closing_) return refuse(join, StatusCode::kDisconnected, "the cluster is ending");
  if (join.number == 0) {
    if (member == nodes_.end()) return give_number(join);
    return refuse(join, StatusCode::kAlreadyExists, "another node of this cluster has this id");
  }
  if (member != nodes_.end() && member->second.number == join.number) {
    if (member->second.condemned) {
      return refuse(join, StatusCode::kPermissionDenied, member->second.condemned->message);
    }
    member->second.heard = now_;   // its lease begins anew with the answer
    out_.push_back(NodeAccepted{join.node, join.number, join.incarnation, true});
    return;
  }
  auto expected = expected_.find(join.number);
  if (expected == expected_.end() || expected->second.node != join.node ||
      expected->second.incarnation != join.incarnation) {
    return refuse(join, StatusCode::kPermissionDenied,
                  "this life of the node was declared dead, or was never known: it has to start "
                  "anew");
  }
  ResourceMap total = join.total;
  if (Status valid = validate_resources(total); !valid.is_ok()) {
    return refuse(join, valid.code(), std::string(valid.message()));
  }
  ExpectedNode record = std::move(expected->second);
  expected_.erase(expected);
  if (std::exchange(record.address, join.address) != join.address) {   // for the next life
    journal({{RecordKind::kNode, std::to_string(join.number), wire::encode(record)}});
  }
  NodeInfo info;
  info.node = join.node;
  info.total = info.available = std::move(total);
  info.labels = join.labels;
  info.number = join.number;
  info.incarnation = join.incarnation;
  info.hostname = join.hostname;
  info.address = join.address;
  out_.push_back(NodeAccepted{join.node, join.number, join.incarnation, true});
  take_over_clients(join);
  add_member(std::move(info));
  take_over(join.node, join);
}

// A number is a node's for good: it goes out only when no later life can give it out again.
void Controller::give_number(const NodeJoin& join) {
  if (join.node.is_nil()) return refuse(join, StatusCode::kInvalidArgument, "a node needs an id");
  for (const auto& [number, expected] : expected_) {
    if (expected.node != join.node) continue;
    if (expected.journal_pending != 0) return;   // the answer is on its way
    out_.push_back(NodeAccepted{join.node, number, expected.incarnation, false});
    return;
  }
  if (last_number_ == UINT16_MAX) {
    return refuse(join, StatusCode::kOutOfMemory, "no node numbers are left in this cluster");
  }
  const uint16_t number = ++last_number_;
  ExpectedNode& expected = expected_[number];
  expected = {join.node, number, static_cast<uint16_t>(boot_), join.hostname, 0, now_, false};
  expected.journal_pending =
      journal({{RecordKind::kNode, "last", wire::encode(number)},
               {RecordKind::kNode, std::to_string(number), wire::encode(expected)}});
  wait_for(expected.journal_pending).number = number;
  // Who takes a number and never comes back leaves nothing behind.
  set_timer(now_ + 10 * config_.lease_time, Timer::Kind::kNode, number, 0);
}

void Controller::number_settled(uint16_t number, const Status& status) {
  auto it = expected_.find(number);
  if (it == expected_.end()) return;
  ExpectedNode& expected = it->second;
  expected.journal_pending = 0;
  if (status.is_ok()) {
    out_.push_back(NodeAccepted{expected.node, number, expected.incarnation, false});
    return;
  }
  out_.push_back(NodeRefused{
      expected.node, Status(status.code(), fmt::format("not stored: {}", status.message())), 0, 0});
  expected_.erase(it);
}

void Controller::add_member(NodeInfo info) {
  info.heard = now_;
  const NodeId id = info.node;
  const uint16_t number = info.number;
  numbers_[number] = id;
  NodeInfo& node = nodes_[id] = std::move(info);
  if (!node.local) set_timer(now_ + config_.lease_time, Timer::Kind::kNode, number, 0);
  for (const auto& [job, job_info] : jobs_) {
    if (!job_info.alive && !has_detached_actors(job)) continue;
    send(id, JobStarted{job, job_info.spec, job_info.driver});
  }
  send_first_view(id);
  node.reported = node.total;
  changed(node, false);
  plan_waiting_groups();
  place_waiting_actors();
  relieve_crowded(node);
}

// ---- Leases and deaths --------------------------------------------------------------------------

void Controller::on(const NodeHeartbeat& event) {
  auto it = nodes_.find(node_with(event.number));
  if (it == nodes_.end() || it->second.incarnation != event.incarnation) return;
  if (it->second.condemned) return;
  it->second.heard = now_;
  out_.push_back(RenewLease{it->first, event.number, event.incarnation, event.sent_at});
}

void Controller::review_node(uint16_t number, Time due) {
  auto member = nodes_.find(node_with(number));
  if (member == nodes_.end()) {
    auto expected = expected_.find(number);
    const bool given_up = expected != expected_.end() && !restoring_ &&
                          now_ >= expected->second.since + 10 * config_.lease_time;
    if (!given_up) return;
    expected_.erase(expected);
    journal({{RecordKind::kNode, std::to_string(number), std::nullopt}});
    return;
  }
  NodeInfo& node = member->second;
  if (node.local) return;
  const Time end = node.heard + config_.lease_time;
  if (now_ < end || now_ > due + kOwnPause) {
    set_timer(std::max(end, now_ + (now_ < end ? Time{0} : kHearFirst)), Timer::Kind::kNode,
              number, 0);
    return;
  }
  const ErrorRecord silent{ErrorKind::kNodeDied,
                           fmt::format("node {} ({}) has been silent for {} ms", number,
                                       node.hostname,
                                       config_.lease_time / std::chrono::milliseconds(1)),
                           "", {}};
  node_dead(member->first, node.condemned.value_or(silent));
}

void Controller::on(const NodeLost& event) {
  if (nodes_.contains(event.node)) return node_dead(event.node, event.cause);
  auto missing = std::find_if(expected_.begin(), expected_.end(), [&](const auto& entry) {
    return entry.second.node == event.node;
  });
  if (!restoring_ || missing == expected_.end()) return;
  if (missing->second.incarnation == static_cast<uint16_t>(boot_)) return;
  dead_before_.push_back(std::move(missing->second));
  expected_.erase(missing);
  end_restoring_if_complete();
}

void Controller::node_dead(const NodeId& id, ErrorRecord cause) {
  auto entry = nodes_.extract(id);
  if (!entry) return;
  NodeInfo& dead = entry.mapped();
  if (dead.condemned) cause = *dead.condemned;
  cause.kind = ErrorKind::kNodeDied;
  numbers_.erase(dead.number);
  new_facts_.erase(dead.number);
  new_loads_.erase(dead.number);
  forget_told(dead);
  forget_quarrels_of(dead.number);
  out_.push_back(FenceNode{id, dead.number, dead.incarnation, cause});
  if (!dead.local) journal_death(dead);
  if (restoring_) unannounced_.emplace_back(dead, cause);
  else open_barrier(dead, cause);
  drop_clients_of(dead.number, dead.incarnation, cause);
  lose_groups_on(id);
  std::vector<ActorId> lost;
  for (const auto& [actor_id, actor] : actors_) {
    if (actor.node == id && actor.state != protocol::ActorState::kDead) lost.push_back(actor_id);
  }
  for (const ActorId& actor_id : lost) {
    auto actor = actors_.find(actor_id);
    const bool still = actor != actors_.end() && actor->second.node == id;
    if (still && actor->second.state != protocol::ActorState::kDead) {
      actor_lost(actor_id, actor->second, cause);
    }
  }
  plan_waiting_groups();
}

void Controller::drop_clients_of(uint16_t number, uint16_t incarnation, const ErrorRecord& cause) {
  const ProcessId first = make_process(number, incarnation, 0);
  const ProcessId last = make_process(number, incarnation, UINT32_MAX);
  std::vector<ProcessId> gone;
  for (auto it = clients_.lower_bound(first); it != clients_.end() && it->first <= last; ++it) {
    gone.push_back(it->first);
  }
  for (ProcessId process : gone) on(ClientLeft{process, cause});
}

void Controller::open_barrier(const NodeInfo& dead, const ErrorRecord& cause) {
  std::vector<uint64_t> waiting;
  for (const auto& [id, barrier] : barriers_) {
    if (barrier.awaited.contains(dead.node)) waiting.push_back(id);
  }
  const uint64_t id = uint64_t{boot_} << 32 | ++barriers_opened_;
  Barrier& barrier = barriers_[id];
  barrier.number = dead.number;
  barrier.incarnation = dead.incarnation;
  for (const auto& [node, info] : nodes_) barrier.awaited.insert(node);
  send_to_all(NodeGone{dead.node, dead.number, dead.incarnation, cause, id});
  for (uint64_t other : waiting) reach_barrier(other, dead.node);
  if (barrier.awaited.empty()) close_death(barriers_.extract(id).mapped());
}

// Until everybody has heard of it: a controller that restarts says it again.
void Controller::journal_death(const NodeInfo& dead) {
  ExpectedNode record{dead.node, dead.number, dead.incarnation, dead.hostname, 0, Time{0}, true};
  const std::string key = std::to_string(dead.number);
  wait_for(journal({{RecordKind::kNode, key, wire::encode(record)}})).death = dead.number;
}

void Controller::close_death(const Barrier& barrier) {
  if (barrier.number == 1) return;
  journal({{RecordKind::kNode, std::to_string(barrier.number), std::nullopt}});
}

void Controller::reach_barrier(uint64_t id, const NodeId& node) {
  auto it = barriers_.find(id);
  if (it == barriers_.end()) return;
  it->second.awaited.erase(node);
  if (!it->second.awaited.empty()) return;
  const Barrier closed = std::move(it->second);
  barriers_.erase(it);
  close_death(closed);
  send_to_all(BarrierClosed{id, closed.number, closed.incarnation});
}

void Controller::on_report(const NodeId& node, const BarrierReached& report) {
  reach_barrier(report.barrier, node);
}

// ---- Reports ------------------------------------------------------------------------------------

void Controller::on_report(const NodeId& id, const ReportResources& report) {
  NodeInfo& node = nodes_.at(id);
  const bool draining = report.draining || node.condemned;
  const bool facts = node.total != report.total || node.draining != draining;
  const bool better = node.total != report.total || (node.draining && !draining);
  node.total = report.total;
  node.draining = draining;
  const bool begins_to_look = node.wanted.empty() && !report.wanted.empty();
  node.wanted = report.wanted;
  node.named = report.named;
  node.reported = node.available = report.available;
  for (const ActorId& id_placed : node.placing) {
    const protocol::ActorSpec& spec = *actors_.at(id_placed).spec;
    const bool in_group = spec.placement.strategy.kind == protocol::StrategyKind::kPlacementGroup;
    if (!in_group) subtract(node.available, creation_request(spec));
  }
  changed(node, !facts);
  if (dealing_ && begins_to_look) deal_at_once(node);
  if (node.draining) take_back_from(node);
  if (better) {
    plan_waiting_groups();
    place_waiting_actors();
  }
  if (!crowded_.empty()) relieve_crowded(node);
}

void Controller::on(const DrainAsked& event) {
  auto it = nodes_.find(node_with(event.number));
  if (it == nodes_.end()) return;
  it->second.draining = event.drain;
  send(it->first, DrainNode{event.drain});
  changed(it->second, false);
  if (event.drain) return take_back_from(it->second);
  plan_waiting_groups();
  place_waiting_actors();
}

void Controller::on(const ClusterClosing&) { closing_ = true; }

}  // namespace sheaf::scheduler
