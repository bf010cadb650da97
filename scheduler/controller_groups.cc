// The controller's placement groups: planned over the known nodes, reserved by the agents.
#include <fmt/format.h>

#include <algorithm>

#include "scheduler/controller.h"
#include "scheduler/group_plan.h"

namespace sheaf::scheduler {

using protocol::ErrorKind;
using protocol::GroupState;

void Controller::on(const Request<protocol::GroupCreate>& event) {
  if (!clients_.contains(event.process)) return;
  protocol::GroupCreate spec = event.message;
  spec.name_space = name_space_of(event.process, spec.name_space);
  const auto refuse = [&](StatusCode code, std::string message) {
    reply(event.process, event.request, Status(code, std::move(message)));
  };
  if (auto known = groups_.find(spec.group); known != groups_.end()) {
    reply(event.process, event.request, Status::ok());   // the same request once more
    return;
  }
  if (spec.group.is_nil() || spec.bundles.empty()) {
    return refuse(StatusCode::kInvalidArgument, "a placement group needs an id and bundles");
  }
  for (ResourceMap& bundle : spec.bundles) {
    Status valid = validate_resources(bundle);
    if (!valid.is_ok()) return refuse(valid.code(), std::string(valid.message()));
    if (bundle.empty()) return refuse(StatusCode::kInvalidArgument, "a bundle needs resources");
  }
  const std::pair name{spec.name_space, spec.name};
  if (!spec.name.empty() && !group_names_.emplace(name, spec.group).second) {
    return refuse(StatusCode::kAlreadyExists,
                  fmt::format("a placement group named '{}' exists already", spec.name));
  }
  const PlacementGroupId id = spec.group;
  GroupInfo& group = groups_[id];
  group.job = job_of(event.process);
  group.creator = event.process;
  group.placed.resize(spec.bundles.size());
  group.spec = std::move(spec);
  const uint64_t sequence = journal({record_of(id, group)});
  if (!group.spec.detached) {
    reply(event.process, event.request, Status::ok());
    plan(id, group);
    return;
  }
  group.journal_pending = sequence;
  Pending& pending = wait_for(group.journal_pending);
  pending.group = id;
  pending.reply = Reply{event.process, event.request, StatusCode::kOk, "", ""};
}

void Controller::plan(PlacementGroupId id, GroupInfo& group) {
  unplanned_.insert(id);
  if (restoring_) return;   // it may be there already
  unplanned_.erase(id);
  std::vector<PlanNode> nodes;
  for (const auto& [node_id, node] : nodes_) {
    if (node.draining) continue;
    PlanNode& room = nodes.emplace_back(PlanNode{node_id, node.available, node.total, node.labels});
    for (size_t i = 0; i < group.placed.size(); ++i) {
      if (group.placed[i] == node_id) subtract(room.total, group.spec.bundles[i]);
    }
  }
  std::optional<std::vector<NodeId>> placed = plan_group(group.spec, group.placed, nodes);
  if (!placed) {
    unplanned_.insert(id);
    review_group(id);
    return;
  }
  std::map<NodeId, std::vector<BundleRequest>> by_node;
  for (size_t i = 0; i < placed->size(); ++i) {
    if (!group.placed[i].is_nil()) continue;
    by_node[(*placed)[i]].push_back({static_cast<int32_t>(i), group.spec.bundles[i]});
    group.settling.insert(i);
    subtract(nodes_.at((*placed)[i]).available, group.spec.bundles[i]);   // until its next report
  }
  group.placed = std::move(*placed);
  ++group.attempt;
  group.attempt_started = now_;
  for (auto& [node, bundles] : by_node) {
    group.awaiting.insert(node);
    send(node, ReserveGroup{id, group.attempt, std::move(bundles)});
  }
  // On several nodes half a reservation may wait for another group's half.
  if (by_node.size() > 1) {
    set_timer(now_ + group_retry(id), Timer::Kind::kGroup, id.hi, id.lo);
  }
}

// Not the same for all: two groups that hold a half each must not give up and try in step.
Time Controller::group_retry(PlacementGroupId id) const {
  return config_.group_retry * static_cast<int64_t>(8 + IdHash{}(id) % 8) / 8;
}

void Controller::abandon_attempt(PlacementGroupId id, GroupInfo& group) {
  std::map<NodeId, std::vector<int32_t>> given_up;
  for (size_t i : group.settling) {
    if (!group.placed[i].is_nil()) given_up[group.placed[i]].push_back(static_cast<int32_t>(i));
    group.placed[i] = {};
  }
  for (auto& [node, bundles] : given_up) send(node, ReleaseGroup{id, false, std::move(bundles)});
  group.awaiting.clear();
  group.settling.clear();
  unplanned_.insert(id);
}

void Controller::on_report(const NodeId& node, const GroupReserved& report) {
  auto it = groups_.find(report.group);
  if (it == groups_.end()) return;
  GroupInfo& group = it->second;
  if (group.state == GroupState::kRemoved || group.attempt != report.attempt) return;
  if (group.awaiting.erase(node) == 0) return;
  if (!report.ok) {
    abandon_attempt(it->first, group);
    set_timer(now_ + group_retry(it->first), Timer::Kind::kGroup, it->first.hi, it->first.lo);
    return;
  }
  if (!group.awaiting.empty()) return;
  group.settling.clear();
  // Meanwhile one that had answered before died, or began to drain.
  const bool whole = std::none_of(group.placed.begin(), group.placed.end(),
                                  [](const NodeId& placed) { return placed.is_nil(); });
  if (!whole) {
    tell_places(it->first, group);
    return plan(it->first, group);
  }
  group.state = GroupState::kCreated;
  push(it->first, group);
  tell_places(it->first, group);
  const std::set<ActorId> actors = group.actors;
  for (const ActorId& id : actors) {
    auto actor = actors_.find(id);
    const bool waits = actor != actors_.end() && unplaced_.contains(id);
    if (waits && actor->second.journal_pending == 0) place(id, actor->second);
  }
}

void Controller::on_report(const NodeId& node, const AskGroup& report) {
  auto it = groups_.find(report.group);
  const bool gone = it == groups_.end() || it->second.state == GroupState::kRemoved;
  if (gone) return send(node, ReleaseGroup{report.group, true, {}});
  it->second.watchers.insert(node);
  if (it->second.state == GroupState::kCreated) tell_places(it->first, it->second, &node);
}

void Controller::tell_places(PlacementGroupId id, const GroupInfo& group, const NodeId* only) {
  GroupPlaced message{id, {}};
  for (size_t i = 0; i < group.placed.size(); ++i) {
    auto node = nodes_.find(group.placed[i]);
    const bool there = node != nodes_.end() && !group.settling.contains(i);
    message.nodes.push_back(there ? node->second.number : 0);
  }
  if (only) return send(*only, std::move(message));
  for (const NodeId& node : group.watchers) send(node, message);
}

void Controller::on(const Request<protocol::GroupRemove>& event) {
  auto it = groups_.find(event.message.group);
  if (it == groups_.end() || it->second.state == GroupState::kRemoved) {
    reply(event.process, event.request, Status::ok());
    return;
  }
  if (it->second.journal_pending != 0) {
    wait_for(it->second.journal_pending).deferred.push_back(event);
    return;
  }
  const bool detached = it->second.spec.detached;
  remove_group(it->first, it->second);
  if (!detached) {
    reply(event.process, event.request, Status::ok());
    return;
  }
  const uint64_t sequence =
      journal({{RecordKind::kGroup, to_hex(event.message.group), std::nullopt}});
  wait_for(sequence).reply = Reply{event.process, event.request, StatusCode::kOk, "", ""};
}

void Controller::remove_group(PlacementGroupId id, GroupInfo& group) {
  if (group.state == GroupState::kRemoved) return;
  group.state = GroupState::kRemoved;
  group.awaiting.clear();
  unplanned_.erase(id);
  if (!group.spec.detached) journal({{RecordKind::kGroup, to_hex(id), std::nullopt}});
  std::erase_if(group_names_, [&](const auto& entry) {
    return entry.first == std::pair(group.spec.name_space, group.spec.name) && entry.second == id;
  });
  // To every node: requests that name the group may wait anywhere.
  send_to_all(ReleaseGroup{id, true, {}});
  const std::set<ActorId> actors = group.actors;
  for (const ActorId& actor : actors) {
    if (auto it = actors_.find(actor); it != actors_.end()) {
      end_actor(actor, it->second, {ErrorKind::kActorPlacementGroupRemoved,
                                    "its placement group was removed", "", actor});
    }
  }
  push(id, group);
  group.subscribers.clear();
  dead_groups_.push_back(id);
  while (dead_groups_.size() > config_.dead_groups_kept) {
    groups_.erase(dead_groups_.front());
    dead_groups_.pop_front();
  }
}

void Controller::review_group(PlacementGroupId id) {
  auto it = groups_.find(id);
  if (it == groups_.end()) return;
  GroupInfo& group = it->second;
  if (group.state == GroupState::kRemoved || group.state == GroupState::kCreated) return;
  if (!group.awaiting.empty()) {
    const bool spread = group.awaiting.size() > 1 || nodes_.size() > 1;
    if (!spread || now_ < group.attempt_started + group_retry(id)) return;
    abandon_attempt(id, group);
  }
  if (!unplanned_.contains(id)) return;
  if (now_ >= group.attempt_started + group_retry(id) && group.attempt > 0) {
    group.attempt_started = now_;
    plan(id, group);
    return;
  }
  if (now_ >= group.next_warning && !nodes_.empty()) {
    group.next_warning = now_ + config_.warn_interval;
    ResourceMap sum;
    for (const ResourceMap& bundle : group.spec.bundles) add(sum, bundle);
    warn(group.job, fmt::format("A placement group of {} bundles, {} in all, fits on no choice of "
                                "this cluster's {} nodes. It waits until it does.",
                                group.spec.bundles.size(), to_text(sum), nodes_.size()));
  }
  set_timer(group.next_warning, Timer::Kind::kGroup, id.hi, id.lo);
}

void Controller::plan_waiting_groups() {
  const std::set<PlacementGroupId> waiting = unplanned_;
  for (const PlacementGroupId& id : waiting) {
    auto it = groups_.find(id);
    if (it != groups_.end() && it->second.awaiting.empty()) plan(id, it->second);
  }
}

void Controller::lose_groups_on(const NodeId& node) {
  for (auto& [id, group] : groups_) {
    if (group.state == GroupState::kRemoved) continue;
    const bool awaited = group.awaiting.contains(node);
    const auto hit = std::count(group.placed.begin(), group.placed.end(), node);
    group.watchers.erase(node);
    if (hit == 0) continue;
    std::replace(group.placed.begin(), group.placed.end(), node, NodeId{});
    if (awaited) abandon_attempt(id, group);
    if (group.state == GroupState::kCreated) {
      group.state = GroupState::kRescheduling;
      push(id, group);
    }
    tell_places(id, group);
    unplanned_.insert(id);
  }
}

// A draining node has given back bundles that nobody uses. What waits there for them waits anew.
void Controller::on_report(const NodeId& node, const BundlesLeft& report) {
  auto it = groups_.find(report.group);
  if (it == groups_.end() || it->second.state == GroupState::kRemoved) return;
  GroupInfo& group = it->second;
  bool left = false;
  for (int32_t index : report.bundles) {
    const auto i = static_cast<size_t>(index);
    if (index < 0 || i >= group.placed.size() || group.placed[i] != node) continue;
    // Of the reservation before the one that is under way: that one is given up as a whole.
    if (group.settling.contains(i) && report.attempt != group.attempt) continue;
    group.placed[i] = {};
    group.settling.erase(i);
    left = true;
  }
  if (!left) return;
  unplanned_.insert(it->first);
  if (group.state == GroupState::kCreated) {
    group.state = GroupState::kRescheduling;
    push(it->first, group);
  }
  tell_places(it->first, group);
  for (const ActorId& id : nodes_.at(node).placing) {
    ActorInfo& actor = actors_.at(id);
    const bool inside = group.actors.contains(id);
    if (!inside || std::exchange(actor.asked_back, true)) continue;
    send(node, TakeBackActor{id, actor.incarnation});
  }
  plan_waiting_groups();
}

void Controller::push(PlacementGroupId id, const GroupInfo& group) {
  for (ProcessId process : group.subscribers) {
    out_.push_back(PushGroupUpdate{process, {id, group.state}});
  }
}

void Controller::on(const Request<protocol::GroupSubscribe>& event) {
  auto it = groups_.find(event.message.group);
  const GroupState state = it == groups_.end() ? GroupState::kRemoved : it->second.state;
  if (state != GroupState::kRemoved && clients_.contains(event.process)) {
    it->second.subscribers.insert(event.process);
  }
  out_.push_back(PushGroupUpdate{event.process, {event.message.group, state}});
}

}  // namespace sheaf::scheduler
