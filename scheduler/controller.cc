// The controller's dispatch, journal and clients. Nodes: controller_nodes.cc; jobs and key-value:
// controller_jobs.cc; actors: controller_actors.cc; placement groups: controller_groups.cc.
#include "scheduler/controller.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace sheaf::scheduler {

SHEAF_DEFINE_VARIANT(ControllerEvent)
SHEAF_DEFINE_VARIANT(ControllerAction)

using protocol::ErrorKind;
using protocol::ErrorRecord;

Controller::Controller(ControllerConfig config) : config_(config), cluster_(config.cluster) {}

ControllerActions Controller::handle(const ControllerEvent& event, Time now) {
  now_ = std::max(now_, now);
  std::visit([this](const auto& e) { on(e); }, event);
  return std::exchange(out_, {});
}

ControllerActions Controller::start(Time now) {
  now_ = std::max(now_, now);
  // Apart from what creates: erasures find room on a full disk.
  if (!stale_records_.empty()) journal(std::exchange(stale_records_, {}));
  journal_boot();
  if (cluster_ != 0 && !cluster_stored_) {
    journal({{RecordKind::kBoot, "cluster", wire::encode(cluster_)}});
  }
  for (const auto& [id, actor] : actors_) {
    if (actor.state != protocol::ActorState::kDead) out_.push_back(ActorAccepted{actor.spec});
  }
  // Who has not come back by then has stopped by itself: it had no answer for longer.
  if (restoring_) set_timer(now_ + config_.lease_time, Timer::Kind::kRestoring, 0, 0);
  return std::exchange(out_, {});
}

// Job numbers, ids and incarnations of this life are its own only once its number is durable.
void Controller::journal_boot() {
  if (boot_durable_ || boot_pending_ != 0) return;
  boot_pending_ = journal({{RecordKind::kBoot, "", wire::encode(boot_)}});
  wait_for(boot_pending_).boot = true;
}

uint64_t Controller::journal_for_later(JournalRecord record) {
  const uint64_t sequence = journal({record});
  wait_for(sequence).again = {std::move(record)};
  return sequence;
}

// Whether a job's or a function's record still has a use.
bool Controller::is_current(const JournalRecord& record) const {
  if (record.kind == RecordKind::kJob) {
    auto job = jobs_.find(static_cast<JobId>(std::stoull(record.key)));
    return job != jobs_.end() && (job->second.alive || has_detached_actors(job->first));
  }
  const size_t split = record.key.find('\0');
  auto value = kv_.find({record.key.substr(0, split), record.key.substr(split + 1)});
  return value != kv_.end() && value->second == record.value;
}

// Jobs' and functions' records that are not durable, on their way or turned away.
std::vector<JournalRecord> Controller::not_yet_stored() const {
  std::vector<JournalRecord> out;
  for (const auto& [key, record] : unstored_) out.push_back(record);
  for (const auto& [sequence, pending] : pending_) {
    for (const JournalRecord& record : pending.again) {
      if (is_current(record)) out.push_back(record);
    }
  }
  return out;
}

uint64_t Controller::journal(std::vector<JournalRecord> records) {
  const uint64_t sequence = next_sequence_++;
  out_.push_back(AppendJournal{sequence, std::move(records)});
  return sequence;
}

void Controller::reply(ProcessId process, uint64_t request, Status status, std::string payload) {
  if (request == 0) return;
  out_.push_back(
      Reply{process, request, status.code(), std::string(status.message()), std::move(payload)});
}

void Controller::set_timer(Time at, Timer::Kind kind, uint64_t hi, uint64_t lo) {
  timers_.insert(Timer{at, kind, hi, lo});
}

void Controller::warn(JobId job, std::string text) {
  out_.push_back(WarnJob{job, std::move(text)});
}

void Controller::on(const JournalSynced& event) {
  for (const auto& [sequence, status] : event.completion.failed) {
    if (auto node = pending_.extract(sequence)) undo(sequence, std::move(node.mapped()), status);
  }
  while (!pending_.empty() && pending_.begin()->first <= event.completion.durable) {
    settle(std::move(pending_.extract(pending_.begin()).mapped()));
  }
}

void Controller::settle(Pending pending) {
  if (pending.boot) {
    boot_durable_ = true;
    boot_pending_ = 0;
    place_waiting_actors();
  }
  for (const JournalRecord& record : pending.again) {
    auto kept = unstored_.find({record.kind, record.key});
    if (kept != unstored_.end() && kept->second == record) unstored_.erase(kept);
  }
  if (auto it = actors_.find(pending.actor); it != actors_.end()) {
    it->second.journal_pending = 0;
    if (it->second.state != protocol::ActorState::kDead) place(it->first, it->second);
  }
  if (auto it = groups_.find(pending.group); it != groups_.end()) {
    it->second.journal_pending = 0;
    if (it->second.state != protocol::GroupState::kRemoved) plan(it->first, it->second);
  }
  if (pending.number != 0) number_settled(pending.number, Status::ok());
  if (pending.reply) out_.push_back(std::move(*pending.reply));
  for (const auto& [key, before] : pending.kv_before) {
    auto last = kv_pending_.find(key);
    if (last != kv_pending_.end() && !pending_.contains(last->second)) kv_pending_.erase(last);
    if (kv_.contains(key)) answer_waits(key);
  }
  for (const ControllerEvent& event : pending.deferred) {
    std::visit([this](const auto& e) { on(e); }, event);
  }
}

