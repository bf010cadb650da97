#include <fmt/format.h>

#include <algorithm>

#include "tests/checker_objects/model.h"

namespace sheaf::objstore::checker {

void Model::fail(const char* invariant, std::string why) {
  if (violation_.empty()) violation_ = fmt::format("{}: {}", invariant, why);
}

// ---- Safety, in every state ---------------------------------------------------------------------

bool Model::reachable(int object) const {
  for (int n = 1; n <= count_; ++n) {
    if (!alive(n)) continue;
    const Process& p = processes_[n];
    if (p.refs[object] > 0) return true;
    for (const Task& t : p.tasks) if (t.object == object && alive(t.from)) return true;
    for (int m = 1; m <= count_; ++m) {
      auto carries = [&](const Item& item) {
        return item.object == object &&
               (item.record == RecordKind::kGive ||
                (item.record == RecordKind::kArgument && alive(m)));
      };
      const Wire& wire = wires_[m][n];
      if (std::any_of(wire.begin(), wire.end(), carries)) return true;
    }
  }
  return object == 1 && reachable(0) && !excused_[0];
}

bool Model::has_value(int n, int object) const {
  const ObjectTable::Entry* e = table(n).table().find(ids_[object]);
  bool small = e != nullptr && e->state == ValueState::kInline && n == homes_[object];
  return small || (e != nullptr && e->in_arena());
}

bool Model::available(int object) const {
  for (int n = 1; n <= count_; ++n) if (alive(n) && has_value(n, object)) return true;
  return false;
}

void Model::check() {
  for (int o = 0; o < objects_; ++o) {
    if (!excused_[o] && !available(o) && reachable(o))
      fail("NoDangling", fmt::format("object {} is gone, and somebody has it", o));
  }
  check_owners();
  if (violation_.empty() && at_rest()) check_rest();
}

void Model::check_owners() {
  for (int o = 0; o < objects_; ++o) {
    int owners = 0;
    for (int n = 1; n <= count_; ++n) {
      if (!alive(n) || table(n).table().is_foreign(ids_[o])) continue;
      ++owners;
      if (n != homes_[o] && alive(homes_[o]))
        fail("OneOwner", fmt::format("node {} owns {}, whose home lives", n, o));
    }
    if (owners > 1) fail("OneOwner", fmt::format("{} nodes own {}", owners, o));
  }
}

// ---- Where nothing is bound to happen -----------------------------------------------------------

bool Model::at_rest() const {
  if (dead_[1] && !restored_) return false;
  for (int a = 1; a <= count_; ++a) {
    if (dead_[a] && !declared_[a]) return false;
    for (int b = 1; b <= count_; ++b) if (!wires_[a][b].empty()) return false;
    for (int o = 0; o < objects_; ++o) if (retries_[a][o]) return false;
  }
  return std::none_of(pulls_.begin(), pulls_.end(), [&](const Pull& p) { return may_end(p); });
}

void Model::check_rest() {
  if (!check_waits()) return;
  for (int n = 1; n <= count_; ++n) {
    if (!alive(n)) continue;
    const Process& p = processes_[n];
    if (!p.tasks.empty()) return;
    for (int o = 0; o < objects_; ++o) if (p.refs[o] > 0 || calls_under_way(n, o) > 0) return;
  }
  if (!lost_records_) return check_leaks();
  Model after = *this;
  after.end_processes();
  violation_ = after.violation_;
}

// A process that a reference was announced to, and never came to, holds it as long as it lives.
void Model::end_processes() {
  lost_records_ = false;
  for (int n = 1; n <= count_; ++n) {
    if (!alive(n)) continue;
    Actions out;
    change(n).table.table().process_died(process(n), out);
    perform(n, out);
  }
  deliver_all();
  check();
}

bool Model::check_waits() {
  for (const Pull& p : pulls_)
    fail("NoHang", fmt::format("node {} reads from {}, which gets nothing", p.to, p.from));
  for (int n = 1; n <= count_; ++n) {
    if (!alive(n)) continue;
    for (const auto& [number, barrier] : table(n).barriers())
      fail("NoHang", fmt::format("the barrier {:x} stays open at node {}", number, n));
    for (int k = 1; k <= members_; ++k) {   // a life of the head is not told of all before it
      if (dead_[k] && !heard_[k][n] && n <= members_)
        fail("NoHang", fmt::format("node {} has not heard that {} is dead", n, k));
    }
  }
  for (int n = 1; n <= count_; ++n) {
    if (!alive(n)) continue;
    for (int m = 1; m <= count_; ++m) {
      if (!held_back_[n][m].empty())
        fail("NoHang", fmt::format("records of node {} wait for nothing", n));
    }
    for (int o = 0; o < objects_; ++o) {
      if (processes_[n].waits[o] && processes_[n].refs[o] > 0)
        fail("NoHang", fmt::format("process {} waits for {}", n, o));
      if (alive(homes_[o]) || heard_[homes_[o]][n]) {
        int owner = alive(homes_[o]) ? homes_[o] : head_;
        if (table(n).owner_of(ids_[o]) != daemon(owner))
          fail("OneOwner", fmt::format("node {} takes another for the owner of {}", n, o));
      }
    }
  }
  return violation_.empty();
}

void Model::check_leaks() {
  for (int n = 1; n <= count_; ++n) {
    if (!alive(n)) continue;
    const NodeTable& t = table(n);
    auto leak = [&](bool any, const char* what) {
      if (any) fail("NoLeak", fmt::format("node {} keeps {} that nobody needs", n, what));
    };
    leak(!t.table().entries().empty(), "an object");
    leak(!t.foreign().empty(), "a hold elsewhere");
    leak(!t.copies().empty(), "places of copies");
    leak(!t.fetches().empty(), "a fetch");
    leak(!t.broadcasts().empty(), "readers");
    leak(!t.unconfirmed().empty(), "a registration");
    leak(t.values_kept_elsewhere() + t.lineage().kept_for_others() > 0, "a kept value");
    leak(!t.deferred().empty(), "messages");
    leak(!nodes_[n]->arena.empty(), "bytes");
    for (const auto& [peer, row] : t.peers())
      leak(!row.gated.empty() || !row.early.empty(), "messages for a peer");
  }
}

}  // namespace sheaf::objstore::checker
