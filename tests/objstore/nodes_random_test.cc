// Random programs over four nodes: processes make, hand over, read and drop objects, and die, and
// so do nodes; messages arrive in any order that channels allow. Truth is what processes hold: they
// must get its very bytes, and when all have let go nothing may be left on any node.
#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>

#include "tests/objstore/cluster_harness.h"

namespace sheaf::objstore::nodes_random_test {
namespace {

constexpr uint16_t kNodes = 4;

class World {
 public:
  // Objects from 128 KiB on spread along chains, in chunks of 64 KiB.
  explicit World(uint32_t seed)
      : random_(seed), c_(kNodes, {6 * ClusterHarness::kMiB, true, 128 << 10, 64 << 10}) {
    for (uint16_t n = 1; n <= kNodes; ++n) {
      for (int i = 0; i < 3; ++i) join(n);
    }
  }

  void run(int steps, int node_deaths) {
    deaths_left_ = node_deaths;
    for (int i = 0; i < steps && why_.empty(); ++i) step(i * 10 > steps * 3);
  }
  // Everybody reads all that it has, lets go, and ends: a record that was lost with its sender has
  // left its receiver with a hold until then.
  void wind_down() {
    heal();
    for (auto& [p, mine] : std::map(processes_)) {
      for (auto& [id, count] : std::map(mine.refs)) {
        if (why_.empty()) read_to_the_end(p, id);
      }
    }
    for (auto& [p, mine] : processes_) {
      while (!mine.refs.empty()) drop(p, mine.refs.begin()->first);
    }
    if (died_) {
      for (auto& [p, mine] : std::exchange(processes_, {})) c_.store(node_of(p)).process_died(p);
    }
    c_.until([&] { return empty(); });
    if (why_.empty() && !empty()) why_ = "something is left: " + leftovers();
  }
  const std::string& why() const { return why_; }
  uint64_t reads() const { return reads_; }
  uint64_t lost() const { return lost_; }

 private:
  struct Process {
    std::map<ObjectId, int> refs;
    std::set<ObjectId> waits;
    std::set<ObjectId> published;
    uint64_t last = 0;
  };

  size_t pick(size_t n) { return random_() % n; }
  bool chance(int percent) { return static_cast<int>(random_() % 100) < percent; }
  void join(uint16_t n) {
    ProcessId p = ClusterHarness::process(n, ++last_process_);
    c_.node(n).join(p);
    processes_[p];
  }
  ProcessId any_process() {
    return std::next(processes_.begin(), static_cast<ptrdiff_t>(pick(processes_.size())))->first;
  }
  std::optional<ObjectId> any_ref(ProcessId p) {
    auto& refs = processes_[p].refs;
    if (refs.empty()) return std::nullopt;
    return std::next(refs.begin(), static_cast<ptrdiff_t>(pick(refs.size())))->first;
  }
  Store& store(ProcessId p) { return c_.store(node_of(p)); }

  void step(bool deaths) {
    ProcessId p = any_process();
    std::optional<ObjectId> ref = any_ref(p);
    switch (pick(16)) {
      case 0: case 1: make(p, any_process()); break;
      case 2: case 3: case 4: if (ref) give(p, any_process(), *ref); break;
      case 5: case 6: case 7: if (ref && chance(70)) drop(p, *ref); break;
      case 8: case 9: if (ref) get(p, *ref); break;
      case 10: if (chance(6)) end_process(p); break;
      case 11: if (deaths && deaths_left_ > 0 && chance(8)) kill_node(); break;
      case 12: death_news(); break;
      default:
        for (size_t n = pick(12); n > 0; --n) c_.deliver_one(random_());
        for (uint16_t n : c_.alive_nodes()) if (chance(60)) c_.turn(n);
    }
    look_at_events();
  }

