#include "objstore/node_table.h"

#include <algorithm>
#include <utility>

namespace sheaf::objstore {

// ---- Who is who ---------------------------------------------------------------------------------

ProcessId NodeTable::head() const {
  if (node_of(self_) == 1) return self_;
  auto it = peers_.lower_bound(make_process(1, 0, 0));
  return it != peers_.end() && node_of(it->first) == 1 ? it->first : kNoProcess;
}

ProcessId NodeTable::daemon_of(uint16_t node) const {
  auto it = peers_.lower_bound(make_process(node, 0, 0));
  return it != peers_.end() && node_of(it->first) == node && it->second.up ? it->first : kNoProcess;
}

ProcessId NodeTable::owner_of(const ObjectId& id) const {
  ProcessId home = home_of(id);
  if (self_ == kNoProcess || home == self_) return self_;
  return dead_.contains(home) ? head() : home;
}

NodeTable::Peer& NodeTable::peer(ProcessId daemon, Actions& out) {
  auto [it, fresh] = peers_.try_emplace(daemon);
  if (fresh) {
    table_.process_joined(daemon);
    out.push_back(PeerAwaited{daemon});
  }
  return it->second;
}

void NodeTable::tell(ProcessId to, ObjectMessage message, Actions& out) {
  if (to == kNoProcess || to == self_ || dead_.contains(to)) return;
  Peer& p = peer(to, out);
  if (p.up) out.push_back(Tell{to, std::move(message)});
  else p.early.push_back(std::move(message));
}

void NodeTable::tell_settled(ProcessId to, ObjectMessage message, Actions& out) {
  if (to == kNoProcess || to == self_ || dead_.contains(to)) return;
  Peer& p = peer(to, out);
  if (p.gated.empty() && settled(last_number_, to)) tell(to, std::move(message), out);
  else p.gated.push_back({last_number_, std::move(message)});
}

// What was registered up to `number` is counted, as far as `to` could come to know of it otherwise.
bool NodeTable::settled(uint64_t number, ProcessId to) const {
  for (const auto& [n, u] : unconfirmed_) {
    if (n > number) return true;
    if (u.owner != to && (u.owner != away_ || away_ == kNoProcess)) return false;
  }
  return true;
}

bool NodeTable::may_forward(ProcessId to, uint64_t& gate) {
  uint64_t number = std::exchange(gate, 0);
  if (number == 0) number = last_number_;
  if (unconfirmed_.empty() || settled(number, to)) return true;
  auto it = peers_.find(to);
  if (it == peers_.end()) return true;
  Peer& p = it->second;
  bool others = std::exchange(p.forward_waits, true);
  p.forward_after = others ? std::min(p.forward_after, number) : number;
  gate = number;
  return false;
}

void NodeTable::pump(Actions& out) {
  for (auto& [daemon, p] : peers_) {
    while (!p.gated.empty() && settled(p.gated.front().after, daemon)) {
      ObjectMessage message = std::move(p.gated.front().message);
      p.gated.pop_front();
      if (p.up) out.push_back(Tell{daemon, std::move(message)});
      else p.early.push_back(std::move(message));
    }
    if (p.forward_waits && settled(p.forward_after, daemon)) {
      p.forward_waits = false;
      out.push_back(ForwardReady{daemon});
    }
  }
  for (auto& [number, barrier] : barriers_) {
    if (barrier.reached || !settled(barrier.after, kNoProcess)) continue;
    barrier.reached = true;
    out.push_back(BarrierReached{number});
  }
}

// ---- What the table says ------------------------------------------------------------------------

void NodeTable::digest(Actions& actions) {
  if (self_ == kNoProcess && lineage_.empty()) return;
  for (size_t i = 0; i < actions.size(); ++i) {
    if (auto* ready = std::get_if<NotifyReady>(&actions[i])) {
      if (!is_remote(ready->process) && ready->process != kDaemonProcess) continue;
    } else if (actions[i].index() < Action(HeldAbroad{}).index() ||
               actions[i].index() > Action(LineageGone{}).index()) {
      continue;
    }
    Action action = std::exchange(actions[i], Digested{});
    handle(action, actions);
  }
  if (!to_register_.empty() || !to_drop_.empty()) flush(actions);
  flush_lineage(actions);
  hints_.clear();
}

void NodeTable::handle(Action& action, Actions& out) {
  if (auto* ready = std::get_if<NotifyReady>(&action)) {
    ObjectEvent& e = ready->event;
    if (ready->process == kDaemonProcess) return replica_came(e, out);
    if (e.state == ValueState::kPending && table_.is_foreign(e.id)) {
      tell(ready->process, NotHere{e.id}, out);
    } else {
      tell(ready->process, Here{e.id, e.state, std::move(e.bytes), e.locator}, out);
    }
  } else if (auto* held = std::get_if<HeldAbroad>(&action)) {
    Foreign& row = foreign_[held->id];
    if (row.counted > 0) return;
    row.counted = 1;
    to_register_[home_of(held->id)].push_back(held->id);
  } else if (auto* dropped = std::get_if<DroppedAbroad>(&action)) {
    auto it = foreign_.find(dropped->id);
    if (it == foreign_.end()) return;
    if (uint32_t count = std::exchange(it->second.counted, 0); count > 0)
      to_drop_[home_of(dropped->id)].push_back({dropped->id, count});
    if (it->second.idle()) foreign_.erase(it);
  } else if (auto* fetch = std::get_if<FetchValue>(&action)) {
    start_fetch(fetch->id, out);
  } else if (auto* sealed = std::get_if<SealedAbroad>(&action)) {
    sealed_by_us(*sealed, out);
  } else if (auto* gone = std::get_if<ValueGone>(&action)) {
    replicas_.erase(gone->id);
    auto rows = copies_.extract(gone->id);
    if (rows.empty()) return;
    for (const Copy& copy : rows.mapped()) tell_settled(copy.daemon, Release{gone->id, true}, out);
  } else if (auto* copy = std::get_if<CopyDropped>(&action)) {
    auto it = foreign_.find(copy->id);
    if (it == foreign_.end() || !std::exchange(it->second.copy_told, false)) return;
    tell(owner_of(copy->id), CopyGone{copy->id, copy->corrupt}, out);
    if (it->second.idle()) foreign_.erase(it);
  } else {
    handle_lineage(action, out);
  }
}

void NodeTable::flush(Actions& out) {
  for (auto& [home, ids] : std::exchange(to_register_, {})) {
    ProcessId owner = owner_of(ids.front());
    if (owner == self_ || owner == kNoProcess) continue;
    unconfirmed_[++last_number_] = {owner, 0};
    tell(owner, Register{last_number_, std::move(ids)}, out);
  }
  for (auto& [home, holds] : std::exchange(to_drop_, {})) {
    ProcessId owner = owner_of(holds.front().id);
    tell_settled(owner, Drop{std::move(holds)}, out);
  }
}

// ---- References ---------------------------------------------------------------------------------

void NodeTable::hold(ProcessId process, ProcessId on_behalf_of, std::span<const ObjectId> add,
                     std::span<const ObjectId> drop, Actions& out) {
  ProcessId holder = on_behalf_of == kNoProcess ? process : on_behalf_of;
  if (is_remote(holder)) hand_over(holder, add, out);
  else table_.hold(holder, add, drop, out);
}

void NodeTable::hand_over(ProcessId process, std::span<const ObjectId> ids, Actions& out) {
  ProcessId to = (process >> 32 << 32) | kDaemonProcess;
  if (dead_.contains(to)) return;
  peer(to, out);
  std::map<HandOffKind, Ids> kinds;
  for (const ObjectId& id : ids) {
    ProcessId owner = owner_of(id);
    // What was adopted is ours for everybody only when all have heard of it.
    bool ours = owner == self_ && (home_of(id) == self_ || barriers_.empty());
    HandOffKind kind = ours          ? HandOffKind::kCounted
                       : owner == to ? HandOffKind::kToOwner
                                     : HandOffKind::kPinned;
    kinds[kind].push_back(id);
  }
  for (auto& [kind, some] : kinds) {
    if (kind != HandOffKind::kToOwner) table_.hold(to, some, {}, out);
    if (kind == HandOffKind::kCounted) expose(some);
    tell(to, HandOff{process, kind, std::move(some)}, out);
  }
}

void NodeTable::on(ProcessId from, Register& m, Actions& out) {
  std::erase_if(m.ids, [&](const ObjectId& id) { return table_.is_foreign(id); });
  table_.hold(from, m.ids, {}, out);
  expose(m.ids);
  tell(from, Registered{m.number}, out);
}

void NodeTable::on(ProcessId from, Registered& m, Actions& out) {
  auto it = unconfirmed_.find(m.number);
  if (it == unconfirmed_.end() || it->second.owner != from) return;
  unconfirmed_.erase(it);
  std::erase_if(unconfirmed_, [&](const auto& row) { return row.second.instead == m.number; });
  pump(out);
}

void NodeTable::on(ProcessId from, Drop& m, Actions& out) {
  for (const HoldCount& h : m.holds) {
    if (!table_.is_foreign(h.id)) table_.drop_holds(from, h.id, h.count, out);
  }
}

void NodeTable::on(ProcessId from, HandOff& m, Actions& out) {
  if (m.kind == HandOffKind::kCounted) {
    for (const ObjectId& id : m.ids) {
      ProcessId home = home_of(id);
      if (home != from && !dead_.contains(home) && from == head()) peer_down(home, 0, out);
      if (!table_.is_foreign(id)) continue;
      ++foreign_[id].counted;
      table_.counted(id);
    }
  }
  table_.hold(m.process, m.ids, {}, out);
  if (m.kind != HandOffKind::kPinned) return;
  digest(out);   // registers first
  tell_settled(from, HandOffDone{std::move(m.ids)}, out);
}

void NodeTable::on(ProcessId from, HandOffDone& m, Actions& out) {
  table_.hold(from, {}, m.ids, out);
}

// ---- Nodes that come and go ---------------------------------------------------------------------

void NodeTable::peer_up(ProcessId daemon, Actions& out) {
  if (daemon == self_ || dead_.contains(daemon)) return;
  Peer& p = peers_.try_emplace(daemon).first->second;
  table_.process_joined(daemon);
  p.up = true;
  for (ObjectMessage& m : std::exchange(p.early, {})) out.push_back(Tell{daemon, std::move(m)});
  pump(out);
}

void NodeTable::peer_awaited_in_vain(ProcessId daemon, Actions& out) {
  if (!is_up(daemon)) peer_down(daemon, 0, out);
}

void NodeTable::peer_down(ProcessId daemon, uint64_t barrier, Actions& out) {
  if (self_ == kNoProcess || daemon == self_) return;
  if (barrier != 0) {
    // A controller that restarted says it once more, and has forgotten what it said before.
    std::erase_if(barriers_, [&](const auto& row) {
      return row.first != barrier && row.second.dead == std::set{daemon};
    });
    barriers_[barrier] = {UINT64_MAX, false, {daemon}};
    table_.freeze();
  }
  // Of a life that ended while its node was away nobody may have heard.
  std::vector<ProcessId> lives;
  for (const auto& [peer, p] : peers_) {
    if (node_of(peer) == node_of(daemon) && peer < daemon) lives.push_back(peer);
  }
  lives.push_back(daemon);
  for (ProcessId life : lives) {
    if (!dead_.contains(life)) bury(life, barrier, out);
  }
  if (barrier != 0) barriers_[barrier].after = last_number_;
  pump(out);
}

void NodeTable::peer_away(ProcessId daemon, Actions& out) {
  away_ = daemon;
  pump(out);
}

void NodeTable::bury(ProcessId daemon, uint64_t barrier, Actions& out) {
  table_.process_died(daemon, out);
  digest(out);
  dead_.insert(daemon);
  peers_.erase(daemon);
  if (away_ == daemon) away_ = kNoProcess;
  std::erase_if(out, [&](const Action& a) {
    const Tell* t = std::get_if<Tell>(&a);
    return t != nullptr && t->to == daemon;
  });
  if (head() == self_) adopt(daemon, barrier, out);
  else move_to_head(daemon, out);
  bool heir = node_of(daemon) == 1 && head() != self_;
  for (ProcessId home : dead_) {   // what it had adopted is its heir's, too
    if (heir && home != daemon) move_to_head(home, out);
  }
  if (heir) sink_anew();
  Ids had_copies, asked;
  for (const auto& [id, rows] : copies_) {
    if (std::any_of(rows.begin(), rows.end(), [&](auto& c) { return c.daemon == daemon; }))
      had_copies.push_back(id);
  }
  for (const ObjectId& id : had_copies) copy_gone(id, daemon, LossCause::kNodeDied, out);
  for (const auto& [id, f] : fetches_) if (f.asked == daemon) asked.push_back(id);
  Ids replicated, read;
  for (auto& [id, r] : replicas_) {
    r.asked.erase(daemon);
    replicated.push_back(id);
  }
  for (const ObjectId& id : replicated) place_replicas(id, out);
  for (const auto& [id, b] : broadcasts_) read.push_back(id);
  for (const ObjectId& id : read) reader_done(id, daemon, out);
  makers_lost(daemon, out);
  for (const ObjectId& id : asked) {
    fetches_.erase(id);
    start_fetch(id, out);
  }
  digest(out);
}

// We are the head, and the barrier of an earlier life of ours is open: whose homes that life had
// adopted nobody has told us, but those who hold such objects register them now.
bool NodeTable::inherit_from(ProcessId home, Actions& out) {
  if (is_up(home)) return false;
  auto own = std::find_if(barriers_.begin(), barriers_.end(), [](const auto& row) {
    return !row.second.dead.empty() && node_of(*row.second.dead.begin()) == 1;
  });
  if (own == barriers_.end()) return false;
  own->second.dead.insert(home);
  bury(home, own->first, out);
  return true;
}

// We are the head: what the dead node owned is ours. Who holds it and has copies, registers with
// us; nothing of it is freed before all have, as the barrier is open.
void NodeTable::adopt(ProcessId home, uint64_t barrier, Actions& out) {
  table_.adopt(home);
  take_over(home, out);
  std::erase_if(foreign_, [&](const auto& row) { return home_of(row.first) == home; });
  std::erase_if(unconfirmed_, [&](const auto& row) { return row.second.owner == home; });
  if (auto messages = deferred_.extract(home); !messages.empty()) {
    for (auto& [from, message] : messages.mapped()) on_message(from, std::move(message), out);
  }
  if (barrier == 0) table_.lose_adopted(home, out);
}

void NodeTable::move_to_head(ProcessId home, Actions& out) {
  ProcessId owner = head();
  Register fresh{last_number_ + 1, {}};
  std::vector<ObjectMessage> copies;
  for (auto it = foreign_.begin(); it != foreign_.end();) {
    auto& [id, row] = *it;
    if (home_of(id) != home) { ++it; continue; }
    const ObjectTable::Entry* e = table_.find(id);
    row.counted = e != nullptr && e->told_held ? 1 : 0;
    if (row.counted > 0) fresh.ids.push_back(id);
    bool here = e != nullptr && (e->in_arena() || e->state == ValueState::kSpilled);
    row.copy_told = here;
    if (here) {
      while (e->kept > 1) table_.keep(id, -1);
      if (e->kept == 0) table_.keep(id, +1);
      copies.push_back(CopyMade{id, locator_of(*e), true, e->contained});
    }
    it = row.idle() ? foreign_.erase(it) : std::next(it);
  }
  bool any = !fresh.ids.empty();
  for (auto it = unconfirmed_.begin(); it != unconfirmed_.end();) {
    if (it->second.owner != home) { ++it; continue; }
    it->second = {owner, fresh.number};
    it = any ? std::next(it) : unconfirmed_.erase(it);
  }
  if (any) {
    unconfirmed_[++last_number_] = {owner, 0};
    tell(owner, std::move(fresh), out);
  }
  for (ObjectMessage& m : copies) tell(owner, std::move(m), out);
}

void NodeTable::barrier_closed(uint64_t barrier, Actions& out) {
  auto it = barriers_.find(barrier);
  if (it == barriers_.end()) return;
  std::set<ProcessId> dead = std::move(it->second.dead);
  // Those of the controller's earlier lives: what was not announced again was closed for others.
  barriers_.erase(it);
  std::erase_if(barriers_, [&](const auto& row) { return row.first >> 32 < barrier >> 32; });
  if (head() == self_) {
    for (ProcessId home : dead) table_.lose_adopted(home, out);
  }
  if (barriers_.empty()) table_.thaw();
}

// ---- Messages -----------------------------------------------------------------------------------

void NodeTable::on_message(ProcessId from, ObjectMessage message, Actions& out) {
  if (self_ == kNoProcess || from == self_ || dead_.contains(from)) return;
  if (!is_up(from)) peer_up(from, out);
  if (defer_for_home(from, message, out)) return;
  std::visit([&](auto& m) { on(from, m, out); }, message);
}

// Others may have heard earlier than the head that a node is dead.
bool NodeTable::defer_for_home(ProcessId from, const ObjectMessage& message, Actions& out) {
  if (node_of(self_) != 1) return false;
  ObjectId id;
  if (auto* m = std::get_if<Register>(&message); m != nullptr && !m->ids.empty()) id = m->ids[0];
  else if (auto* d = std::get_if<Drop>(&message); d != nullptr && !d->holds.empty())
    id = d->holds[0].id;
  else if (auto* s = std::get_if<Sealed>(&message)) id = s->id;
  else if (auto* c = std::get_if<CopyMade>(&message)) id = c->id;
  else if (auto* g = std::get_if<CopyGone>(&message)) id = g->id;
  if (id.is_nil() || !table_.is_foreign(id)) return false;
  if (inherit_from(home_of(id), out)) return false;
  peer(home_of(id), out);   // one that was never up is given up after a while
  deferred_[home_of(id)].emplace_back(from, message);
  return true;
}

}  // namespace sheaf::objstore
