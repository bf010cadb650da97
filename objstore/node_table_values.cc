// The part of NodeTable that knows where bytes are, and gets them here.
#include <algorithm>
#include <utility>

#include "objstore/node_table.h"

namespace sheaf::objstore {
namespace {

// Then the one who waits is told that they cannot be had.
constexpr uint32_t kFetchAttemptsMax = 64;
// So many are made without a pause.
constexpr uint32_t kFetchAttemptsAtOnce = 4;

}  // namespace

Locator NodeTable::locator_of(const ObjectTable::Entry& e) const {
  if (e.in_arena()) return e.locator;
  Locator on_disk;
  on_disk.node = node_of(self_);
  on_disk.length = e.size;
  return on_disk;
}

// ---- Fetching -----------------------------------------------------------------------------------

void NodeTable::hint(const ObjectId& id, const Locator& locator) {
  if (locator.generation != 0 && table_.is_foreign(id)) hints_.emplace_back(id, locator);
}

void NodeTable::start_fetch(const ObjectId& id, Actions& out) {
  const ObjectTable::Entry* e = table_.find(id);
  if (e == nullptr || e->subscribers.empty() || fetches_.contains(id)) return;
  if (!e->foreign && !e->elsewhere) return;
  Fetch& f = fetches_[id];
  if (e->elsewhere) return pull(id, f, e->locator, out);
  auto hint = std::find_if(hints_.begin(), hints_.end(), [&](auto& h) { return h.first == id; });
  // Who wants a large one asks its owner, who knows the least busy of those that have it.
  bool usable = hint != hints_.end() && daemon_of(hint->second.node) != kNoProcess &&
                hint->second.length < broadcast_bytes_;
  if (usable) pull(id, f, hint->second, out);
  else ask(id, f, owner_of(id), kNoProcess, out);
}

void NodeTable::ask(const ObjectId& id, Fetch& f, ProcessId whom, ProcessId tried, Actions& out) {
  f.asked = whom;
  tell(whom, Want{id, true, tried}, out);
}

void NodeTable::pull(const ObjectId& id, Fetch& f, const Locator& from, Actions& out) {
  f.source = daemon_of(from.node);
  f.asked = kNoProcess;
  if (f.source == kNoProcess || f.source == self_) return pause(id, f, out);
  if (from.generation == 0) return ask(id, f, f.source, kNoProcess, out);
  f.pulling = true;
  out.push_back(StartPull{id, f.source, from});
}

void NodeTable::pause(const ObjectId& id, Fetch& f, Actions& out) {
  if (++f.attempts > kFetchAttemptsMax) return give_up(id, LossCause::kNodeDied, out);
  f.asked = kNoProcess;
  f.pausing = true;
  out.push_back(RetryLater{id, f.attempts});
}

// Nobody waits any more, or in vain.
void NodeTable::end_fetch(const ObjectId& id, Actions& out) {
  auto it = fetches_.find(id);
  if (it == fetches_.end()) return;
  bool granted = it->second.granted;
  fetches_.erase(it);
  auto row = foreign_.find(id);
  bool here = row != foreign_.end() && row->second.copy_told;
  if (granted && !here) tell(owner_of(id), CopyGone{id, false}, out);
}

void NodeTable::give_up(const ObjectId& id, LossCause cause, Actions& out) {
  end_fetch(id, out);
  table_.answer_waiting(id, {id, ValueState::kError, encode_error_(cause, id), {}}, out);
}

void NodeTable::retry(const ObjectId& id, Actions& out) {
  auto it = fetches_.find(id);
  if (it == fetches_.end() || !std::exchange(it->second.pausing, false)) return;
  Fetch& f = it->second;
  const ObjectTable::Entry* e = table_.find(id);
  if (e == nullptr || e->subscribers.empty() || (!e->foreign && !e->elsewhere)) {
    end_fetch(id, out);
  } else if (e->elsewhere) {
    pull(id, f, e->locator, out);
  } else {
    ask(id, f, owner_of(id), f.source, out);
  }
}

void NodeTable::pulled(const ObjectId& id, const Status& status, const Locator& local,
                       Actions& out) {
  auto it = fetches_.find(id);
  if (status) {
    if (!table_.fetched(id, local, out)) return end_fetch(id, out);
    fetches_.erase(id);
    if (table_.is_foreign(id)) {
      foreign_[id].copy_told = true;
      return tell(owner_of(id), CopyMade{id, local, false, {}}, out);
    }
    auto rows = copies_.find(id);   // ours again; the others may forget it when they need room
    if (rows == copies_.end()) return;
    for (Copy& copy : rows->second) {
      if (!copy.replica && std::exchange(copy.kept, false))
        tell_settled(copy.daemon, Release{id, false}, out);
    }
    return;
  }
  if (it == fetches_.end()) return;
  Fetch& f = it->second;
  f.pulling = false;
  const ObjectTable::Entry* e = table_.find(id);
  if (e == nullptr || e->subscribers.empty() || (!e->foreign && !e->elsewhere))
    return end_fetch(id, out);
  if (status.code() == StatusCode::kOutOfMemory) return give_up(id, LossCause::kStoreFull, out);
  if (f.attempts >= kFetchAttemptsAtOnce) return pause(id, f, out);
  ++f.attempts;
  bool answered = status.code() == StatusCode::kNotFound || status.code() == StatusCode::kCorrupt;
  if (answered && f.attempts % 2 == 1 && is_up(f.source)) {
    ask(id, f, f.source, kNoProcess, out);   // it may lie on its disk
  } else if (e->foreign) {
    ask(id, f, owner_of(id), f.source, out);
  } else {
    pause(id, f, out);
  }
}

void NodeTable::on(ProcessId from, Want& m, Actions& out) {
  const ObjectTable::Entry* e = table_.find(m.id);
  if (table_.is_foreign(m.id)) {
    bool here = e != nullptr && e->state != ValueState::kPending;
    if (!here) return tell(from, NotHere{m.id}, out);
  } else if (e != nullptr && e->state == ValueState::kArena && e->size >= broadcast_bytes_) {
    return direct(m.id, from, m.tried, out);
  } else if (e != nullptr && e->elsewhere && m.tried == daemon_of(e->locator.node)) {
    const std::vector<Copy>& rows = copies_[m.id];
    auto other = std::find_if(rows.begin(), rows.end(), [&](const Copy& c) {
      return c.daemon != m.tried && c.daemon != from && c.locator.generation != 0;
    });
    if (other != rows.end())
      return tell(from, Here{m.id, ValueState::kArena, {}, other->locator}, out);
  }
  table_.subscribe(from, {&m.id, 1}, m.restore, out);
}

void NodeTable::on(ProcessId from, Here& m, Actions& out) {
  auto it = fetches_.find(m.id);
  if (it == fetches_.end() || it->second.asked != from) return;
  const ObjectTable::Entry* e = table_.find(m.id);
  if (e == nullptr || e->subscribers.empty()) {   // nobody waits any more
    it->second.granted = it->second.granted || m.state == ValueState::kArena;
    if (m.state != ValueState::kPending) end_fetch(m.id, out);
    return;
  }
  ObjectEvent event{m.id, m.state, std::move(m.bytes), m.locator};
  switch (m.state) {
    case ValueState::kArena:
      if (from == owner_of(m.id)) it->second.granted = true;
      return pull(m.id, it->second, m.locator, out);
    case ValueState::kInline:
      fetches_.erase(it);
      return table_.fetched_inline(m.id, std::move(event.bytes), out);
    case ValueState::kError:
      fetches_.erase(it);
      return table_.answer_waiting(m.id, event, out);
    case ValueState::kPending:
      return table_.answer_waiting(m.id, event, out);
    case ValueState::kSpilled:
      return pause(m.id, it->second, out);
  }
}

void NodeTable::on(ProcessId from, NotHere& m, Actions& out) {
  auto it = fetches_.find(m.id);
  if (it == fetches_.end() || it->second.asked != from) return;
  Fetch& f = it->second;
  ++f.attempts;
  bool ask_owner = table_.is_foreign(m.id) && owner_of(m.id) != from;
  if (ask_owner && f.attempts < kFetchAttemptsAtOnce) ask(m.id, f, owner_of(m.id), from, out);
  else pause(m.id, f, out);
}

// ---- Copies -------------------------------------------------------------------------------------

void NodeTable::sealed_by_us(const SealedAbroad& sealed, Actions& out) {
  const ObjectTable::Entry* e = table_.find(sealed.id);
  if (e == nullptr) return;
  bool here = e->in_arena() || e->state == ValueState::kSpilled;
  if (here) foreign_[sealed.id].copy_told = true;
  expose(sealed.contained);
  tell(owner_of(sealed.id), Sealed{sealed.id, locator_of(*e), sealed.holder, sealed.contained},
       out);
}

void NodeTable::add_copy(const ObjectId& id, const Copy& copy) {
  std::vector<Copy>& rows = copies_[id];
  auto it = std::find_if(rows.begin(), rows.end(),
                         [&](const Copy& c) { return c.daemon == copy.daemon; });
  if (it == rows.end()) rows.push_back(copy);
  else *it = {copy.daemon, copy.locator, copy.kept || it->replica, copy.replica || it->replica};
  table_.mark_copies(id, true);
}

void NodeTable::on(ProcessId from, Sealed& m, Actions& out) {
  if (table_.is_foreign(m.id)) return;
  if (m.holder != kNoProcess) hold(kDaemonProcess, m.holder, {&m.id, 1}, {}, out);
  m.locator.node = node_of(from);
  if (table_.sealed_elsewhere(m.id, m.locator, m.contained, out))
    return add_copy(m.id, {from, m.locator, true});
  const ObjectTable::Entry* e = table_.find(m.id);
  bool gone = e == nullptr || e->state == ValueState::kError || e->state == ValueState::kInline;
  if (!gone) {
    auto rows = copies_.find(m.id);
    bool kept = rows != copies_.end() &&
                std::any_of(rows->second.begin(), rows->second.end(),
                            [&](const Copy& c) { return c.daemon == from && c.kept; });
    if (!kept) add_copy(m.id, {from, m.locator, false});
  }
  tell_settled(from, Release{m.id, gone}, out);
  reader_done(m.id, from, out);
}

void NodeTable::on(ProcessId from, CopyMade& m, Actions& out) {
  m.locator.node = node_of(from);
  const ObjectTable::Entry* e = table_.find(m.id);
  bool has_bytes = e != nullptr && !e->foreign &&
                   (e->state == ValueState::kArena || e->state == ValueState::kSpilled);
  bool welcome = e != nullptr && !e->foreign &&
                 (e->replaceable || (e->state == ValueState::kPending && table_.is_adopted(m.id)));
  // Of an adopted home anything may still be held by somebody who has not said so.
  if (e == nullptr && table_.is_adopted(m.id) && !barriers_.empty()) welcome = true;
  auto wanted = replicas_.find(m.id);
  if (has_bytes && m.kept && wanted != replicas_.end() && wanted->second.asked.erase(from) > 0) {
    add_copy(m.id, {from, m.locator, true, true});
  } else if (has_bytes) {
    table_.contains_too(m.id, m.contained, out);
    add_copy(m.id, {from, m.locator, false});
    if (m.kept) tell_settled(from, Release{m.id, false}, out);
  } else if (welcome && table_.sealed_elsewhere(m.id, m.locator, m.contained, out)) {
    add_copy(m.id, {from, m.locator, true});
    if (!m.kept) tell(from, Keep{m.id}, out);
  } else {
    tell_settled(from, Release{m.id, true}, out);
  }
  reader_done(m.id, from, out);
}

void NodeTable::on(ProcessId from, CopyGone& m, Actions& out) {
  if (auto r = replicas_.find(m.id); r != replicas_.end()) r->second.asked.erase(from);
  copy_gone(m.id, from, m.corrupt ? LossCause::kCorrupt : LossCause::kNodeDied, out);
  reader_done(m.id, from, out);
}

// If they were the bytes that we count on, others take their place, or the object is lost.
void NodeTable::copy_gone(const ObjectId& id, ProcessId daemon, LossCause cause, Actions& out) {
  auto it = copies_.find(id);
  if (it == copies_.end()) return;
  std::vector<Copy>& rows = it->second;
  if (std::erase_if(rows, [&](const Copy& c) { return c.daemon == daemon; }) == 0) return;
  const ObjectTable::Entry* e = table_.find(id);
  bool primary = e != nullptr && e->elsewhere && e->locator.node == node_of(daemon);
  if (rows.empty()) {
    copies_.erase(it);
    table_.mark_copies(id, replicas_.contains(id));
    if (primary) table_.lost_elsewhere(id, cause, out);
  } else if (primary) {
    Copy& next = rows.front();
    if (!std::exchange(next.kept, true)) tell(next.daemon, Keep{id}, out);
    Locator locator = next.locator;
    table_.moved_elsewhere(id, locator, out);
  }
}

void NodeTable::on(ProcessId from, Release& m, Actions& out) {
  if (!table_.is_foreign(m.id) || from != owner_of(m.id)) return;
  if (!m.forget) {
    table_.keep(m.id, -1);
    return;
  }
  table_.forget_copy(m.id, out);
  auto it = foreign_.find(m.id);
  if (it == foreign_.end()) return;
  it->second.copy_told = false;
  if (it->second.idle()) foreign_.erase(it);
}

void NodeTable::on(ProcessId from, Keep& m, Actions& out) {
  if (!table_.keep(m.id, +1)) tell(from, CopyGone{m.id, false}, out);
}

// ---- Replicas -----------------------------------------------------------------------------------

void NodeTable::replicate(const ObjectId& id, uint32_t copies, Actions& out) {
  if (self_ == kNoProcess || table_.is_foreign(id) || table_.find(id) == nullptr) return;
  replicas_[id].wanted = copies;
  table_.mark_copies(id, true);
  place_replicas(id, out);
}

void NodeTable::place_replicas(const ObjectId& id, Actions& out) {
  const ObjectTable::Entry* e = table_.find(id);
  auto it = replicas_.find(id);
  if (it == replicas_.end() || e == nullptr || e->state != ValueState::kArena) return;
  Replicas& r = it->second;
  std::set<ProcessId> have = r.asked;
  size_t kept = r.asked.size();
  if (auto rows = copies_.find(id); rows != copies_.end()) {
    for (Copy& copy : rows->second) {
      have.insert(copy.daemon);
      if (!copy.kept && kept < r.wanted) {
        copy.kept = copy.replica = true;
        tell(copy.daemon, Keep{id}, out);
      }
      kept += copy.kept;
    }
  }
  // Each object starts with another node, so that none gets all of them.
  std::vector<ProcessId> others;
  for (const auto& [daemon, p] : peers_) {
    if (p.up && !have.contains(daemon)) others.push_back(daemon);
  }
  for (size_t i = 0; i < others.size() && kept < r.wanted; ++i, ++kept) {
    ProcessId daemon = others[(id.lo + i) % others.size()];
    r.asked.insert(daemon);
    tell(daemon, MakeCopy{id, e->locator}, out);
  }
}

void NodeTable::on(ProcessId from, MakeCopy& m, Actions& out) {
  if (!table_.is_foreign(m.id) || from != owner_of(m.id)) return;
  to_keep_.insert(m.id);
  hint(m.id, m.locator);
  table_.subscribe(kDaemonProcess, {&m.id, 1}, true, out);
}

void NodeTable::replica_came(const ObjectEvent& event, Actions& out) {
  if (to_keep_.erase(event.id) == 0) return;
  if (event.state == ValueState::kArena && table_.keep(event.id, +1)) {
    foreign_[event.id].copy_told = true;
    tell(owner_of(event.id), CopyMade{event.id, event.locator, true, {}}, out);
  } else {
    tell(owner_of(event.id), CopyGone{event.id, false}, out);
  }
}

// ---- What a process of another node has said ----------------------------------------------------

void NodeTable::publish(ProcessId sender, const ObjectId& id, ValueState state, std::string bytes,
                        std::span<const ObjectId> contained, Actions& out) {
  if (!table_.is_foreign(id)) {
    table_.publish(sender, id, state, std::move(bytes), contained, out);
    return value_came(id, out);
  }
  table_.hold(sender, {&id, 1}, {}, out);
  expose(contained);
  tell(owner_of(id),
       Published{id, state, std::move(bytes), {contained.begin(), contained.end()}}, out);
}

void NodeTable::on(ProcessId, Published& m, Actions& out) {
  bool value = m.state == ValueState::kInline || m.state == ValueState::kError;
  if (table_.is_foreign(m.id) || (!value && m.state != ValueState::kPending)) return;
  const ObjectTable::Entry* e = table_.find(m.id);
  bool before = e != nullptr && std::count(e->publishers.begin(), e->publishers.end(),
                                           kDaemonProcess) > 0;
  table_.publish(kDaemonProcess, m.id, m.state, std::move(m.bytes), m.contained, out);
  if (!before) table_.hold(kDaemonProcess, {}, {&m.id, 1}, out);
  value_came(m.id, out);
}

void NodeTable::free(std::span<const ObjectId> ids, Actions& out) {
  table_.free(ids, out);
  std::map<ProcessId, Ids> abroad;
  for (const ObjectId& id : ids) {
    if (table_.is_foreign(id)) abroad[owner_of(id)].push_back(id);
  }
  for (auto& [owner, some] : abroad) tell(owner, Free{std::move(some)}, out);
}

void NodeTable::on(ProcessId, Free& m, Actions& out) { table_.free(m.ids, out); }

}  // namespace sheaf::objstore
