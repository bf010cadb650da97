// The controller's actors: one incarnation at a time has authority, the rest is refused.
#include <fmt/format.h>

#include <algorithm>

#include "scheduler/controller.h"

namespace sheaf::scheduler {

using protocol::ActorState;
using protocol::ErrorKind;
using protocol::ErrorRecord;
using protocol::StrategyKind;

bool Controller::restarts_left(const ActorInfo& actor) {
  const int32_t most = actor.spec->max_restarts;
  return most < 0 || actor.restarts < static_cast<uint32_t>(most);
}

void Controller::on(const Request<protocol::ActorCreate>& event) {
  auto client = clients_.find(event.process);
  if (client == clients_.end()) return;   // it left while this request waited
  auto spec = std::make_shared<protocol::ActorSpec>(event.message.spec);
  if (!spec->name.empty()) {
    spec->name_space = name_space_of(event.process, spec->name_space);
    auto named = names_.find({spec->name_space, spec->name});
    if (named != names_.end()) {
      const uint64_t journal_pending = actors_.at(named->second).journal_pending;
      if (journal_pending != 0) {
        wait_for(journal_pending).deferred.push_back(event);
        return;
      }
    }
  }
  if (std::optional<Reply> refusal = check_actor(event, *spec)) {
    if (refusal->code != StatusCode::kOk) refuse_early(spec->actor, refusal->message);
    out_.push_back(std::move(*refusal));
    return;
  }
  ActorInfo& actor = actors_[spec->actor];
  living_.insert(spec->actor);
  actor.spec = spec;
  actor.job = client->second.job;
  if (auto early = early_.extract(spec->actor)) {
    actor.holders = std::move(early.mapped().holders);
    actor.subscribers = std::move(early.mapped().subscribers);
  }
  actor.holders.insert(event.process);
  if (restoring_) {
    held_back_.insert(spec->actor);
    actor.incarnation = first_incarnation_;
  }
  if (!spec->name.empty()) names_[{spec->name_space, spec->name}] = spec->actor;
  if (spec->placement.strategy.kind == StrategyKind::kPlacementGroup) {
    auto group = groups_.find(spec->placement.strategy.group);
    if (group != groups_.end()) group->second.actors.insert(spec->actor);
  }
  out_.push_back(ActorAccepted{spec});
  const std::string payload = wire::encode(protocol::ActorCreateReply{});
  if (!spec->detached) {
    reply(event.process, event.request, Status::ok(), payload);
    place(spec->actor, actor);
    return;
  }
  std::vector<JournalRecord> records = not_yet_stored(), again = records;
  records.push_back(record_of(spec->actor, actor));
  actor.journal_pending = journal(std::move(records));
  Pending& pending = wait_for(actor.journal_pending);
  pending.actor = spec->actor;
  pending.again = std::move(again);
  pending.reply = Reply{event.process, event.request, StatusCode::kOk, "", payload};
}

// An answer that ends the request here: a refusal, or the actor that get_if_exists asks for.
std::optional<Reply> Controller::check_actor(const Request<protocol::ActorCreate>& event,
                                             const protocol::ActorSpec& spec) {
  Reply answer{event.process, event.request, StatusCode::kInvalidArgument, "", ""};
  if (auto named = names_.find({spec.name_space, spec.name});
      !spec.name.empty() && named != names_.end() && named->second != spec.actor) {
    const ActorInfo& existing = actors_.at(named->second);
    if (spec.get_if_exists) {
      answer.code = StatusCode::kOk;
      answer.payload =
          wire::encode(protocol::ActorCreateReply{named->second, existing.spec->handle});
      return answer;
    }
    answer.code = StatusCode::kAlreadyExists;
    answer.message = fmt::format("The name '{}' is already taken in namespace '{}'. Please use a "
                                 "different name, or get_actor() for the actor that has it.",
                                 spec.name, spec.name_space);
    return answer;
  }
  if (actors_.contains(spec.actor)) {   // the same request once more
    answer.code = StatusCode::kOk;
    answer.payload = wire::encode(protocol::ActorCreateReply{});
    return answer;
  }
  ResourceMap resources = spec.placement.resources, creation = spec.creation_resources;
  Status valid = validate_resources(resources);
  if (valid.is_ok()) valid = validate_resources(creation);
  if (spec.actor.is_nil()) valid = Status(StatusCode::kInvalidArgument, "an actor needs an id");
  if (job_of(event.process) == 0) {
    valid = Status(StatusCode::kInvalidArgument, "only a process of a job can create an actor");
  }
  if (valid.is_ok()) return std::nullopt;
  answer.message = std::string(valid.message());
  return answer;
}

bool Controller::node_suits(const NodeInfo& node, const ActorInfo& actor) const {
  const protocol::SchedulingClass& placement = actor.spec->placement;
  const protocol::Strategy& strategy = placement.strategy;
  if (node.draining || !labels_match(strategy.hard_labels, node.labels)) return false;
  const bool affine = strategy.kind == StrategyKind::kNodeAffinity;
  if (affine && !strategy.soft && strategy.node != to_hex(node.node)) return false;
  return fits(placement.resources, node.total) && fits(actor.spec->creation_resources, node.total);
}

void Controller::place(ActorId id, ActorInfo& actor) {
  const protocol::Strategy& strategy = actor.spec->placement.strategy;
  if (strategy.kind == StrategyKind::kPlacementGroup) {
    auto group = groups_.find(strategy.group);
    if (group == groups_.end() || group->second.state == protocol::GroupState::kRemoved) {
      end_actor(id, actor, {ErrorKind::kActorPlacementGroupRemoved,
                            "its placement group was removed", "", id});
      return;
    }
  } else if (strategy.kind == StrategyKind::kNodeAffinity && !strategy.soft && !nodes_.empty() &&
             !restoring_ &&
             std::none_of(nodes_.begin(), nodes_.end(),
                          [&](const auto& n) { return to_hex(n.first) == strategy.node; })) {
    end_actor(id, actor, {ErrorKind::kUnschedulable,
                          fmt::format("node {} is not part of this cluster", strategy.node), "",
                          id});
    return;
  }
  actor.process = kNoProcess;
  leave_node(id, actor);
  actor.node = {};
  unplaced_.insert(id);
  if (!boot_durable_ || unconfirmed_.contains(id) || held_back_.contains(id)) return;
  const NodeId node = choose_node(id, actor);
  if (node.is_nil()) {
    review_actor(id);
    return;
  }
  unplaced_.erase(id);
  settle_on(id, actor, node);
  auto job = jobs_.find(actor.job);
  const bool job_ended = job == jobs_.end() || !job->second.alive;
  send(actor.node, PlaceActor{id, actor.incarnation, actor.job, actor.spec, job_ended,
                              actor.restarts});
}

void Controller::place_waiting_actors() {
  const std::set<ActorId> waiting = unplaced_;
  for (const ActorId& id : waiting) {
    auto it = actors_.find(id);
    if (it != actors_.end() && it->second.node.is_nil()) place(id, it->second);
  }
}

void Controller::on_report(const NodeId& node, const ActorAssigned& report) {
  auto it = actors_.find(report.actor);
  if (it == actors_.end() || it->second.node != node) return;
  if (it->second.incarnation != report.incarnation || it->second.state == ActorState::kDead) return;
  it->second.process = report.process;
  nodes_.at(node).placing.erase(report.actor);   // the next report of free resources tells of it
  crowded_.erase(report.actor);
}

void Controller::on(const Request<protocol::ActorStarted>& event) {
  auto it = actors_.find(event.message.actor);
  if (it == actors_.end()) return;
  ActorInfo& actor = it->second;
  const bool current = actor.process == event.process && actor.process != kNoProcess &&
                       actor.incarnation == event.message.incarnation;
  if (!current || actor.state == ActorState::kAlive || actor.state == ActorState::kDead) return;
  if (!event.message.ok) {
    release_actor(it->first, actor, false, event.message.error);
    ErrorRecord cause = event.message.error;
    cause.kind = ErrorKind::kActorDied;
    cause.actor = it->first;
    end_actor(it->first, actor, std::move(cause));
    return;
  }
  if (!std::exchange(actor.ran, true) && actor.spec->detached) {
    // The next life has to know that there is a state to lose, before anyone gives it one.
    wait_for(journal({record_of(it->first, actor)})).deferred.push_back(event);
    return;
  }
  actor.state = ActorState::kAlive;
  actor.cause = {};
  send(actor.node, ActorRunning{it->first, actor.incarnation});
  push(it->first, actor);
  review_actor(it->first);
}

// Its worker is about to leave of its own will.
void Controller::on(const Request<protocol::ActorExiting>& event) {
  auto it = actors_.find(event.message.actor);
  if (it == actors_.end() || it->second.process != event.process) return;
  if (it->second.incarnation != event.message.incarnation || !event.message.intended) return;
  if (it->second.state == ActorState::kDead) return;
  it->second.ending = true;
  it->second.cause = {ErrorKind::kActorDied, event.message.reason, "", it->first};
}

void Controller::on_report(const NodeId& node, const ActorLost& report) {
  auto it = actors_.find(report.actor);
  if (it == actors_.end() || it->second.node != node) return;
  if (it->second.incarnation != report.incarnation || it->second.state == ActorState::kDead) return;
  actor_lost(it->first, it->second, report.cause);
}

void Controller::on_report(const NodeId& node, const ActorPlaceFailed& report) {
  auto it = actors_.find(report.actor);
  if (it == actors_.end() || it->second.node != node) return;
  if (it->second.incarnation != report.incarnation || it->second.state == ActorState::kDead) return;
  end_actor(it->first, it->second, report.error);
}

void Controller::actor_lost(ActorId id, ActorInfo& actor, const ErrorRecord& cause) {
  const protocol::ActorSpec& spec = *actor.spec;
  const bool node_died = cause.kind == ErrorKind::kNodeDied;
  const bool may_restart = restarts_left(actor) || (node_died && spec.max_restarts > 0);
  if (actor.ending || !may_restart) {
    ErrorRecord final_cause = actor.ending ? actor.cause : cause;
    if (!actor.ending && !node_died) final_cause.kind = ErrorKind::kActorDied;
    final_cause.actor = id;
    end_actor(id, actor, std::move(final_cause));
    return;
  }
  if (!node_died) ++actor.restarts;   // what the machine does is not the actor's fault
  ++actor.incarnation;
  actor.incarnation = std::max(actor.incarnation, first_incarnation_);
  actor.state = ActorState::kRestarting;
  actor.cause = cause;
  actor.process = kNoProcess;
  push(id, actor);
  // Its number needs no record: those of the next life begin beyond all of this one.
  if (spec.detached) journal({record_of(id, actor)});
  place(id, actor);
}

// Ends it for its callers. Its worker, if any, has been told to go by release_actor().
void Controller::end_actor(ActorId id, ActorInfo& actor, ErrorRecord cause, bool erase_record) {
  if (actor.state == ActorState::kDead) return;
  actor.state = ActorState::kDead;
  living_.erase(id);
  actor.cause = std::move(cause);
  actor.process = kNoProcess;
  actor.unheld_since.reset();
  unplaced_.erase(id);
  unconfirmed_.erase(id);
  held_back_.erase(id);
  leave_node(id, actor);
  const protocol::ActorSpec& spec = *actor.spec;
  auto named = names_.find({spec.name_space, spec.name});
  if (named != names_.end() && named->second == id) names_.erase(named);
  if (auto group = groups_.find(spec.placement.strategy.group); group != groups_.end()) {
    group->second.actors.erase(id);
  }
  push(id, actor);
  actor.subscribers.clear();
  actor.holders.clear();
  out_.push_back(ActorGone{actor.spec});
  if (spec.detached && erase_record) {
    journal({{RecordKind::kActor, to_hex(id), std::nullopt}});
    forget_job_if_unused(actor.job);
  }
  dead_actors_.push_back(id);
  while (dead_actors_.size() > config_.dead_actors_kept) {
    const ActorId oldest = dead_actors_.front();
    if (clients_.contains(oldest.process())) {
      uint64_t& newest = forgotten_[oldest.process()];
      newest = std::max(newest, oldest.lo);
    }
    actors_.erase(oldest);
    dead_actors_.pop_front();
  }
}

void Controller::release_actor(ActorId id, ActorInfo& actor, bool graceful,
                               const ErrorRecord& cause) {
  if (actor.node.is_nil() || !nodes_.contains(actor.node)) return;
  send(actor.node, ReleaseActor{id, actor.incarnation, graceful, cause});
}

void Controller::on(const Request<protocol::ActorKill>& event) {
  auto it = actors_.find(event.message.actor);
  const bool dead = it == actors_.end() || it->second.state == ActorState::kDead;
  if (!dead && it->second.journal_pending != 0) {
    wait_for(it->second.journal_pending).deferred.push_back(event);
    return;
  }
  if (dead) {
    reply(event.process, event.request, Status::ok());
    return;
  }
  if (!event.message.no_restart && it->second.process != kNoProcess) {
    release_actor(it->first, it->second, false,
                  {ErrorKind::kActorUnavailable, "killed, to be restarted", "", it->first});
    reply(event.process, event.request, Status::ok());
    return;
  }
  if (!event.message.no_restart && restarts_left(it->second)) {
    // It has nothing to lose yet: the start that it waits for is the restart.
    ++it->second.restarts;
    if (it->second.spec->detached) journal({record_of(it->first, it->second)});
    reply(event.process, event.request, Status::ok());
    return;
  }
  const bool detached = it->second.spec->detached;
  const ErrorRecord cause{ErrorKind::kActorDied, "it was killed by kill()", "", it->first};
  release_actor(it->first, it->second, false, cause);
  end_actor(it->first, it->second, cause, false);
  if (!detached) {
    reply(event.process, event.request, Status::ok());
    return;
  }
  const uint64_t sequence = journal({{RecordKind::kActor, to_hex(it->first), std::nullopt}});
  wait_for(sequence).reply = Reply{event.process, event.request, StatusCode::kOk, "", ""};
  forget_job_if_unused(it->second.job);
}

void Controller::on(const Request<protocol::ActorHold>& event) {
  if (!clients_.contains(event.process)) return;
  auto it = actors_.find(event.message.actor);
  if (it == actors_.end() && may_still_be_created(event.message.actor)) {
    std::set<ProcessId>& holders = early_[event.message.actor].holders;
    if (event.message.delta < 0) holders.erase(event.process);
    else holders.insert(event.process);
    return;
  }
  if (it == actors_.end() || it->second.state == ActorState::kDead) return;
  if (event.message.delta < 0) {
    drop_holder(it->first, it->second, event.process);
  } else {
    it->second.holders.insert(event.process);
    it->second.unheld_since.reset();
  }
}

// Unknown so far, but its creator lives and has not come to it yet. Sequences of one creator grow.
bool Controller::may_still_be_created(ActorId id) const {
  if (restoring_) return true;
  if (!clients_.contains(id.process())) return false;
  auto forgotten = forgotten_.find(id.process());
  return forgotten == forgotten_.end() || id.lo > forgotten->second;
}

void Controller::refuse_early(ActorId id, const std::string& why) {
  auto early = early_.extract(id);
  if (!early) return;
  protocol::ActorUpdate update;
  update.actor = id;
  update.state = ActorState::kDead;
  update.cause = {ErrorKind::kActorDied, why, "", id};
  for (ProcessId process : early.mapped().subscribers) {
    out_.push_back(PushActorUpdate{process, update});
  }
}

void Controller::drop_holder(ActorId id, ActorInfo& actor, ProcessId process) {
  if (actor.holders.erase(process) == 0 || !actor.holders.empty()) return;
  actor.unheld_since = now_;
  review_actor(id);
}

// Re-examines what time alone can change: an actor that nobody holds, one that nothing can run.
void Controller::review_actor(ActorId id) {
  auto it = actors_.find(id);
  if (it == actors_.end() || it->second.state == ActorState::kDead) return;
  ActorInfo& actor = it->second;
  const bool in_group = actor.spec->placement.strategy.kind == StrategyKind::kPlacementGroup;
  if (unplaced_.contains(id) && !in_group) {
    if (now_ >= actor.next_warning && !nodes_.empty()) {
      actor.next_warning = now_ + config_.warn_interval;
      ResourceMap needs = actor.spec->placement.resources;
      for (const auto& [name,
           amount] : actor.spec->creation_resources) needs[name] = std::max(needs[name], amount);
      warn(actor.job, fmt::format("No node can run an actor of class {}, which needs {}. It waits "
                                  "until there is one.",
                                  actor.spec->class_name, to_text(needs)));
    }
    set_timer(std::max(actor.next_warning, now_ + config_.holder_grace), Timer::Kind::kActor, id.hi,
              id.lo);
  }
  if (actor.spec->detached || actor.ending || !actor.unheld_since) return;
  const Time due = *actor.unheld_since + config_.holder_grace;
  if (now_ < due) {
    set_timer(due, Timer::Kind::kActor, id.hi, id.lo);
    return;
  }
  const ErrorRecord cause{ErrorKind::kActorDied, "all handles to it are gone", "", id};
  if (actor.state == ActorState::kAlive) {
    actor.ending = true;
    actor.cause = cause;
    release_actor(id, actor, true, cause);
  } else if (actor.process == kNoProcess && actor.subscribers.empty()) {
    release_actor(id, actor, false, cause);
    end_actor(id, actor, cause);
  }   // else its callers wait for it: looked at again when it is alive
}

protocol::ActorUpdate Controller::update_of(ActorId id, const ActorInfo& actor) const {
  protocol::ActorUpdate update;
  update.actor = id;
  update.state = actor.state;
  update.incarnation = actor.incarnation;
  update.process = actor.state == ActorState::kAlive ? actor.process : kNoProcess;
  if (actor.state != ActorState::kAlive) update.cause = actor.cause;
  return update;
}

void Controller::push(ActorId id, const ActorInfo& actor) {
  for (ProcessId process : actor.subscribers) {
    out_.push_back(PushActorUpdate{process, update_of(id, actor)});
  }
}

void Controller::on(const Request<protocol::ActorSubscribe>& event) {
  const ActorId id = event.message.actor;
  auto it = actors_.find(id);
  if (it == actors_.end()) {
    protocol::ActorUpdate update;
    update.actor = id;
    if (may_still_be_created(id) && clients_.contains(event.process)) {
      early_[id].subscribers.insert(event.process);
      out_.push_back(PushActorUpdate{event.process, std::move(update)});
      return;
    }
    update.state = ActorState::kDead;
    update.cause = {ErrorKind::kActorDied, "no such actor is known: it ended long ago", "", id};
    out_.push_back(PushActorUpdate{event.process, std::move(update)});
    return;
  }
  const bool alive = it->second.state != ActorState::kDead;
  if (alive && clients_.contains(event.process)) it->second.subscribers.insert(event.process);
  out_.push_back(PushActorUpdate{event.process, update_of(id, it->second)});
}

void Controller::on(const Request<protocol::ActorLookup>& event) {
  const std::string name_space = name_space_of(event.process, event.message.name_space);
  auto named = names_.find({name_space, event.message.name});
  if (named != names_.end()) {
    const ActorInfo& actor = actors_.at(named->second);
    if (actor.journal_pending != 0) {
      wait_for(actor.journal_pending).deferred.push_back(event);
      return;
    }
    reply(event.process, event.request, Status::ok(),
          wire::encode(protocol::ActorLookupReply{named->second, actor.spec->handle}));
    return;
  }
  std::string message = fmt::format("no actor named '{}' in namespace '{}'", event.message.name,
                                    name_space);
  for (auto id = dead_actors_.rbegin(); id != dead_actors_.rend(); ++id) {
    const ActorInfo& actor = actors_.at(*id);
    if (actor.spec->name != event.message.name || actor.spec->name_space != name_space) continue;
    message += fmt::format("; the last one died: {}", actor.cause.message);
    break;
  }
  reply(event.process, event.request, Status(StatusCode::kNotFound, message));
}

void Controller::on(const Request<protocol::ActorNames>& event) {
  protocol::ActorNamesReply answer;
  const std::string name_space = name_space_of(event.process, event.message.name_space);
  for (const auto& [name, id] : names_) {
    if (!event.message.all_namespaces && name.first != name_space) continue;
    if (actors_.at(id).journal_pending == 0) answer.names.push_back(name);
  }
  reply(event.process, event.request, Status::ok(), wire::encode(answer));
}

}  // namespace sheaf::scheduler
