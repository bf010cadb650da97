// Random programs over four nodes in which every object is a task's result: processes submit tasks
// with arguments, give references away, and die; so do nodes, up to two of three. Node 1 lives.
// Truth: whatever a process holds has its very value, as its task runs again wherever one can; and
// when all have let go nothing is left.
#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>

#include "tests/objstore/cluster_harness.h"

namespace sheaf::objstore::lineage_random_test {
namespace {

constexpr uint16_t kNodes = 4;
using Ids = std::vector<ObjectId>;

class LineageWorld {
 public:
  explicit LineageWorld(uint32_t seed)
      : random_(seed), c_(kNodes, {12 * ClusterHarness::kMiB, true}) {
    for (uint16_t n = 1; n <= kNodes; ++n) {
      for (int i = 0; i < 2; ++i) join(n);
    }
    c_.choose = [this](uint16_t, const std::set<ProcessId>& tried) {
      for (auto& [p, mine] : processes_) if (!tried.contains(p) && chance(60)) return p;
      return processes_.begin()->first;   // of node 1
    };
  }

  void run(int steps, int node_deaths) {
    deaths_left_ = node_deaths;
    for (int i = 0; i < steps && why_.empty(); ++i) step(i * 10 > steps * 3);
  }
  // Everybody reads all that it has, and lets go.
  void wind_down() {
    bool healed = until([&] {
      death_news();
      return undeclared_.empty() && unclosed_.empty();
    });
    if (!healed) why_ = "a barrier stays open";
    for (auto& [p, mine] : std::map(processes_)) {
      for (auto& [id, ref] : std::map(mine.refs)) {
        get(p, id);
        until([&] { return !why_.empty() || !processes_[p].waits.contains(id); });
        if (why_.empty() && processes_[p].waits.contains(id)) why_ = "hangs: " + to_hex(id);
      }
    }
    if (why_.empty() && !until([&] { return runs_.empty() && c_.handed.empty(); }))
      why_ = "a task never ends";
    for (auto& [p, mine] : std::map(processes_)) {
      for (auto& [id, ref] : std::map(mine.refs)) {
        for (int n = ref.user; n > 0; --n) drop(p, id);
      }
    }
    // A hand-off whose record is lost with its sender leaves the receiver a hold, until it ends.
    until([&] { return c_.under_way() == 0; });
    for (auto& [p, mine] : std::map(processes_)) {
      if (c_.alive_nodes().size() < kNodes) c_.store(node_of(p)).process_died(p);
    }
    if (!until([&] { return leftovers().empty(); }) && why_.empty())
      why_ = "something is left:" + leftovers();
  }
  std::string why_;
  uint64_t reads_ = 0, adopted_ = 0, deaths_ = 0;

 private:
  struct Ref { int user = 0, inner = 0, held = 0; };   // inner: of tasks
  struct Process {
    std::map<ObjectId, Ref> refs;
    std::map<ObjectId, Ids> lineage;      // own tasks, and what they hold
    std::set<ObjectId> recorded, published, waits;
    uint64_t last = 0;
  };
  // A task that runs for a process, which holds its arguments meanwhile.
  struct Run {
    ProcessId maker;
    ObjectId id;
    Ids arguments;
    std::set<ObjectId> waits;
    uint16_t on = 0;      // has run there, the answer is under way
    bool again = false;
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
  ProcessId worker_on(uint16_t n) { return processes_.lower_bound(make_process(n, 0, 0))->first; }
  std::optional<ObjectId> any_ref(ProcessId p) {
    Ids some;
    for (auto& [id, ref] : processes_[p].refs) if (ref.user > 0) some.push_back(id);
    if (some.empty()) return std::nullopt;
    return some[pick(some.size())];
  }
  Store& store(ProcessId p) { return c_.store(node_of(p)); }
  static bool is_small(const ObjectId& id) { return id.lo % 3 == 0; }
  static std::string value_of(const ObjectId& id) { return "value of " + to_hex(id); }

