// A state's hash: all that can make a difference to what follows. Registration numbers count from
// their node's newest, so that paths to the same state meet. What a node alone decides is hashed
// once per change of that node.
#include <algorithm>
#include <map>
#include <set>
#include <string_view>

#include "tests/checker_objects/model.h"

namespace sheaf::objstore::checker {

class Digest {
 public:
  template <class... Ts>
  void operator()(const Ts&... values) {
    (number(static_cast<uint64_t>(values)), ...);
  }
  void number(uint64_t value) {
    lo_ = mix(lo_ ^ value);
    hi_ = mix(hi_ + 0x9e3779b97f4a7c15ull + value);
  }
  void text(std::string_view value) {
    number(value.size());
    for (char c : value) number(static_cast<uint64_t>(static_cast<unsigned char>(c)));
  }
  void id(const ObjectId& value) { (*this)(value.hi, value.lo); }
  void hash(const Hash& value) { (*this)(value.lo, value.hi); }
  // `newest`: of the node that counts the registrations in it.
  void message(const ObjectMessage& m, uint64_t newest) {
    if (auto* r = std::get_if<Register>(&m)) {
      (*this)(m.index(), newest - r->number, r->ids.size());
      for (const ObjectId& one : r->ids) id(one);
    } else if (auto* done = std::get_if<Registered>(&m)) {
      (*this)(m.index(), newest - done->number);
    } else if (auto* kept = std::get_if<Remember>(&m)) {
      (*this)(m.index(), newest - kept->number, kept->values.size());
      for (const KeptValue& value : kept->values) id(value.id);
    } else {
      text(encode(m));
    }
  }
  Hash result() const { return {lo_, hi_}; }

 private:
  static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
  }
  uint64_t lo_ = 1, hi_ = 2;
};

namespace {

// Beyond so many, attempts differ in their pauses only.
constexpr uint32_t kAttemptsToldApart = 5;

void feed(Digest& d, const ObjectTable::Entry* e) {
  if (e == nullptr) return d(0);
  d(1 + static_cast<uint64_t>(e->state), e->known, e->candidate, e->replaceable, e->maker_told,
    e->foreign, e->told_held, e->elsewhere, e->has_copies, e->has_lineage, e->exposed, e->kept,
    e->containers,
    e->contained.size(), e->publishers.size(), e->locator.node, e->locator.generation);
  std::map<ProcessId, int32_t> holds(e->holds.begin(), e->holds.end());
  for (auto [process, count] : holds) d(process, count);
  std::set<ProcessId> waiting;
  for (const auto& s : e->subscribers) waiting.insert(s.process);
  d(holds.size(), waiting.size());
  for (ProcessId process : waiting) d.number(process);
}

void feed(Digest& d, const NodeTable& t, const ObjectId& id) {
  feed(d, t.table().find(id));
  if (auto it = t.foreign().find(id); it != t.foreign().end())
    d(it->second.counted, it->second.copy_told);
  d(7);
  if (auto it = t.copies().find(id); it != t.copies().end()) {
    for (const auto& copy : it->second) d(copy.daemon, copy.locator.generation, copy.kept);
  }
  d(8);
  if (auto it = t.fetches().find(id); it != t.fetches().end()) {
    const NodeTable::Fetch& f = it->second;
    d(f.asked, f.source, std::min(f.attempts, kAttemptsToldApart), f.pulling, f.pausing,
      f.granted);
  }
  d(9);
  if (auto it = t.broadcasts().find(id); it != t.broadcasts().end()) {
    for (const auto& [reader, source] : it->second.readers) d(reader, source);
    d(12);
    for (const auto& [reader, locator] : it->second.started) d(reader, locator.generation);
    d(13);
    for (const auto& w : it->second.waiting) d(w.reader, w.tried);
  }
}

void feed(Digest& d, const NodeTable& t) {
  uint64_t newest = t.last_number();
  d(t.values_kept_elsewhere(), t.lineage().kept_for_others());
  for (const auto& [daemon, p] : t.peers()) {
    d(daemon, p.up, p.forward_waits, p.forward_waits ? newest - p.forward_after : 0,
      p.gated.size());
    for (const auto& gated : p.gated) {
      d(newest - gated.after);
      d.message(gated.message, newest);
    }
  }
  for (const auto& [number, u] : t.unconfirmed())
    d(newest - number, u.owner, u.instead == 0 ? 0 : 1 + newest - u.instead);
  d(10);
  for (const auto& [number, b] : t.barriers())
    d(number, b.reached, b.after == UINT64_MAX ? UINT64_MAX : newest - b.after);
  d(11);
  for (const auto& [home, messages] : t.deferred()) {
    for (const auto& [from, message] : messages) {
      d(home, from);
      d.text(encode(message));
    }
  }
}

}  // namespace

