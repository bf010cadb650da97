// What must hold in every state, after every restart, and where nothing more is bound to happen.
#include <fmt/format.h>

#include <algorithm>

#include "tests/checker/model.h"

namespace sheaf::checker {

using protocol::ActorState;

void Model::check() {
  check_authority();
  if (violation_.empty() && at_rest()) check_rest();
}

// OneAuthority: one process at most may act as an actor, the one that the controller names.
void Model::check_authority() {
  std::map<ActorId, ProcessId> speaking;
  for (const auto& [id, process] : processes_) {
    if (!process.alive || !process.constructed) continue;
    auto worker = agent_.workers().find(id);
    if (worker == agent_.workers().end() || worker->second.kill_sent) continue;
    auto [other, first] = speaking.emplace(process.actor, id);
    if (first) continue;
    fail("OneAuthority", fmt::format("processes {} and {} are one actor", id, other->second));
  }
  for (const auto& [id, actor] : controller_.actors()) {
    if (actor.state != ActorState::kAlive) continue;
    auto process = processes_.find(actor.process);
    if (process == processes_.end() || process->second.actor != id ||
        process->second.incarnation != actor.incarnation) {
      fail("OneAuthority", "a process that is not the actor has its authority");
    }
  }
}

// JournalPrefix: whatever somebody was told is there in the next life.
void Model::check_restored() {
  auto value = controller_.key_values().find({"user", "key"});
  const auto found = value == controller_.key_values().end()
                         ? 0u : static_cast<uint32_t>(std::stoul(value->second));
  if (found < known_ || found > issued_) {
    fail("JournalPrefix", fmt::format("the key is {}, but {} was acknowledged", found, known_));
  }
  for (const auto& [id, acked] : acked_) {
    auto actor = controller_.actors().find(id);
    if (actor == controller_.actors().end()) {
      fail("JournalPrefix", "a detached actor is forgotten");
    } else if (acked.restartable != (actor->second.state == ActorState::kRestarting)) {
      fail("JournalPrefix", "a detached actor came back in the wrong state");
    } else if (acked.restartable && !controller_.jobs().contains(acked.job)) {
      fail("JournalPrefix", "a detached actor came back without its job's environment");
    }
  }
  std::erase_if(acked_, [](const auto& entry) { return !entry.second.restartable; });
}

bool Model::at_rest() const {
  if (full_ || !spawns_.empty() || !journal_.empty()) return false;
  return std::none_of(processes_.begin(), processes_.end(), [](const auto& entry) {
    const Process& p = entry.second;
    const bool constructs = !p.driver && !p.actor.is_nil() && !p.constructed && !p.exiting;
    return !p.sent.empty() || (p.alive && (p.told_to_go || constructs));
  });
}

// Where nothing is bound to happen any more: NoHang, nobody waits; NoLeak, nothing unused is kept.
void Model::check_rest() {
  for (const auto& [id, process] : processes_) {
    if (!process.waits.empty()) fail("NoHang", fmt::format("process {} waits for an answer", id));
    for (const auto& [actor, view] : process.views) {
      auto known = controller_.actors().find(actor);
      if (known == controller_.actors().end() || known->second.state == view.state) continue;
      fail("NoHang", fmt::format("process {} believes actor {} in state {}, it is in {}", id,
                                 actor.lo, static_cast<int>(view.state),
                                 static_cast<int>(known->second.state)));
    }
  }
  for (const auto& [id, actor] : controller_.actors()) {
    if (actor.state == ActorState::kDead) continue;
    if (config_->with_node && actor.state != ActorState::kAlive) {
      fail("NoHang", fmt::format("actor {} is in state {} for ever", id.lo,
                                 static_cast<int>(actor.state)));
    }
    auto job = controller_.jobs().find(actor.job);
    if (!actor.spec->detached && (actor.holders.empty() || !job->second.alive)) {
      fail("NoLeak", fmt::format("actor {} lives though nobody holds it", id.lo));
    }
  }
  for (const auto& [id, actor] : agent_.actors()) {
    auto known = controller_.actors().find(id);
    if (known == controller_.actors().end() || known->second.state == ActorState::kDead) {
      fail("NoLeak", fmt::format("the agent keeps the dead actor {}", id.lo));
    }
  }
  if (agent_.actors().empty() && !agent_.resources().unused()) {
    fail("NoLeak", "resources are in use");
  }
  for (const auto& [id, worker] : agent_.workers()) {
    auto job = controller_.jobs().find(worker.key.job);
    const bool ended = job == controller_.jobs().end() || !job->second.alive;
    if (ended && worker.state != WorkerState::kActor) fail("NoLeak", "a worker of an ended job");
  }
  check_disk();
}

// The journal at rest is the state: nothing durable is missing, nothing ended is kept.
void Model::check_disk() {
  std::set<std::string> live_actors, live_jobs;
  std::set<JobId> kept;
  for (const auto& [id, actor] : controller_.actors()) {
    if (!actor.spec->detached || actor.state == ActorState::kDead) continue;
    live_actors.insert(to_hex(id));
    kept.insert(actor.job);
  }
  for (const auto& [id, job] : controller_.jobs()) {
    if (job.alive || kept.contains(id)) live_jobs.insert(std::to_string(id));
  }
  for (const auto& [key, value] : disk_) {
    const auto& [kind, name] = key;
    if (kind == RecordKind::kJob && !live_jobs.contains(name)) {
      fail("NoLeak", "an ended job's record");
    }
    if (kind == RecordKind::kActor && live_actors.erase(name) == 0) {
      fail("NoLeak", "a dead actor's record");
    }
    if (kind != RecordKind::kKeyValue) continue;
    const size_t split = name.find('\0');
    if (!controller_.key_values().contains({name.substr(0, split), name.substr(split + 1)})) {
      fail("NoLeak", "a deleted key's record: " + name.substr(split + 1));
    }
  }
  if (!live_actors.empty()) fail("JournalPrefix", "a live detached actor has no record");
}

}  // namespace sheaf::checker