  void step(bool deaths) {
    ProcessId p = any_process();
    std::optional<ObjectId> ref = any_ref(p);
    switch (pick(16)) {
      case 0: case 1: submit(p); break;
      case 2: case 3: case 4: if (ref) give(p, any_process(), *ref); break;
      case 5: case 6: if (ref && chance(60)) drop(p, *ref); break;
      case 7: case 8: if (ref) get(p, *ref); break;
      case 9: if (chance(10) && node_of(p) != 1) end_process(p); break;
      case 10: if (deaths && deaths_left_ > 0 && chance(8)) kill_node(); break;
      case 11: death_news(); break;
      default:
        for (size_t n = pick(12); n > 0; --n) c_.deliver_one(random_());
        for (uint16_t n : c_.alive_nodes()) if (chance(60)) c_.turn(n);
    }
    look_around();
  }
  template <class F>
  bool until(F&& done) {
    return c_.until([&] { look_around(); return done(); });
  }

  // ---- What the runtime of a process does
  void hold(ProcessId p, const ObjectId& id) {
    ++processes_[p].refs[id].inner;
    ++processes_[p].refs[id].held;
    store(p).hold(p, 0, Ids{id}, {});
  }
  void drop(ProcessId p, ObjectId id) { drop(p, id, &Ref::user); }
  void drop(ProcessId p, ObjectId id, int Ref::* kind) {
    Process& mine = processes_[p];
    auto it = mine.refs.find(id);
    --(it->second.*kind);
    if (it->second.user + it->second.inner > 0) return;
    store(p).hold(p, 0, {}, Ids(static_cast<size_t>(it->second.held), id));
    mine.refs.erase(it);
    auto lineage = mine.lineage.extract(id);
    if (lineage.empty()) return;
    for (const ObjectId& argument : lineage.mapped()) drop(p, argument, &Ref::inner);
  }
  void submit(ProcessId p) {
    Process& mine = processes_[p];
    ObjectId id = ObjectId::make(p, ++mine.last);
    Ids arguments;
    for (size_t n = pick(3); n > 0; --n) if (auto one = any_ref(p)) arguments.push_back(*one);
    for (const ObjectId& one : arguments) ++mine.refs[one].inner;
    mine.lineage[id] = arguments;
    mine.refs[id] = {1, 1, 0};   // inner: until the task has ended
    start(p, id, arguments);
  }
  void start(ProcessId p, const ObjectId& id, const Ids& arguments) {
    Run run{p, id, arguments, {}};
    for (const ObjectId& one : arguments) {
      hold(p, one);
      run.waits.insert(one);
    }
    runs_.push_back(std::move(run));
    for (const ObjectId& one : arguments) {
      if (one.process() == p && !known(p, one)) publish(p, one);
      get(p, one);
    }
  }
  bool known(ProcessId p, const ObjectId& id) { return processes_[p].published.contains(id); }
  void publish(ProcessId p, const ObjectId& id) {
    if (!processes_[p].published.insert(id).second) return;
    ++processes_[p].refs[id].held;
    (void)store(p).publish(p, id, ValueState::kPending, "", {}).is_ok();
  }
  void escape(ProcessId p, const ObjectId& id) {
    if (id.process() != p || !processes_[p].lineage.contains(id)) return;
    publish(p, id);
    if (processes_[p].recorded.insert(id).second) {
      Ids arguments = processes_[p].lineage[id];
      EXPECT_TRUE(store(p).record_task(p, {1, -1, {id}, arguments, "task"}));
      for (const ObjectId& one : arguments) escape(p, one);
    }
  }
  void give(ProcessId from, ProcessId to, const ObjectId& id) {
    escape(from, id);
    store(from).hold(from, to, Ids{id}, {});
    c_.send_record(node_of(from), node_of(to), [this, to, id] {
      if (!processes_.contains(to)) return;
      ++processes_[to].refs[id].user;
      ++processes_[to].refs[id].held;
    });
  }
  void get(ProcessId p, const ObjectId& id) {
    processes_[p].waits.insert(id);
    if (id.process() == p && processes_[p].lineage.contains(id)) publish(p, id);
    store(p).subscribe(p, Ids{id}, true, StoreHarness::now());
  }