Hash Model::hash_of(int n) const {
  const Node& node = *nodes_[n];
  if (node.hash) return *node.hash;
  Digest d;
  feed(d, node.table);
  for (int o = 0; o < objects_; ++o) feed(d, node.table, ids_[o]);
  d(node.last_generation, node.arena.size());
  std::map<uint32_t, Extent> arena;
  for (const Extent& e : node.arena) arena.emplace(e.generation, e);
  for (const auto& [generation, e] : arena) d(generation, e.whole, e.object);
  node.hash = d.result();
  return *node.hash;
}

void Model::send(int from, int to, ObjectMessage message) {
  if (to > count_ || !alive(to)) return;
  auto made = std::make_shared<Message>();
  bool numbered = std::holds_alternative<Register>(message) ||
                  std::holds_alternative<Registered>(message) ||
                  std::holds_alternative<Remember>(message);
  if (!numbered) {
    Digest d;
    d.message(message, 0);
    made->hash = d.result();
  }
  made->message = std::move(message);
  wires_[from][to].push_back({std::move(made), {}, 0});
}

Hash Model::hash() const {
  Digest d;
  for (int n = 1; n <= count_; ++n) {
    d(100, dead_[n]);
    if (dead_[n]) {
      d(declared_[n], closing_[n]);
      for (int m = 1; m <= count_; ++m) d(heard_[n][m], reached_[n][m]);
    } else {
      d.hash(hash_of(n));
      const Process& p = processes_[n];
      for (int o = 0; o < objects_; ++o) {
        d(p.refs[o], p.waits[o], retries_[n][o]);
        for (uint8_t calls : p.calls[o]) d(calls);
      }
      for (const Task& task : p.tasks) d(task.from, task.object);
    }
    for (int m = 1; m <= count_; ++m) {
      for (const Wire* wire : {&wires_[n][m], &held_back_[n][m]}) {
        d(wire->size());
        for (const Item& item : *wire) {
          d(item.record, item.object);
          if (!item.message) continue;
          const ObjectMessage& message = item.message->message;
          if (std::holds_alternative<Register>(message) ||
              std::holds_alternative<Remember>(message)) {
            d.message(message, dead_[n] ? 0 : table(n).last_number());
          } else if (std::holds_alternative<Registered>(message)) {
            d.message(message, table(m).last_number());
          } else {
            d.hash(item.message->hash);
          }
        }
      }
    }
  }
  for (const Pull& p : pulls_) d(p.from, p.to, p.object, p.remote.generation, p.local);
  d(102, left_.sends, left_.calls, left_.keeps, left_.gets, left_.decodes, left_.evictions,
    left_.crashes, left_.heads);
  if (dead_[1]) {
    d(head_, restored_);
    for (int n = 2; n <= members_; ++n) d(lost_[n], rejoined_[n]);
  }
  for (int o = 0; o < objects_; ++o) d(wounded_[o], excused_[o]);
  d(lost_records_);
  return d.result();
}

}  // namespace sheaf::objstore::checker