  // A put, or a task's result for a caller somewhere; maybe with a reference inside.
  void make(ProcessId maker, ProcessId caller) {
    if (chance(50)) caller = maker;
    Process& owner = processes_[caller];
    ObjectId id = ObjectId::make(caller, ++owner.last);
    std::vector<ObjectId> inner;
    if (auto held = any_ref(maker); held && chance(25)) inner.push_back(*held);
    if (caller == maker && chance(30)) {
      (void)store(maker).publish(maker, id, ValueState::kInline, value_of(id), inner).is_ok();
      owner.published.insert(id);
      owner.refs[id] = 1;
      contained_[id] = inner;
      return;
    }
    auto answer = store(maker).alloc_extent(maker, 1, 70000 + pick(250000),
                                            std::chrono::milliseconds(0), StoreHarness::now());
    if (!answer || !*answer) return;
    StoreHarness& here = c_.node(node_of(maker));
    here.fill(**answer, id);
    seal_header(here.base(), **answer, id);
    Status s = store(maker).seal(maker, id, **answer, caller == maker ? 0 : caller, inner);
    if (!s) why_ = s.to_string();
    where_[id] = **answer;
    contained_[id] = inner;
    made_on_[id] = node_of(maker);
    c_.send_record(node_of(maker), node_of(caller), [this, caller, id] { received(caller, id); });
  }
  void received(ProcessId p, const ObjectId& id) {
    if (auto it = processes_.find(p); it != processes_.end()) ++it->second.refs[id];
  }
  void give(ProcessId from, ProcessId to, const ObjectId& id) {
    store(from).hold(from, to, std::vector{id}, {});
    c_.send_record(node_of(from), node_of(to), [this, to, id] { received(to, id); });
  }
  void drop(ProcessId p, ObjectId id) {
    auto& refs = processes_[p].refs;
    if (--refs[id] == 0) refs.erase(id);
    store(p).hold(p, 0, {}, std::vector{id});
  }
  void get(ProcessId p, const ObjectId& id) {
    processes_[p].waits.insert(id);
    std::vector<Locator> where;
    if (chance(60) && where_.contains(id) && where_[id].node != node_of(p))
      where.push_back(where_[id]);
    store(p).subscribe(p, std::vector{id}, true, StoreHarness::now(), where);
  }

  void look_at_events() {
    for (uint16_t n : c_.alive_nodes()) {
      for (auto& [p, events] : c_.node(n).events) {
        for (ObjectEvent& e : std::exchange(events, {})) {
          if (processes_.contains(p)) look_at(p, e);
        }
      }
    }
  }
  void look_at(ProcessId p, const ObjectEvent& e) {
    Process& mine = processes_[p];
    if (e.state == ValueState::kError && e.id.process() == p && e.bytes == "loss 5") {
      give_up(p, e.id);
    }
    if (e.state == ValueState::kPending || mine.waits.erase(e.id) == 0) return;
    if (!mine.refs.contains(e.id)) return;   // dropped meanwhile
    ++reads_;
    if (e.state == ValueState::kInline) {
      if (e.bytes != value_of(e.id)) why_ = "wrong bytes of " + to_hex(e.id);
    } else if (e.state == ValueState::kArena) {
      if (e.locator.node != node_of(p)) why_ = "sent to another node";
      else if (!c_.node(node_of(p)).intact(e.locator, e.id)) get(p, e.id);   // gone again: no pin
      else hold_inner(p, e.id);
    } else if (e.bytes == "loss 4") {
      get(p, e.id);   // no room just now
    } else if (!may_be_lost(e.id)) {
      why_ = "lost: " + to_hex(e.id) + " " + e.bytes;
    } else {
      ++lost_;
    }
  }
  void give_up(ProcessId p, const ObjectId& id) {
    (void)store(p).publish(p, id, ValueState::kError, "given up", {}).is_ok();
    if (processes_[p].published.insert(id).second) store(p).hold(p, 0, {}, std::vector{id});
  }
  void hold_inner(ProcessId p, const ObjectId& id) {
    for (const ObjectId& inner : contained_[id]) {
      if (inner == id || !chance(50)) continue;
      ++processes_[p].refs[inner];
      store(p).hold(p, 0, std::vector{inner}, {});
    }
  }
  bool may_be_lost(const ObjectId& id) {
    return !c_.alive(id.node()) || (made_on_.contains(id) && !c_.alive(made_on_[id])) ||
           wounded_.contains(id);
  }
  void read_to_the_end(ProcessId p, const ObjectId& id) {
    get(p, id);
    c_.until([&] {
      look_at_events();
      return !why_.empty() || !processes_[p].waits.contains(id);
    });
    if (why_.empty() && processes_[p].waits.contains(id)) why_ = "hangs: " + to_hex(id);
  }

