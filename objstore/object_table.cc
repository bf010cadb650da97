#include "objstore/object_table.h"

#include <algorithm>

#include "core/status.h"

namespace sheaf::objstore {

SHEAF_DEFINE_VARIANT(Action)

ObjectTable::ObjectTable(const ObjectTable& other)
    : encode_error_(other.encode_error_), self_(other.self_), frozen_(other.frozen_),
      adopted_(other.adopted_), entries_(other.entries_), processes_(other.processes_),
      lru_(other.lru_), fresh_(other.fresh_), aged_(other.aged_),
      frozen_candidates_(other.frozen_candidates_) {
  for (auto it = lru_.begin(); it != lru_.end(); ++it) entries_.at(*it).lru = it;
}

ObjectTable::ProcessRow* ObjectTable::row(ProcessId process) {
  auto it = processes_.find(process);
  return it == processes_.end() ? nullptr : &it->second;
}

ObjectTable::Entry* ObjectTable::find_mutable(const ObjectId& id) {
  auto it = entries_.find(id);
  return it == entries_.end() ? nullptr : &it->second;
}

const ObjectTable::Entry* ObjectTable::find(const ObjectId& id) const {
  return const_cast<ObjectTable*>(this)->find_mutable(id);
}

bool ObjectTable::is_unknown(const ObjectId& id) const {
  const Entry* e = find(id);
  return e != nullptr && !e->known && !e->foreign && !e->subscribers.empty();
}

// ---- References ---------------------------------------------------------------------------------

bool ObjectTable::is_dead(const Entry& e) {
  if (e.containers > 0) return false;
  return std::none_of(e.holds.begin(), e.holds.end(),
                      [](const auto& hold) { return hold.second > 0; });
}

void ObjectTable::consider(const ObjectId& id, Entry& e) {
  if (e.candidate || !is_dead(e)) return;
  e.candidate = true;
  fresh_.push_back(id);
}

void ObjectTable::note_held(const ObjectId& id, Entry& e, Actions& out) {
  if (e.told_held || is_dead(e)) return;
  e.told_held = true;
  out.push_back(HeldAbroad{id});
}

void ObjectTable::add_hold(const ObjectId& id, Entry& e, ProcessId process, int32_t delta,
                           Actions& out) {
  ProcessRow* r = row(process);
  if (r != nullptr) {
    auto it = std::find_if(e.holds.begin(), e.holds.end(),
                           [&](const auto& h) { return h.first == process; });
    if (it == e.holds.end()) it = e.holds.insert(it, {process, 0});
    it->second += delta;
    if (it->second == 0) {
      *it = e.holds.back();
      e.holds.pop_back();
      r->holds.erase(id);
    } else {
      r->holds.insert(id);
    }
    if (e.foreign) note_held(id, e, out);
  }
  consider(id, e);
}

void ObjectTable::hold(ProcessId process, std::span<const ObjectId> add,
                       std::span<const ObjectId> drop, Actions& out) {
  if (row(process) == nullptr) return;
  for (const ObjectId& id : add) add_hold(id, entry(id), process, +1, out);
  for (const ObjectId& id : drop) add_hold(id, entry(id), process, -1, out);
}

bool ObjectTable::quiesce(Actions& out) {
  for (const ObjectId& id : std::exchange(aged_, {})) collect(id, out);
  aged_.swap(fresh_);
  return !aged_.empty();
}

void ObjectTable::collect(const ObjectId& id, Actions& out) {
  Entry* e = find_mutable(id);
  SHEAF_CHECK(e != nullptr && e->candidate);  // only who finds no mark, or takes it away, erases
  if (frozen_ && !e->foreign) return frozen_candidates_.push_back(id);
  e->candidate = false;
  if (!is_dead(*e)) return;
  if (e->foreign) return collect_foreign(id, *e, out);
  if (std::exchange(e->has_lineage, false)) out.push_back(LineageGone{id});
  if (e->known) {
    drop_value(id, *e, out);
    answer_error(id, *e, LossCause::kFreed, out);
    for (ProcessId p : e->publishers) {
      if (ProcessRow* r = row(p)) r->interests.erase(id);
    }
    e->publishers.clear();
    e->known = false;
  }
  // Negative counts and waiting subscribers: somebody's message is still to come.
  if (e->holds.empty() && e->subscribers.empty()) entries_.erase(id);
}

// ---- Values -------------------------------------------------------------------------------------

bool ObjectTable::take_value(const ObjectId& id, Entry& e, std::span<const ObjectId> contained,
                             Actions& out) {
  e.known = true;
  if (e.state != ValueState::kPending) {
    if (!e.replaceable) return false;
    drop_value(id, e, out);
  }
  contain(e, id, contained, out);
  return true;
}

void ObjectTable::contain(Entry& e, const ObjectId& id, std::span<const ObjectId> contained,
                          Actions& out) {
  for (const ObjectId& inner : contained) {
    if (inner == id) continue;
    Entry& c = entry(inner);
    ++c.containers;
    if (c.foreign) note_held(inner, c, out);
    e.contained.push_back(inner);
  }
}

void ObjectTable::seal(ProcessId sender, const ObjectId& id, const Locator& locator,
                       ProcessId holder, std::span<const ObjectId> contained, Actions& out) {
  Entry& e = entry(id);
  if (holder == kNoProcess) holder = sender;
  if (e.foreign) {
    ++e.kept;
    bool remote = holder >> 32 != 0 && holder >> 32 != self_ >> 32;
    out.push_back(SealedAbroad{id, remote ? holder : kNoProcess,
                               {contained.begin(), contained.end()}});
  }
  add_hold(id, e, holder, +1, out);
  if (!take_value(id, e, contained, out)) {
    if (e.foreign && e.contained.empty()) contain(e, id, contained, out);
    out.push_back(FreeExtent{locator});
    return;
  }
  e.state = ValueState::kArena;
  e.locator = locator;
  e.size = locator.length;
  e.lru = lru_.insert(lru_.end(), id);
  resolve(id, e, out);
}

void ObjectTable::publish(ProcessId sender, const ObjectId& id, ValueState state, std::string bytes,
                          std::span<const ObjectId> contained, Actions& out) {
  ProcessRow* r = row(sender);
  if (r == nullptr) return;
  Entry& e = entry(id);
  e.known = true;
  if (std::find(e.publishers.begin(), e.publishers.end(), sender) == e.publishers.end()) {
    e.publishers.push_back(sender);
    if (e.state == ValueState::kPending) r->interests.insert(id);
    add_hold(id, e, sender, +1, out);
  }
  if (state == ValueState::kPending || !take_value(id, e, contained, out)) return;
  SHEAF_CHECK(state == ValueState::kInline || state == ValueState::kError);
  e.state = state;
  e.size = bytes.size();
  e.bytes = std::move(bytes);
  resolve(id, e, out);
}

void ObjectTable::free(std::span<const ObjectId> ids, Actions& out) {
  for (const ObjectId& id : ids) {
    Entry* e = find_mutable(id);
    if (e != nullptr && e->known && !e->foreign && e->state != ValueState::kError)
      lose(id, *e, LossCause::kFreed, out);
  }
}

// Back to "no value yet": storage and contained references are given up.
void ObjectTable::drop_value(const ObjectId& id, Entry& e, Actions& out) {
  if (e.in_arena()) {
    lru_.erase(e.lru);
    out.push_back(FreeExtent{e.locator});
  }
  if (std::exchange(e.has_copies, false)) out.push_back(ValueGone{id});
  e.elsewhere = false;
  if (e.spill.file != 0) out.push_back(DeleteSpill{std::exchange(e.spill, {})});
  bool told = std::exchange(e.maker_told, false);
  if (e.has_lineage && e.replaceable) out.push_back(MadeAgain{id});
  else if (ProcessRow* r = told ? row(id.process()) : nullptr) r->interests.erase(id);
  e.state = ValueState::kPending;
  e.spilling = e.wanted = e.restoring = e.replaceable = false;
  e.size = 0;
  e.bytes.clear();
  e.locator = {};
  for (const ObjectId& inner : std::exchange(e.contained, {})) {
    Entry* c = find_mutable(inner);
    SHEAF_CHECK(c != nullptr && c->containers > 0);
    --c->containers;
    consider(inner, *c);
  }
}

void ObjectTable::lose(const ObjectId& id, Entry& e, LossCause cause, Actions& out) {
  if (e.foreign) return lose_copy(id, e, cause == LossCause::kCorrupt, out);
  drop_value(id, e, out);
  e.state = ValueState::kError;
  e.bytes = encode_error_(cause, id);
  e.size = e.bytes.size();
  e.known = true;
  e.replaceable = cause == LossCause::kCorrupt || cause == LossCause::kNodeDied ||
                  (cause == LossCause::kOwnerDied && e.has_lineage);
  resolve(id, e, out);
}

// ---- Subscriptions ------------------------------------------------------------------------------

void ObjectTable::subscribe(ProcessId process, std::span<const ObjectId> ids, bool restore,
                            Actions& out) {
  ProcessRow* r = row(process);
  if (r == nullptr) return;
  for (const ObjectId& id : ids) {
    Entry& e = entry(id);
    if (try_answer(id, e, {process, restore}, out)) continue;
    if (e.foreign && e.state == ValueState::kPending) out.push_back(FetchValue{id});
    auto same = [&](const Entry::Subscriber& s) { return s.process == process; };
    auto it = std::find_if(e.subscribers.begin(), e.subscribers.end(), same);
    if (it == e.subscribers.end()) {
      e.subscribers.push_back({process, restore});
      r->interests.insert(id);
    } else {
      it->restore |= restore;
    }
  }
}

bool ObjectTable::try_answer(const ObjectId& id, Entry& e, Entry::Subscriber to, Actions& out) {
  if (e.state == ValueState::kPending) return false;
  if (e.state == ValueState::kSpilled && to.restore) {
    if (!e.restoring) out.push_back(StartRestore{id, e.spill});
    e.restoring = true;
    return false;
  }
  if (e.elsewhere && number_of(to.process) != number_of(kDaemonProcess)) {
    out.push_back(FetchValue{id});
    return false;
  }
  if (e.in_arena()) {
    lru_.splice(lru_.end(), lru_, e.lru);
    e.wanted = e.spilling;
  }
  if (e.replaceable && e.has_lineage) {
    if (!std::exchange(e.maker_told, true)) out.push_back(MakeAgain{id});
    out.push_back(NotifyReady{to.process, {id, ValueState::kPending, {}, {}}});
    return false;
  }
  if (e.replaceable) {
    if (to.process == id.process()) {
      e.maker_told = true;
    } else if (is_live(id.process())) {
      tell_maker(id, e, out);
      out.push_back(NotifyReady{to.process, {id, ValueState::kPending, {}, {}}});
      return false;
    }
  }
  out.push_back(NotifyReady{to.process, {id, e.state, e.bytes, e.locator}});
  return true;
}

void ObjectTable::tell_maker(const ObjectId& id, Entry& e, Actions& out) {
  row(id.process())->interests.insert(id);  // its death answers those who wait for it
  if (std::exchange(e.maker_told, true)) return;
  out.push_back(NotifyReady{id.process(), {id, ValueState::kError, e.bytes, {}}});
}

// The value has arrived or changed its place: tells those who wait for it.
void ObjectTable::resolve(const ObjectId& id, Entry& e, Actions& out) {
  std::vector<Entry::Subscriber> waiting = std::exchange(e.subscribers, {});
  for (ProcessId p : e.publishers) {
    if (ProcessRow* r = row(p))
      r->interests.erase(id);  // it has a value: its publisher's death changes nothing
  }
  for (const Entry::Subscriber& s : waiting) {
    if (!try_answer(id, e, s, out)) e.subscribers.push_back(s);
    else if (ProcessRow* r = row(s.process); r && !(e.maker_told && s.process == id.process()))
      r->interests.erase(id);
  }
  consider(id, e);
}

void ObjectTable::answer_error(const ObjectId& id, Entry& e, LossCause cause, Actions& out) {
  if (e.subscribers.empty()) return;
  std::string bytes = encode_error_(cause, id);
  for (const Entry::Subscriber& s : std::exchange(e.subscribers, {})) {
    if (ProcessRow* r = row(s.process)) r->interests.erase(id);
    out.push_back(NotifyReady{s.process, {id, ValueState::kError, bytes, {}}});
  }
}

void ObjectTable::fail_unknown(const ObjectId& id, LossCause cause, Actions& out) {
  Entry* e = find_mutable(id);
  if (e == nullptr || e->known) return;
  answer_error(id, *e, cause, out);
  consider(id, *e);
}

void ObjectTable::process_died(ProcessId process, Actions& out) {
  auto it = processes_.find(process);
  if (it == processes_.end() || process == kDaemonProcess) return;
  ProcessRow gone = std::move(it->second);
  processes_.erase(it);
  for (const ObjectId& id : gone.holds) {
    Entry* e = find_mutable(id);
    SHEAF_CHECK(e != nullptr);
    std::erase_if(e->holds, [&](const auto& hold) { return hold.first == process; });
    consider(id, *e);
  }
  for (const ObjectId& id : gone.interests) {
    Entry* e = find_mutable(id);
    if (e == nullptr) continue;
    std::erase_if(e->subscribers, [&](const Entry::Subscriber& s) { return s.process == process; });
    bool published = std::erase(e->publishers, process) > 0;
    if (published && e->state == ValueState::kPending && e->publishers.empty()) {
      lose(id, *e, LossCause::kOwnerDied, out);
    } else if (e->replaceable && id.process() == process) {
      resolve(id, *e, out);
    }
    consider(id, *e);
  }
}

}  // namespace sheaf::objstore
