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
  template <class A>
  void fields(A& a) {
    a(spec, job, incarnation, restarts);
  }
};

// An actor's incarnations in one life of the journal: the lives before it have lower numbers, those
// that their records do not tell of too.
constexpr uint32_t kIncarnationBits = 16;

}  // namespace

JournalRecord Controller::record_of(ActorId id, const ActorInfo& actor) const {
  const ActorRecord record{*actor.spec, actor.job, actor.incarnation, actor.restarts};
  return {RecordKind::kActor, to_hex(id), wire::encode(record)};
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
  restoring_ = !expected_.empty();
  if (!restoring_) drop_unused_jobs();
  return strange;
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
      restore_actor(saved->spec, saved->job, saved->incarnation, saved->restarts);
      return true;
    }
    case RecordKind::kGroup: {
      auto spec = wire::decode<protocol::GroupCreate>(*record.value);
      if (!spec || to_hex(spec->group) != record.key) return false;
      GroupInfo& group = groups_[spec->group];
      if (!spec->name.empty()) group_names_[{spec->name_space, spec->name}] = spec->group;
      group.placed.resize(spec->bundles.size());
      group.spec = std::move(*spec);
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
  auto node = wire::decode<ExpectedNode>(*record.value);
  if (!node || std::to_string(node->number) != record.key) return false;
  last_number_ = std::max(last_number_, node->number);
  expected_[node->number] = std::move(*node);
  return true;
}

// Its processes died with the last daemon, or live on another node, which will say so. Where
// restarts are allowed it comes back, at no cost; where they are not, its state is lost and saying
// so is all that can be done.
void Controller::restore_actor(const protocol::ActorSpec& spec, JobId job, uint32_t incarnation,
                               uint32_t restarts) {
  ActorInfo& actor = actors_[spec.actor];
  actor.spec = std::make_shared<protocol::ActorSpec>(spec);
  actor.job = job;
  actor.incarnation = incarnation + 1;
  actor.restarts = restarts;
  actor.cause = {ErrorKind::kNodeDied, "its node daemon ended and was started again", "",
                 spec.actor};
  if (!expected_.empty()) {
    unconfirmed_.insert(spec.actor);
  } else if (spec.max_restarts == 0) {
    actor.state = ActorState::kDead;
    dead_actors_.push_back(spec.actor);
    stale_records_.push_back({RecordKind::kActor, to_hex(spec.actor), std::nullopt});
    return;
  }
  actor.state = ActorState::kRestarting;
  if (!spec.name.empty()) names_[{spec.name_space, spec.name}] = spec.actor;
  unplaced_.insert(spec.actor);
}

}  // namespace sheaf::scheduler
