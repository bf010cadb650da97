// After a restart: what the nodes of the last life bring along, and who has not come back.
//
// A node goes on by itself for the length of its lease. It registers again with its actors, groups
// and clients, which are taken as they are; what is known here but on no node by the end of the
// longest lease is lost with its node.
#include <algorithm>

#include "scheduler/controller.h"

namespace sheaf::scheduler {

using protocol::ActorState;
using protocol::ErrorKind;
using protocol::ErrorRecord;
using protocol::GroupState;

void Controller::take_over_clients(const NodeJoin& join) {
  for (const JobStarted& known : join.jobs) {
    JobInfo& job = jobs_[known.job];
    if (job.job != 0) continue;
    job.job = known.job;
    job.spec = known.spec;
  }
  for (const LiveClient& live : join.clients) {
    clients_[live.process] = {live.kind, live.job};
    auto job = jobs_.find(live.job);
    if (live.kind == protocol::ClientKind::kDriver && job != jobs_.end()) {
      job->second.alive = true;
      job->second.driver = live.process;
      job->second.started = now_;
    }
    for (const ActorId& id : live.holds) early_[id].holders.insert(live.process);
    for (const ActorId& id : live.watches) early_[id].subscribers.insert(live.process);
    for (const PlacementGroupId& id : live.watched_groups) {
      if (auto it = groups_.find(id); it != groups_.end()) {
        it->second.subscribers.insert(live.process);
      }
    }
  }
}

void Controller::take_over(const NodeId& node, const NodeJoin& join) {
  for (const LiveActor& live : join.actors) take_over_actor(node, live);
  for (const LiveGroup& live : join.groups) take_over_group(node, live);
  if (!restoring_) return;
  const bool complete = std::all_of(expected_.begin(), expected_.end(), [&](const auto& entry) {
    return entry.second.incarnation == static_cast<uint16_t>(boot_);
  });
  if (complete) end_restoring();
}

void Controller::take_over_actor(const NodeId& node, const LiveActor& live) {
  auto it = actors_.find(live.actor);
  const bool unknown = it == actors_.end();
  // A detached one that is not known was killed, or nobody was told yet that it exists.
  const bool wanted = unknown ? restoring_ && !live.spec->detached && jobs_.contains(live.job)
                              : unconfirmed_.contains(live.actor);
  const ErrorRecord cause{ErrorKind::kActorDied, "the controller does not know it any more", "",
                          live.actor};
  if (!wanted) return send(node, ReleaseActor{live.actor, live.incarnation, false, cause});
  ActorInfo& actor = actors_[live.actor];
  if (unknown) {
    actor.spec = live.spec;
    actor.job = live.job;
    actor.state = ActorState::kPending;
    if (!live.spec->name.empty()) names_[{live.spec->name_space, live.spec->name}] = live.actor;
    out_.push_back(ActorAccepted{actor.spec});
  }
  unconfirmed_.erase(live.actor);
  unplaced_.erase(live.actor);
  actor.incarnation = live.incarnation;
  settle_on(live.actor, actor, node);
  actor.process = live.process;
  if (live.process != kNoProcess) {
    NodeInfo& info = nodes_.at(node);
    info.placing.erase(live.actor);
    crowded_.erase(live.actor);
  }
  if (auto early = early_.extract(live.actor)) {
    actor.holders.merge(early.mapped().holders);
    actor.subscribers.merge(early.mapped().subscribers);
  }
  if (live.running) {
    actor.state = ActorState::kAlive;
    actor.cause = {};
    push(live.actor, actor);
  } else if (live.process != kNoProcess) {
    // Whether its constructor has said that it is done nobody knows: it begins once more.
    release_actor(live.actor, actor, false, cause);
    actor_lost(live.actor, actor, {ErrorKind::kNodeDied, "the controller restarted", "", {}});
  }
}

void Controller::take_over_group(const NodeId& node, const LiveGroup& live) {
  auto it = groups_.find(live.group);
  if (it == groups_.end() || it->second.state == GroupState::kRemoved || !restoring_) {
    return send(node, ReleaseGroup{live.group, true, {}});
  }
  GroupInfo& group = it->second;
  group.attempt = std::max(group.attempt, live.attempt);
  for (int32_t index : live.bundles) {
    const auto i = static_cast<size_t>(index);
    if (i < group.placed.size() && group.placed[i].is_nil()) group.placed[i] = node;
  }
  const bool missing = std::any_of(group.placed.begin(), group.placed.end(),
                                   [](const NodeId& placed) { return placed.is_nil(); });
  if (missing) return;
  unplanned_.erase(live.group);
  group.state = GroupState::kCreated;
  push(live.group, group);
}

void Controller::end_restoring() {
  if (!std::exchange(restoring_, false)) return;
  const ErrorRecord cause{ErrorKind::kNodeDied, "it did not come back after the head's restart",
                          "", {}};
  std::vector<NodeInfo> gone;
  for (const auto& [number, expected] : expected_) {
    if (expected.incarnation == static_cast<uint16_t>(boot_)) continue;
    NodeInfo& info = gone.emplace_back();
    info.node = expected.node;
    info.number = number;
    info.incarnation = expected.incarnation;
  }
  for (const NodeInfo& info : gone) {
    expected_.erase(info.number);
    out_.push_back(FenceNode{info.node, info.number, info.incarnation, cause});
    journal({{RecordKind::kNode, std::to_string(info.number), std::nullopt}});
    open_barrier(info, cause);
  }
  NodeInfo head;   // its last life
  head.number = 1;
  head.incarnation = static_cast<uint16_t>(boot_ - 1);
  open_barrier(head, {ErrorKind::kNodeDied, "the head's daemon was started again", "", {}});

  const std::set<ActorId> unconfirmed = std::exchange(unconfirmed_, {});
  for (const ActorId& id : unconfirmed) {
    auto it = actors_.find(id);
    if (it == actors_.end() || it->second.state == ActorState::kDead) continue;
    if (it->second.spec->max_restarts == 0) end_actor(id, it->second, cause);
  }
  std::vector<JobId> driverless;
  for (const auto& [id, job] : jobs_) {
    if (!job.alive) driverless.push_back(id);
  }
  for (JobId id : driverless) {
    jobs_.at(id).alive = true;
    end_job(id);
  }
  drop_unused_jobs();
  if (!stale_records_.empty()) journal(std::exchange(stale_records_, {}));
  std::vector<ActorId> early;
  for (const auto& [id, interest] : early_) early.push_back(id);
  for (const ActorId& id : early) {
    auto actor = actors_.find(id);
    if (actor != actors_.end() && actor->second.state != ActorState::kDead) {
      auto interest = early_.extract(id);
      actor->second.holders.merge(interest.mapped().holders);
      actor->second.subscribers.merge(interest.mapped().subscribers);
      push(id, actor->second);
    } else if (!may_still_be_created(id)) {
      refuse_early(id, "it ended while the controller was away");
    }
  }
  for (auto& [id, actor] : actors_) {
    if (actor.state == ActorState::kDead || actor.spec->detached) continue;
    if (actor.holders.empty() && !actor.unheld_since) actor.unheld_since = now_;
    if (actor.unheld_since) {
      set_timer(now_ + config_.holder_grace, Timer::Kind::kActor, id.hi, id.lo);
    }
  }
  plan_waiting_groups();
  place_waiting_actors();
}

}  // namespace sheaf::scheduler