// The record is not in the journal and never will be: as if the request had not been made.
void Controller::undo(uint64_t sequence, Pending pending, const Status& status) {
  if (pending.boot) {
    boot_pending_ = 0;
    set_timer(now_ + config_.boot_retry, Timer::Kind::kBoot, 0, 0);
    for (const ControllerEvent& event : pending.deferred) {
      const auto* job = std::get_if<From<protocol::RegisterJob>>(&event);
      if (job) reply(job->process, job->request, status);
    }
    return;
  }
  if (const uint16_t number = std::exchange(pending.number, 0)) number_settled(number, status);
  if (pending.death != 0) {   // a full disk takes this
    journal({{RecordKind::kNode, std::to_string(pending.death), std::nullopt}});
  }
  for (const JournalRecord& record : std::exchange(pending.again, {})) {
    if (is_current(record)) unstored_[{record.kind, record.key}] = record;
  }
  for (auto& [key, before] : pending.kv_before) {
    bool overwritten = false;   // by a later write, which then has our predecessor to go back to
    for (auto& [later, other] : pending_) {
      if (later < sequence || overwritten) continue;
      for (auto& [other_key, other_before] : other.kv_before) {
        if (other_key != key) continue;
        other_before = before;
        overwritten = true;
      }
    }
    if (!overwritten) set_key(key, before);
  }
  if (pending.reply) {
    pending.reply->code = status.code();
    pending.reply->message = fmt::format("not stored: {}", status.message());
    pending.reply->payload.clear();
  }
  auto actor = actors_.find(pending.actor);
  if (actor != actors_.end()) {
    const JobId job = actor->second.job;
    end_actor(actor->first, actor->second,
              {ErrorKind::kActorDied, fmt::format("not created: {}", status.message()), "",
               actor->first},
              false);
    forget_job_if_unused(job);
  }
  auto group = groups_.find(pending.group);
  if (group != groups_.end()) remove_group(group->first, group->second);
  settle(std::move(pending));
}

void Controller::on(const ClientJoined& event) {
  Client& client = clients_[event.process];
  client.kind = event.kind;
  client.job = event.job;
}

JobId Controller::job_of(ProcessId process) const {
  auto it = clients_.find(process);
  return it == clients_.end() ? 0 : it->second.job;
}

void Controller::on(const ClientLeft& event) {
  auto client = clients_.find(event.process);
  if (client == clients_.end()) return;
  const JobId job = client->second.job;
  const bool driver = client->second.kind == protocol::ClientKind::kDriver;
  clients_.erase(client);
  for (auto it = kv_waits_.begin(); it != kv_waits_.end();) {
    std::erase_if(it->second, [&](const KvWait& w) { return w.process == event.process; });
    it = it->second.empty() ? kv_waits_.erase(it) : std::next(it);
  }
  if (driver && job != 0) end_job(job);
  forgotten_.erase(event.process);
  std::vector<ActorId> never_created;
  for (auto& [id, early] : early_) {
    early.holders.erase(event.process);
    early.subscribers.erase(event.process);
    if (id.process() == event.process) never_created.push_back(id);
  }
  for (const ActorId& id : never_created) refuse_early(id, "its creator died before it existed");
  std::vector<ActorId> held;
  for (const ActorId& id : living_) {   // the dead, ten thousand of them, have neither
    ActorInfo& actor = actors_.at(id);
    actor.subscribers.erase(event.process);
    if (actor.holders.contains(event.process)) held.push_back(id);
  }
  for (const ActorId& id : held) {
    if (auto it = actors_.find(id); it != actors_.end()) drop_holder(id, it->second, event.process);
  }
  for (auto& [id, group] : groups_) group.subscribers.erase(event.process);
}

void Controller::on(const FromNode& event) {
  if (!nodes_.contains(event.node)) return;
  std::visit([&](const auto& report) { on_report(event.node, report); }, event.report);
}

void Controller::on(const ControllerTick&) {
  while (!timers_.empty() && timers_.begin()->at <= now_) {
    const Timer timer = *timers_.begin();
    timers_.erase(timers_.begin());
    switch (timer.kind) {
      case Timer::Kind::kActor: review_actor({timer.hi, timer.lo}); break;
      case Timer::Kind::kGroup: review_group({timer.hi, timer.lo}); break;
      case Timer::Kind::kKeyWait: expire_key_waits(); break;
      case Timer::Kind::kBoot: journal_boot(); break;
      case Timer::Kind::kNode: review_node(static_cast<uint16_t>(timer.hi), timer.at); break;
      case Timer::Kind::kView: send_views(); break;
      case Timer::Kind::kRestoring: end_restoring(); break;
      case Timer::Kind::kQuarrel: review_quarrels(timer.at); break;
    }
  }
}

std::optional<Time> Controller::next_tick() const {
  if (timers_.empty()) return std::nullopt;
  return timers_.begin()->at;
}

}  // namespace sheaf::scheduler
