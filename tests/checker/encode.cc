// A state's hash: all that can make a difference to what follows. Counters that only name things
// count from their newest, so that paths to the same state meet.
#include <algorithm>
#include <cstring>
#include <string_view>

#include "tests/checker/model.h"

namespace sheaf::scheduler {

// 128 bits of what is fed to it.
class Digest {
 public:
  void number(uint64_t value) {
    lo_ = mix(lo_ ^ value);
    hi_ = mix(hi_ + 0x9e3779b97f4a7c15ull + value);
  }
  void text(std::string_view value) {
    number(value.size());
    for (size_t at = 0; at < value.size(); at += 8) {
      uint64_t word = 0;
      std::memcpy(&word, value.data() + at, std::min<size_t>(8, value.size() - at));
      number(word);
    }
  }
  template <class Tag>
  void id(const Id<Tag>& value) {
    number(value.hi);
    number(value.lo);
  }
  void record(const JournalRecord& value) {
    number(static_cast<uint64_t>(value.kind));
    text(value.key);
    number(value.value.has_value());
    if (value.value) text(*value.value);
  }
  template <class Set>
  void numbers(const Set& set) {
    number(set.size());
    for (auto value : set) number(static_cast<uint64_t>(value));
  }
  template <class Set>
  void ids(const Set& set) {
    number(set.size());
    for (const auto& value : set) id(value);
  }
  checker::Hash hash() const { return {lo_, hi_}; }

 private:
  static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
  }
  uint64_t lo_ = 1, hi_ = 2;
};

namespace {

template <class M>
void feed(Digest& d, const From<M>& event) {
  d.number(event.process);
  d.number(event.request);
  d.text(wire::encode(event.message));
}
template <class Other>
void feed(Digest&, const Other&) {}   // never waits anywhere

void feed_event(Digest& d, const ControllerEvent& event) {
  d.number(event.index());
  std::visit([&](const auto& e) { feed(d, e); }, event);
}

}  // namespace

class ControllerTestAccess {
 public:
  static void feed(Digest& d, const Controller& c) {
    d.number(c.boot_);
    d.number(c.boot_durable_);
    d.number(c.boot_pending_ != 0);
    d.number(c.jobs_started_);
    for (const auto& [process, client] : c.clients_) {
      d.number(process);
      d.number(static_cast<uint64_t>(client.kind));
      d.number(client.job);
    }
    for (const auto& [id, job] : c.jobs_) {
      d.number(id);
      d.number(job.driver);
      d.number(job.alive);
    }
    d.numbers(c.ended_jobs_);
    for (const auto& [id, actor] : c.actors_) feed_actor(d, c, id, actor);
    for (const auto& [name, id] : c.names_) d.id(id);
    for (const auto& [id, early] : c.early_) {
      d.id(id);
      d.numbers(early.holders);
      d.numbers(early.subscribers);
    }
    for (const auto& [process, newest] : c.forgotten_) d.number(process ^ newest);
    d.ids(c.dead_actors_);
    d.ids(c.unplaced_);
    d.number(c.nodes_.size());
    for (const auto& [key, value] : c.kv_) {
      d.text(key.first);
      d.text(key.second);
      d.text(value);
    }
    for (const auto& [name, jobs] : c.function_users_) d.numbers(jobs);
    for (const auto& [key, sequence] : c.kv_pending_) d.number(c.next_sequence_ - sequence);
    for (const auto& [key, record] : c.unstored_) d.record(record);
    d.number(c.timers_.size());
    feed_pending(d, c);
  }