  // ---- Tasks
  void look_around() {
    while (!c_.handed.empty()) {
      ClusterHarness::Handed task = c_.handed.front();
      c_.handed.pop_front();
      adopt(task);
    }
    for (uint16_t n : c_.alive_nodes()) {
      for (auto& [p, events] : c_.node(n).events) {
        for (ObjectEvent& e : std::exchange(events, {})) if (processes_.contains(p)) look_at(p, e);
      }
    }
    for (size_t i = 0; i < runs_.size(); ++i) {
      if (runs_[i].waits.empty() && runs_[i].on == 0) execute(i);
    }
  }
  void adopt(const ClusterHarness::Handed& task) {
    const ObjectId& id = task.record.returns[0];
    if (!processes_.contains(task.maker)) {
      if (c_.alive(task.by)) c_.store(task.by).maker_gone(task.maker);
      return;
    }
    ++adopted_;
    adopters_[task.maker].insert(task.by);
    for (Run& run : runs_) {
      if (run.maker != task.maker || run.id != id) continue;
      run.again = true;
      return;
    }
    hold(task.maker, id);   // while it runs
    start(task.maker, id, task.record.arguments);
  }
  void execute(size_t i) {
    Run& run = runs_[i];
    auto nodes = c_.alive_nodes();
    uint16_t n = nodes[pick(nodes.size())];
    ObjectId id = run.id;
    ProcessId maker = run.maker;
    if (!is_small(id)) {
      auto answer = c_.store(n).alloc_extent(worker_on(n), 1, 70000 + id.lo % 7 * 100000,
                                             std::chrono::milliseconds(0), StoreHarness::now());
      if (!answer || !*answer) return;   // again soon
      c_.node(n).fill(**answer, id);
      seal_header(c_.node(n).base(), **answer, id);
      Status s = c_.store(n).seal(worker_on(n), id, **answer, id.process(), {});
      if (!s) why_ = s.to_string();
    }
    run.on = n;
    c_.send_record(n, node_of(maker), [this, id, maker, n] { ended(maker, id, n); });
  }
  void ended(ProcessId maker, const ObjectId& id, uint16_t n) {
    auto it = std::find_if(runs_.begin(), runs_.end(), [&](const Run& r) {
      return r.maker == maker && r.id == id && r.on == n;
    });
    if (it == runs_.end()) return;
    Run run = std::move(*it);
    runs_.erase(it);
    Process& mine = processes_[maker];
    if (!is_small(id)) {
      if (id.process() == maker) {
        ++mine.refs[id].held;   // by the seal
        mine.published.insert(id);
      }
    } else if (id.process() == maker && mine.lineage.contains(id)) {
      mine.refs[id].held += mine.published.insert(id).second;
      (void)store(maker).publish(maker, id, ValueState::kInline, value_of(id), {}).is_ok();
    } else {
      EXPECT_TRUE(store(maker).made(maker, id, ValueState::kInline, value_of(id), {}));
    }
    if (run.again) start(maker, id, run.arguments);
    else drop(maker, id, &Ref::inner);
    for (const ObjectId& one : run.arguments) drop(maker, one, &Ref::inner);
  }
  void look_at(ProcessId p, const ObjectEvent& e) {
    Process& mine = processes_[p];
    bool ours = e.id.process() == p && mine.lineage.contains(e.id);
    if (e.state == ValueState::kError && ours && e.bytes == "loss 5") {
      bool runs = false;
      for (Run& run : runs_) runs = runs || (run.maker == p && run.id == e.id);
      if (!runs) {
        ++mine.refs[e.id].inner;
        start(p, e.id, mine.lineage[e.id]);
      }
      if (mine.waits.contains(e.id)) get(p, e.id);
      return;
    }
    if (e.state == ValueState::kPending || !mine.waits.contains(e.id)) return;
    if (e.state == ValueState::kError && e.bytes == "loss 4") return get(p, e.id);   // no room yet
    bool gone = e.state == ValueState::kArena && !c_.node(node_of(p)).intact(e.locator, e.id);
    if (gone && mine.refs.contains(e.id)) return get(p, e.id);   // not pinned
    mine.waits.erase(e.id);
    if (!mine.refs.contains(e.id)) return;
    ++reads_;
    if (e.state == ValueState::kError) why_ = "lost: " + to_hex(e.id) + " " + e.bytes;
    if (e.state == ValueState::kInline && e.bytes != value_of(e.id))
      why_ = "wrong bytes of " + to_hex(e.id);
    for (Run& run : runs_) if (run.maker == p) run.waits.erase(e.id);
  }

