// The controller's jobs and key-value spaces.
#include <fmt/format.h>

#include <algorithm>

#include "scheduler/controller.h"

namespace sheaf::scheduler {

using protocol::ErrorKind;
using protocol::ErrorRecord;

namespace {

constexpr size_t kEndedJobsKept = 1000;
constexpr std::string_view kFunctionSpace = "fn";
// Job numbers of different lives of a journal never meet.
constexpr uint32_t kJobsPerBoot = 1u << 20;

std::string key_text(const std::pair<std::string, std::string>& key) {
  return key.first + '\0' + key.second;
}

}  // namespace

// ---- Jobs ---------------------------------------------------------------------------------------

void Controller::on(const Request<protocol::RegisterJob>& event) {
  auto client = clients_.find(event.process);
  if (client == clients_.end()) return;
  if (!boot_durable_) {
    journal_boot();
    wait_for(boot_pending_).deferred.push_back(event);
    return;
  }
  if (client->second.job == 0) {
    JobInfo info;
    info.job = (boot_ - 1) * kJobsPerBoot + ++jobs_started_;
    info.driver = event.process;
    info.spec = event.message;
    // Without a name it is a namespace of its own, which nobody else can name by accident.
    if (info.spec.name_space.empty()) info.spec.name_space = fmt::format("anonymous-{}", info.job);
    info.started = now_;
    info.alive = true;
    client->second.job = info.job;
    journal_for_later({RecordKind::kJob, std::to_string(info.job), wire::encode(info.spec)});
    send_to_all(JobStarted{info.job, info.spec, info.driver});
    jobs_[info.job] = std::move(info);
  }
  const JobInfo& info = jobs_.at(client->second.job);
  reply(event.process, event.request, Status::ok(),
        wire::encode(protocol::RegisterJobReply{info.job, info.spec.name_space}));
}

std::string Controller::name_space_of(ProcessId process, const std::string& wanted) const {
  if (!wanted.empty()) return wanted;
  auto job = jobs_.find(job_of(process));
  return job == jobs_.end() ? std::string() : job->second.spec.name_space;
}

void Controller::end_job(JobId id) {
  auto it = jobs_.find(id);
  if (it == jobs_.end() || !it->second.alive) return;
  it->second.alive = false;
  it->second.driver = kNoProcess;
  it->second.ended = now_;
  send_to_all(EndJob{id});
  const ErrorRecord cause{ErrorKind::kOwnerDied, "the job that created it has ended", "", {}};
  std::vector<ActorId> actors;
  for (const auto& [actor_id, actor] : actors_) {
    const bool dead = actor.state == protocol::ActorState::kDead;
    if (actor.job == id && !dead && !actor.spec->detached) actors.push_back(actor_id);
  }
  for (const ActorId& actor_id : actors) {
    ActorInfo& actor = actors_.at(actor_id);
    release_actor(actor_id, actor, false, cause);
    end_actor(actor_id, actor, {ErrorKind::kActorDied, cause.message, "", actor_id});
  }
  std::vector<PlacementGroupId> groups;
  for (const auto& [group_id, group] : groups_) {
    const bool removed = group.state == protocol::GroupState::kRemoved;
    if (group.job == id && !removed && !group.spec.detached) groups.push_back(group_id);
  }
  for (const PlacementGroupId& group_id : groups) remove_group(group_id, groups_.at(group_id));
  out_.push_back(JobFinished{id});
  forget_job_if_unused(id);
  ended_jobs_.push_back(id);
  while (ended_jobs_.size() > kEndedJobsKept) {
    if (!has_detached_actors(ended_jobs_.front())) jobs_.erase(ended_jobs_.front());
    ended_jobs_.pop_front();
  }
}

bool Controller::has_detached_actors(JobId job) const {
  return std::any_of(actors_.begin(), actors_.end(), [&](const auto& entry) {
    return entry.second.job == job && entry.second.spec->detached &&
           entry.second.state != protocol::ActorState::kDead;
  });
}

// An ended job's environment and functions are kept as long as its detached actors may restart.
void Controller::forget_job_if_unused(JobId id) {
  auto job = jobs_.find(id);
  if (job == jobs_.end() || job->second.alive || has_detached_actors(id)) return;
  std::vector<JournalRecord> records{{RecordKind::kJob, std::to_string(id), std::nullopt}};
  unstored_.erase({RecordKind::kJob, records[0].key});
  for (auto it = function_users_.begin(); it != function_users_.end();) {
    it->second.erase(id);
    if (!it->second.empty()) {
      ++it;
      continue;
    }
    const KvKey key{std::string(kFunctionSpace), it->first};
    kv_.erase(key);
    records.push_back({RecordKind::kKeyValue, key_text(key), std::nullopt});
    unstored_.erase({RecordKind::kKeyValue, records.back().key});
    it = function_users_.erase(it);
  }
  journal(std::move(records));
  send_to_all(ForgetJob{id});
}

// ---- Key-value ----------------------------------------------------------------------------------

void Controller::set_key(const KvKey& key, std::optional<std::string> value) {
  if (!value) {
    kv_.erase(key);
    return;
  }
  kv_[key] = std::move(*value);
  answer_waits(key);
}

// True when the answer has to wait for a write that is on its way to the journal.
bool Controller::defer_for_key(const KvKey& key, const ControllerEvent& event) {
  auto last = kv_pending_.find(key);
  if (last == kv_pending_.end()) return false;
  auto pending = pending_.find(last->second);
  if (pending == pending_.end()) {
    kv_pending_.erase(last);
    return false;
  }
  pending->second.deferred.push_back(event);
  return true;
}

void Controller::on(const Request<protocol::KvPut>& event) {
  const KvKey key{event.message.space, event.message.key};
  const bool is_function = key.first == kFunctionSpace;
  if ((is_function || !event.message.overwrite) && defer_for_key(key, event)) return;
  auto existing = kv_.find(key);
  const bool present = existing != kv_.end();
  if (is_function) {
    if (const JobId job = job_of(event.process)) function_users_[key.second].insert(job);
  }
  const bool same = present && is_function && existing->second == event.message.value;
  if (same || (present && !event.message.overwrite)) {
    reply(event.process, event.request, Status::ok(), wire::encode(protocol::KvPutReply{false}));
    return;
  }
  std::optional<std::string> before;
  if (present) before = existing->second;
  const JournalRecord record{RecordKind::kKeyValue, key_text(key), event.message.value};
  Reply answer{event.process, event.request, StatusCode::kOk, "",
               wire::encode(protocol::KvPutReply{!present})};
  if (is_function) {
    const uint64_t sequence = journal_for_later(record);
    set_key(key, event.message.value);
    // A driver of this node dies with it: then only detached actors need it, whose own records come
    // later. Others go on, so they wait; whether there was room on the disk makes no difference.
    if (node_of(event.process) <= 1) return out_.push_back(std::move(answer));
    kv_pending_[key] = sequence;
    wait_for(sequence).deferred.push_back(event);
    return;
  }
  const uint64_t sequence = journal({record});
  Pending& pending = wait_for(sequence);
  pending.reply = std::move(answer);
  pending.kv_before.emplace_back(key, std::move(before));
  kv_pending_[key] = sequence;
  kv_[key] = event.message.value;
}

void Controller::on(const Request<protocol::KvGet>& event) {
  const KvKey key{event.message.space, event.message.key};
  if (defer_for_key(key, event)) return;
  auto it = kv_.find(key);
  if (it == kv_.end() && event.message.wait_ms > 0) {
    const Time deadline = now_ + std::chrono::milliseconds(event.message.wait_ms);
    kv_waits_[key].push_back({event.process, event.request, deadline});
    set_timer(deadline, Timer::Kind::kKeyWait, 0, 0);
    return;
  }
  protocol::KvGetReply answer;
  if (it != kv_.end()) answer.value = it->second;
  reply(event.process, event.request, Status::ok(), wire::encode(answer));
}

void Controller::answer_waits(const KvKey& key) {
  auto waits = kv_waits_.find(key);
  if (waits == kv_waits_.end()) return;
  const std::string payload = wire::encode(protocol::KvGetReply{kv_.at(key)});
  for (const KvWait& wait : waits->second) {
    reply(wait.process, wait.request, Status::ok(), payload);
  }
  kv_waits_.erase(waits);
}

void Controller::expire_key_waits() {
  for (auto it = kv_waits_.begin(); it != kv_waits_.end();) {
    std::erase_if(it->second, [&](const KvWait& wait) {
      if (wait.deadline > now_) return false;
      reply(wait.process, wait.request, Status::ok(), wire::encode(protocol::KvGetReply{}));
      return true;
    });
    it = it->second.empty() ? kv_waits_.erase(it) : std::next(it);
  }
}

void Controller::on(const Request<protocol::KvDelete>& event) {
  const protocol::KvDelete& wanted = event.message;
  std::vector<JournalRecord> records;
  std::vector<std::pair<KvKey, std::optional<std::string>>> before;
  for (auto it = kv_.lower_bound({wanted.space, wanted.key}); it != kv_.end();) {
    const auto& [space, name] = it->first;
    if (space != wanted.space || !name.starts_with(wanted.key)) break;
    if (!wanted.by_prefix && name != wanted.key) break;
    records.push_back({RecordKind::kKeyValue, key_text(it->first), std::nullopt});
    before.emplace_back(it->first, std::move(it->second));
    it = kv_.erase(it);
  }
  const auto deleted = static_cast<uint32_t>(records.size());
  Reply answer{event.process, event.request, StatusCode::kOk, "",
               wire::encode(protocol::KvDeleteReply{deleted})};
  if (deleted == 0) {
    if (!defer_for_key({wanted.space, wanted.key}, event)) out_.push_back(std::move(answer));
    return;
  }
  const uint64_t sequence = journal(std::move(records));
  Pending& pending = wait_for(sequence);
  pending.reply = std::move(answer);
  for (const auto& [key, value] : before) kv_pending_[key] = sequence;
  pending.kv_before = std::move(before);
}

void Controller::on(const Request<protocol::KvKeys>& event) {
  protocol::KvKeysReply answer;
  const KvKey first{event.message.space, event.message.prefix};
  const auto in_range = [&](const KvKey& key) {
    return key.first == first.first && key.second.starts_with(first.second);
  };
  for (auto it = kv_pending_.lower_bound(first); it != kv_pending_.end() && in_range(it->first);) {
    const KvKey key = (it++)->first;
    if (defer_for_key(key, event)) return;
  }
  for (auto it = kv_.lower_bound(first); it != kv_.end() && in_range(it->first); ++it) {
    answer.keys.push_back(it->first.second);
  }
  reply(event.process, event.request, Status::ok(), wire::encode(answer));
}

}  // namespace sheaf::scheduler