 private:
  static void feed_actor(Digest& d, const Controller& c, const ActorId& id,
                         const ActorInfo& actor) {
    d.id(id);
    d.number(actor.job);
    d.number(static_cast<uint64_t>(actor.state));
    d.number(actor.incarnation);
    d.number(!actor.node.is_nil());
    d.number(actor.process);
    d.number(actor.restarts);
    d.numbers(actor.holders);
    d.numbers(actor.subscribers);
    d.number(static_cast<uint64_t>(actor.cause.kind));
    d.number(actor.journal_pending == 0 ? 0 : c.next_sequence_ - actor.journal_pending);
    d.number(actor.ending);
    d.number(actor.unheld_since.has_value());
  }
  static void feed_pending(Digest& d, const Controller& c) {
    d.number(c.pending_.size());
    for (const auto& [sequence, pending] : c.pending_) {
      d.number(c.next_sequence_ - sequence);
      d.number(pending.reply ? pending.reply->process : 0);
      d.number(pending.reply ? pending.reply->request : 0);
      d.number(pending.boot);
      d.id(pending.actor);
      for (const auto& [key, before] : pending.kv_before) d.text(before.value_or("none"));
      for (const ControllerEvent& event : pending.deferred) feed_event(d, event);
      for (const JournalRecord& record : pending.again) d.record(record);
    }
  }
};

class AgentTestAccess {
 public:
  static void feed(Digest& d, const Agent& a) {
    for (const auto& [id, worker] : a.workers_) {
      d.number(id);
      d.number(worker.key.job);
      d.number(static_cast<uint64_t>(worker.state));
      d.id(worker.actor);
      d.number(worker.actor_incarnation);
      d.number(worker.kill_sent);
      feed_resources(d, worker.remains.allocation.resources);
    }
    for (const auto& [id, actor] : a.actors_) {
      d.id(id);
      d.number(actor.incarnation);
      d.number(actor.worker);
      d.number(actor.running);
      feed_resources(d, actor.holding.allocation.resources);
    }
    for (const auto& [order, wait] : a.waiting_) d.id(wait.actor);
    for (const auto& [token, spawn] : a.spawns_) d.number(spawn.key.job);
    for (const auto& [key, backoff] : a.backoff_) {
      d.number(key.job);
      d.number(backoff.failures);
    }
    for (const auto& [key, count] : a.prestart_) d.number(key.job ^ count);
    d.numbers(a.ended_jobs_);
    d.number(a.dirty_);
    feed_resources(d, a.pool_.available());
  }

 private:
  static void feed_resources(Digest& d, const ResourceMap& resources) {
    d.number(resources.size());
    for (const auto& [name, amount] : resources) {
      d.text(name);
      d.number(static_cast<uint64_t>(amount));
    }
  }
};

}  // namespace sheaf::scheduler

namespace sheaf::checker {

Hash Model::hash() const {
  Digest d;
  ControllerTestAccess::feed(d, controller_);
  AgentTestAccess::feed(d, agent_);
  for (const auto& [key, value] : disk_) d.record({key.first, key.second, value});
  d.number(journal_.size());
  for (const Batch& batch : journal_) {
    for (const JournalRecord& record : batch.records) d.record(record);
  }
  d.number(full_);
  for (const auto& [token, key] : spawns_) d.number(key.job);
  for (const auto& [id, p] : processes_) {
    d.number(id);
    d.number(p.driver | p.alive << 1 | p.told_to_go << 2 | p.constructed << 3 | p.exiting << 4);
    d.number(p.job);
    d.id(p.actor);
    d.number(p.incarnation);
    d.number(p.requests);
    d.number(p.sent.size());
    for (const Message& message : p.sent) {
      d.number(message.index());
      if (const auto* event = std::get_if<ControllerEvent>(&message)) feed_event(d, *event);
    }
    for (const auto& [actor, view] : p.views) {
      d.id(actor);
      d.number(static_cast<uint64_t>(view.state));
      d.number(view.incarnation);
      d.number(view.process);
      d.number(view.held);
    }
    for (const auto& [request, wait] : p.waits) d.number(request);
  }
  d.number(next_process_);
  d.numbers(budget_);
  d.number(created_);
  for (const auto& [actor, incarnation] : started_) {
    d.id(actor);
    d.number(incarnation);
  }
  for (const auto& [actor, acked] : acked_) d.id(actor);
  d.number(issued_);
  d.number(known_);
  d.number(newest_job_);
  return d.hash();
}

}  // namespace sheaf::checker