  void end_process(ProcessId p) {
    uint16_t n = node_of(p);
    processes_.erase(p);
    c_.store(n).process_died(p);
    c_.node(n).events.erase(p);
    join(n);
  }
  void kill_node() {
    --deaths_left_;
    died_ = true;
    uint16_t n = static_cast<uint16_t>(2 + pick(kNodes - 1));
    if (!c_.alive(n)) return;
    c_.kill(n, [&](size_t all) { return pick(all + 1); });
    std::erase_if(processes_, [&](const auto& row) { return node_of(row.first) == n; });
    for (uint16_t who : c_.alive_nodes()) undeclared_.insert({n, who});
    for (auto it = undeclared_.begin(); it != undeclared_.end();)
      it = it->second == n ? undeclared_.erase(it) : std::next(it);
    unclosed_.insert(n);
    // What was inside a lost value was held by it.
    for (auto& [id, inner] : contained_) {
      if (!may_be_lost(id)) continue;
      for (const ObjectId& one : inner) wounded_.insert(one);
    }
    if (wounded_.size() > 0) spread_wounds();
  }
  void spread_wounds() {
    for (size_t before = 0; before != wounded_.size();) {
      before = wounded_.size();
      for (const ObjectId& id : std::set(wounded_)) {
        for (const ObjectId& one : contained_[id]) wounded_.insert(one);
      }
    }
  }
  void death_news() {
    if (!undeclared_.empty()) {
      auto it = std::next(undeclared_.begin(), static_cast<ptrdiff_t>(pick(undeclared_.size())));
      auto [dead, who] = *it;
      undeclared_.erase(it);
      c_.declare(dead, who);
      return;
    }
    for (uint16_t n : std::set(unclosed_)) {
      if (!c_.reached(n)) continue;
      c_.close_barrier(n);
      unclosed_.erase(n);
    }
  }
  void heal() {
    bool healed = c_.until([&] {
      look_at_events();
      death_news();
      return undeclared_.empty() && unclosed_.empty();
    });
    if (!healed) why_ = "a barrier stays open";
  }

  bool empty() { return leftovers().empty(); }
  std::string leftovers() {
    std::string text;
    look_at_events();
    for (uint16_t n : c_.alive_nodes()) {
      const NodeTable& t = c_.store(n).nodes();
      size_t rows = t.table().entries().size() + t.foreign().size() + t.copies().size() +
                    t.unconfirmed().size() + t.deferred().size();
      if (rows == 0 && c_.store(n).metrics().used_bytes == 0) continue;
      text += " node " + std::to_string(n) + ":";
      for (auto& [id, e] : t.table().entries()) {
        text += " " + to_hex(id) + "(state " + std::to_string(static_cast<int>(e.state)) +
                ", kept " + std::to_string(e.kept) + ", in " + std::to_string(e.containers) +
                ", foreign " + std::to_string(e.foreign);
        for (auto& [p, count] : e.holds)
          text += ", " + std::to_string(node_of(p)) + "/" + std::to_string(number_of(p)) + ":" +
                  std::to_string(count);
        text += ")";
      }
      text += " rows " + std::to_string(rows) + ", bytes " +
              std::to_string(c_.store(n).metrics().used_bytes);
    }
    return text;
  }
  static std::string value_of(const ObjectId& id) { return "value of " + to_hex(id); }

  std::mt19937 random_;
  ClusterHarness c_;
  uint32_t last_process_ = 0;
  std::map<ProcessId, Process> processes_;
  std::map<ObjectId, Locator> where_;
  std::map<ObjectId, std::vector<ObjectId>> contained_;
  std::map<ObjectId, uint16_t> made_on_;
  std::set<ObjectId> wounded_;
  std::set<std::pair<uint16_t, uint16_t>> undeclared_;
  std::set<uint16_t> unclosed_;
  int deaths_left_ = 0;
  bool died_ = false;
  uint64_t reads_ = 0, lost_ = 0;
  std::string why_;
};

void run_seeds(uint32_t first, uint32_t seeds, int steps, int deaths) {
  if (const char* one = std::getenv("SHEAF_TEST_SEED")) {
    first = static_cast<uint32_t>(std::strtoul(one, nullptr, 10));
    seeds = 1;
  }
  uint64_t reads = 0, lost = 0;
  for (uint32_t seed = first; seed < first + seeds; ++seed) {
    World world(seed);
    world.run(steps, deaths);
    if (world.why().empty()) world.wind_down();
    ASSERT_EQ(world.why(), "") << "seed " << seed;
    reads += world.reads();
    lost += world.lost();
  }
  EXPECT_GT(reads, seeds);
  std::printf("%u seeds, %lu reads, %lu of lost objects\n", seeds,
              static_cast<unsigned long>(reads), static_cast<unsigned long>(lost));
}

TEST(NodesRandomTest, NothingIsLostAndNothingIsLeft) { run_seeds(1, 12, 1500, 0); }
TEST(NodesRandomTest, DeathsTakeOnlyWhatTheyMay) { run_seeds(1001, 200, 450, 2); }

}  // namespace
}  // namespace sheaf::objstore::nodes_random_test