  // ---- Deaths
  void forget(ProcessId p) {
    processes_.erase(p);
    std::erase_if(runs_, [&](const Run& r) { return r.maker == p; });
  }
  void end_process(ProcessId p) {
    uint16_t n = node_of(p);
    ++deaths_;
    forget(p);
    c_.store(n).process_died(p);
    c_.node(n).events.erase(p);
    for (uint16_t by : std::exchange(adopters_[p], {})) {
      if (by == n) continue;
      c_.send_record(n, by, [this, by, p] {
        if (c_.alive(by)) c_.store(by).maker_gone(p);
      });
    }
    join(n);
  }
  void kill_node() {
    --deaths_left_;
    ++deaths_;
    uint16_t n = static_cast<uint16_t>(2 + pick(kNodes - 1));
    if (!c_.alive(n)) return;
    c_.kill(n, [&](size_t all) { return pick(all + 1); });
    for (auto& [p, mine] : std::map(processes_)) if (node_of(p) == n) forget(p);
    for (uint16_t who : c_.alive_nodes()) undeclared_.insert({n, who});
    std::erase_if(undeclared_, [&](const auto& row) { return row.second == n; });
    unclosed_.insert(n);
  }
  void death_news() {
    if (!undeclared_.empty()) {
      auto it = std::next(undeclared_.begin(), static_cast<ptrdiff_t>(pick(undeclared_.size())));
      auto [dead, who] = *it;
      undeclared_.erase(it);
      c_.declare(dead, who);
      // Their callers learn that the workers are gone, and run their tasks elsewhere.
      for (Run& run : runs_) if (run.on == dead && node_of(run.maker) == who) run.on = 0;
      return;
    }
    for (uint16_t n : std::set(unclosed_)) {
      if (!c_.reached(n)) continue;
      c_.close_barrier(n);
      unclosed_.erase(n);
    }
  }

  std::string leftovers() {
    std::string text;
    for (uint16_t n : c_.alive_nodes()) {
      const NodeTable& t = c_.store(n).nodes();
      size_t rows = t.table().entries().size() + t.foreign().size() + t.copies().size() +
                    t.unconfirmed().size() + t.deferred().size() + t.lineage().size() +
                    t.lineage().kept_for_others() + t.values_kept_elsewhere();
      if (rows == 0 && c_.store(n).metrics().used_bytes == 0) continue;
      text += " node " + std::to_string(n) + ":";
      for (auto& [id, e] : t.table().entries()) {
        text += " " + to_hex(id) + "(state " + std::to_string(static_cast<int>(e.state)) +
                ", kept " + std::to_string(e.kept) + ", foreign " + std::to_string(e.foreign);
        for (auto& [p, count] : e.holds)
          text += ", " + std::to_string(node_of(p)) + "/" + std::to_string(number_of(p)) + ":" +
                  std::to_string(count);
        text += ")";
      }
      text += " records " + std::to_string(t.lineage().size()) + ", kept " +
              std::to_string(t.lineage().kept_for_others()) + ", rows " + std::to_string(rows);
    }
    return text;
  }

  std::mt19937 random_;
  ClusterHarness c_;
  uint32_t last_process_ = 0;
  std::map<ProcessId, Process> processes_;
  std::vector<Run> runs_;
  std::map<ProcessId, std::set<uint16_t>> adopters_;
  std::set<std::pair<uint16_t, uint16_t>> undeclared_;
  std::set<uint16_t> unclosed_;
  int deaths_left_ = 0;
};

TEST(LineageRandomTest, WhateverIsHeldIsMadeAgainAndNothingIsLeft) {
  uint32_t first = 1, seeds = 15;
  if (const char* one = std::getenv("SHEAF_TEST_SEED")) {
    first = static_cast<uint32_t>(std::strtoul(one, nullptr, 10));
    seeds = 1;
  }
  uint64_t reads = 0, adopted = 0, deaths = 0;
  for (uint32_t seed = first; seed < first + seeds; ++seed) {
    LineageWorld world(seed);
    world.run(1500, 2);
    if (world.why_.empty()) world.wind_down();
    ASSERT_EQ(world.why_, "") << "seed " << seed;
    reads += world.reads_;
    adopted += world.adopted_;
    deaths += world.deaths_;
  }
  EXPECT_GT(adopted, seeds / 5);
  std::printf("%u seeds, %lu reads, %lu deaths, %lu tasks adopted\n", seeds,
              static_cast<unsigned long>(reads), static_cast<unsigned long>(deaths),
              static_cast<unsigned long>(adopted));
}

}  // namespace
}  // namespace sheaf::objstore::lineage_random_test
