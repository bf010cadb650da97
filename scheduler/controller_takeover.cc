// After a restart: what the nodes of the last life bring along, and who has not come back.
//
// A node goes on by itself for the length of its lease, and for as long as it is sure that there is
// no controller. It registers again with its actors, groups and clients, which are taken as they
// are; what is known here but on no node by the end of the longest lease is lost with its node.
// What is asked for meanwhile waits until then: it may be there already.
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
      send_to_all(JobStarted{live.job, job->second.spec, live.process});
    }
    for (const ActorId& id : live.holds) early_[id].holders.insert(live.process);
    for (const ActorId& id : live.watches) early_[id].subscribers.insert(live.process);
    for (const PlacementGroupId& id : live.watched_groups) {
      if (auto it = groups_.find(id); it != groups_.end()) {
        it->second.subscribers.insert(live.process);
      }
    }
    for (const ActorId& id : live.ended) {
      const std::string why = "it ended before the head restarted";
      auto it = actors_.find(id);
      if (it == actors_.end()) {
        add_dead_actor(id, why);
      } else if (it->second.state != ActorState::kDead) {   // its node had not heard of it
        const ErrorRecord cause{ErrorKind::kActorDied, why, "", id};
        release_actor(id, it->second, false, cause);
        end_actor(id, it->second, cause);
      }
    }
  }
  for (const ExitedActor& gone : join.exited) {
    auto it = actors_.find(gone.actor);
    if (it == actors_.end()) add_dead_actor(gone.actor, gone.reason);
    else if (unconfirmed_.contains(gone.actor))
      end_actor(gone.actor, it->second, {ErrorKind::kActorDied, gone.reason, "", gone.actor});
  }
  for (const LiveClient& live : join.clients) {
    for (const CreatedActor& created : live.created) take_over_created(live, created);
  }
}

// So that nobody waits for it.
void Controller::add_dead_actor(ActorId id, const std::string& why) {
  if (actors_.contains(id) || dead_actors_.size() >= config_.dead_actors_kept) return;
  ActorInfo& actor = actors_[id];
  auto spec = std::make_shared<protocol::ActorSpec>();
  spec->actor = id;
  actor.spec = std::move(spec);
  actor.state = ActorState::kDead;
  actor.cause = {ErrorKind::kActorDied, why, "", id};
  dead_actors_.push_back(id);
}

// Its creator was told that it exists. If no node has it, it is as with one of the journal.
void Controller::take_over_created(const LiveClient& creator, const CreatedActor& created) {
  const ActorId id = created.spec->actor;
  if (!restoring_ || actors_.contains(id)) return;
  auto spec = std::make_shared<protocol::ActorSpec>(*created.spec);
  if (!spec->name.empty()) spec->name_space = name_space_of(creator.process, spec->name_space);
  ActorInfo actor;
  actor.spec = spec;
  actor.job = creator.job;
  actor.incarnation = first_incarnation_;
  actor.ran = created.ran;
  actor.restarts = created.restarts;
  restore_actor(std::move(actor));
  auto group = groups_.find(spec->placement.strategy.group);
  if (group != groups_.end()) group->second.actors.insert(id);
  out_.push_back(ActorAccepted{spec});
}

void Controller::take_over(const NodeId& node, const NodeJoin& join) {
  for (const LiveActor& live : join.actors) take_over_actor(node, live);
  for (const LiveGroup& live : join.groups) take_over_group(node, live);
  if (restoring_) end_restoring_if_complete();
}

void Controller::end_restoring_if_complete() {
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
                              : unconfirmed_.contains(live.actor) ||
                                    held_back_.contains(live.actor);
  const ErrorRecord cause{ErrorKind::kActorDied, "the controller does not know it any more", "",
                          live.actor};
  if (!wanted) return send(node, ReleaseActor{live.actor, live.incarnation, false, cause});
  ActorInfo& actor = actors_[live.actor];
  living_.insert(live.actor);
  if (unknown) {
    actor.spec = live.spec;
    actor.job = live.job;
    actor.state = ActorState::kPending;
    if (!live.spec->name.empty()) names_[{live.spec->name_space, live.spec->name}] = live.actor;
    out_.push_back(ActorAccepted{actor.spec});
  }
  unconfirmed_.erase(live.actor);
  held_back_.erase(live.actor);
  unplaced_.erase(live.actor);
  actor.incarnation = live.incarnation;
  actor.restarts = std::max(actor.restarts, live.restarts);
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
  if (!live.running) return;   // its worker will say when it is
  actor.state = ActorState::kAlive;
  actor.cause = {};
  if (!std::exchange(actor.ran, true) && actor.spec->detached)
    journal({record_of(live.actor, actor)});
  send(node, ActorRunning{live.actor, live.incarnation});
  push(live.actor, actor);
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
  tell_places(live.group, group);   // those who came back before have asked
}

// Those who hold or watch actors that are known now, in whatever state.
void Controller::settle_early() {
  std::vector<ActorId> early;
  for (const auto& [id, interest] : early_) early.push_back(id);
  for (const ActorId& id : early) {
    auto it = actors_.find(id);
    if (it == actors_.end()) {
      if (!may_still_be_created(id)) refuse_early(id, "it ended while the controller was away");
      continue;
    }
    ActorInfo& actor = it->second;
    auto interest = early_.extract(id);
    actor.subscribers.merge(interest.mapped().subscribers);
    push(id, actor);
    if (actor.state == ActorState::kDead) actor.subscribers.clear();
    else actor.holders.merge(interest.mapped().holders);
  }
}

void Controller::end_restoring() {
  if (!std::exchange(restoring_, false)) return;
  const ErrorRecord cause{ErrorKind::kNodeDied, "it did not come back after the head's restart",
                          "", {}};
  for (const auto& [number, expected] : expected_) {
    if (expected.incarnation == static_cast<uint16_t>(boot_)) continue;
    dead_before_.push_back(expected);
  }
  // First: what a node registers for other deaths has to go to this life of the head.
  NodeInfo head;   // its last life
  head.number = 1;
  head.incarnation = static_cast<uint16_t>(boot_ - 1);
  open_barrier(head, {ErrorKind::kNodeDied, "the head's daemon was started again", "", {}});
  for (const ExpectedNode& dead : std::exchange(dead_before_, {})) {
    NodeInfo info;
    info.node = dead.node;
    info.number = dead.number;
    info.incarnation = dead.incarnation;
    info.hostname = dead.hostname;
    expected_.erase(info.number);
    out_.push_back(FenceNode{info.node, info.number, info.incarnation, cause});
    if (!dead.dead) journal_death(info);
    open_barrier(info, cause);
  }
  for (const auto& [info, why] : std::exchange(unannounced_, {})) open_barrier(info, why);
  settle_early();
  const std::set<ActorId> unconfirmed = std::exchange(unconfirmed_, {});
  for (const ActorId& id : unconfirmed) {
    auto it = actors_.find(id);
    if (it == actors_.end() || it->second.state == ActorState::kDead) continue;
    if (it->second.spec->max_restarts == 0 && it->second.ran) end_actor(id, it->second, cause);
  }
  held_back_.clear();
  std::vector<JobId> driverless;
  for (const auto& [id, job] : jobs_) {
    if (!job.alive) driverless.push_back(id);
  }
  for (JobId id : driverless) {
    jobs_.at(id).alive = true;
    end_job(id);
  }
  drop_unused_jobs();
  drop_unowned_groups();
  if (!stale_records_.empty()) journal(std::exchange(stale_records_, {}));
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
