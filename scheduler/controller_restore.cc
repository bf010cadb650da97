// How the controller's durable state is written down, and read back in its next life.
#include <fmt/format.h>

#include <algorithm>

#include "scheduler/controller.h"

namespace sheaf::scheduler {

using protocol::ActorState;
using protocol::ErrorKind;

namespace {

struct ActorRecord {
  protocol::ActorSpec spec;
  JobId job = 0;
  uint32_t incarnation = 0;
  uint32_t restarts = 0;
  bool ran = false;
  template <class A>
  void fields(A& a) {
    a(spec, job, incarnation, restarts, ran);
  }
};
struct GroupRecord {
  protocol::GroupCreate spec;
  JobId job = 0;
  template <class A>
  void fields(A& a) {
    a(spec, job);
  }
};

// An actor's incarnations in one life of the journal: the lives before it have lower numbers, those
// that their records do not tell of too.
constexpr uint32_t kIncarnationBits = 16;

}  // namespace

JournalRecord Controller::record_of(ActorId id, const ActorInfo& actor) const {
  const ActorRecord record{*actor.spec, actor.job, actor.incarnation, actor.restarts, actor.ran};
  return {RecordKind::kActor, to_hex(id), wire::encode(record)};
}

JournalRecord Controller::record_of(PlacementGroupId id, const GroupInfo& group) const {
  return {RecordKind::kGroup, to_hex(id), wire::encode(GroupRecord{group.spec, group.job})};
}

std::vector<std::string> Controller::restore(const std::vector<JournalRecord>& records) {
  std::vector<std::string> strange;
  // Nodes first: what may live on one of them is not dead.
  for (const bool nodes : {true, false}) {
    for (const JournalRecord& record : records) {
      if ((record.kind == RecordKind::kNode) != nodes) continue;
      if (record.value && restore_record(record)) continue;
      strange.push_back(fmt::format("record of kind {} with key '{}' is not understood",
                                    static_cast<int>(record.kind), record.key));
    }
  }
  first_incarnation_ = boot_ << kIncarnationBits;
  for (auto& [id, actor] : actors_) {
    actor.incarnation = std::max(actor.incarnation, boot_ << kIncarnationBits);
    auto group = groups_.find(actor.spec->placement.strategy.group);
    const bool dead = actor.state == ActorState::kDead;
    if (group != groups_.end() && !dead) group->second.actors.insert(id);
  }
  restoring_ = !expected_.empty() || !dead_before_.empty();
  if (!restoring_) {
    drop_unused_jobs();
    drop_unowned_groups();
  }
  return strange;
}

// Those that end with their job, which has not come back.
void Controller::drop_unowned_groups() {
  std::vector<PlacementGroupId> gone;
  for (const auto& [id, group] : groups_) {
    const bool removed = group.state == protocol::GroupState::kRemoved;
    auto job = jobs_.find(group.job);
    const bool owned = job != jobs_.end() && job->second.alive;
    if (!removed && !group.spec.detached && !owned) gone.push_back(id);
  }
  for (const PlacementGroupId& id : gone) remove_group(id, groups_.at(id));
}

// Functions are kept for as long as somebody may run them again.
void Controller::drop_unused_jobs() {
  std::set<JobId> kept_jobs;
  for (auto it = jobs_.begin(); it != jobs_.end();) {
    if (it->second.alive || has_detached_actors(it->first)) {
      kept_jobs.insert((it++)->first);
      continue;
    }
    stale_records_.push_back({RecordKind::kJob, std::to_string(it->first), std::nullopt});
    it = jobs_.erase(it);
  }
  for (auto it = kv_.lower_bound({"fn", ""}); it != kv_.end() && it->first.first == "fn";) {
    if (!kept_jobs.empty()) {
      function_users_[(it++)->first.second].insert(kept_jobs.begin(), kept_jobs.end());
      continue;
    }
    stale_records_.push_back({RecordKind::kKeyValue, it->first.first + '\0' + it->first.second,
    {}});
    it = kv_.erase(it);
  }
}

bool Controller::restore_record(const JournalRecord& record) {
  switch (record.kind) {
    case RecordKind::kBoot: {
      if (record.key == "cluster") {
        auto cluster = wire::decode<uint64_t>(*record.value);
        if (cluster) cluster_ = *cluster;
        return cluster_stored_ = cluster.has_value();
      }
      auto boot = wire::decode<uint32_t>(*record.value);
      if (boot) boot_ = *boot + 1;
      return boot.has_value();
    }
    case RecordKind::kKeyValue: {
      const size_t split = record.key.find('\0');
      if (split == std::string::npos) return false;
      kv_[{record.key.substr(0, split), record.key.substr(split + 1)}] = *record.value;
      return true;
    }
    case RecordKind::kJob: {
      auto spec = wire::decode<protocol::RegisterJob>(*record.value);
      if (!spec || record.key.empty() || record.key.size() > 10 ||
          !std::all_of(record.key.begin(), record.key.end(),
                       [](char c) { return c >= '0' && c <= '9'; })) {
        return false;
      }
      JobInfo& job = jobs_[static_cast<JobId>(std::stoull(record.key))];
      job.job = static_cast<JobId>(std::stoull(record.key));
      job.spec = std::move(*spec);
      return true;
    }
    case RecordKind::kActor: {
      auto saved = wire::decode<ActorRecord>(*record.value);
      if (!saved || to_hex(saved->spec.actor) != record.key) return false;
      ActorInfo actor;
      actor.spec = std::make_shared<protocol::ActorSpec>(std::move(saved->spec));
      actor.job = saved->job;
      actor.incarnation = saved->incarnation + 1;
      actor.restarts = saved->restarts;
      actor.ran = saved->ran;
      restore_actor(std::move(actor));
      return true;
    }
    case RecordKind::kGroup: {
      auto saved = wire::decode<GroupRecord>(*record.value);
      if (!saved || to_hex(saved->spec.group) != record.key) return false;
      const protocol::GroupCreate& spec = saved->spec;
      GroupInfo& group = groups_[spec.group];
      if (!spec.name.empty()) group_names_[{spec.name_space, spec.name}] = spec.group;
      group.job = saved->job;
      group.placed.resize(spec.bundles.size());
      group.spec = std::move(saved->spec);
      unplanned_.insert(group.spec.group);
      return true;
    }
    case RecordKind::kNode: return restore_node(record);
  }
  return false;
}

bool Controller::restore_node(const JournalRecord& record) {
  if (record.key == "last") {
    auto last = wire::decode<uint16_t>(*record.value);
    if (last) last_number_ = std::max(last_number_, *last);
    return last.has_value();
  }
  if (record.key == "head") {
    head_address_ = *record.value;
    return true;
  }
  auto node = wire::decode<ExpectedNode>(*record.value);
  if (!node || std::to_string(node->number) != record.key) return false;
  last_number_ = std::max(last_number_, node->number);
  if (node->dead) dead_before_.push_back(std::move(*node));
  else expected_[node->number] = std::move(*node);
  return true;
}

// Its processes died with the last daemon, or live on another node, which will say so. Where
// restarts are allowed it comes back, at no cost, and so does one that never ran; where they are
// not, its state is lost and saying so is all that can be done.
void Controller::restore_actor(ActorInfo saved) {
  const protocol::ActorSpec& spec = *saved.spec;
  ActorInfo& actor = actors_[spec.actor] = std::move(saved);
  actor.cause = {ErrorKind::kNodeDied, "its node daemon ended and was started again", "",
                 spec.actor};
  if (restoring_ || !expected_.empty()) {
    unconfirmed_.insert(spec.actor);
  } else if (spec.max_restarts == 0 && actor.ran) {
    actor.state = ActorState::kDead;
    dead_actors_.push_back(spec.actor);
    stale_records_.push_back({RecordKind::kActor, to_hex(spec.actor), std::nullopt});
    return;
  }
  actor.state = ActorState::kRestarting;
  living_.insert(spec.actor);
  if (!spec.name.empty()) names_[{spec.name_space, spec.name}] = spec.actor;
  unplaced_.insert(spec.actor);
}

}  // namespace sheaf::scheduler
