// The table under random clients: each has a FIFO lane to the daemon, which drains them in any
// order. Truth is what the clients hold; the table must never drop a value that somebody can still
// reach, and must drop everything in the end.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "objstore/object_table.h"

namespace sheaf::objstore::object_table_random_test {
namespace {

struct Client {
  std::map<ObjectId, int> holds;                 // holds that this process knows it has
  std::set<ObjectId> pending;                    // published without a value
  std::set<ObjectId> published;
  std::deque<std::function<void()>> lane;
  bool alive = true;
};

class World {
 public:
  World(uint32_t seed, bool careless) : random_(seed), careless_(careless) {
    for (int i = 0; i < 5; ++i) join();
  }

  // False: the table freed something that was reachable.
  bool run(int steps) {
    for (int i = 0; i < steps && sound_; ++i) step();
    return sound_;
  }
  // Everybody lets go. True: nothing is left anywhere.
  bool wind_down() {
    for (auto& [p, c] : clients_) {
      if (!c.alive) continue;
      for (const ObjectId& id : std::set<ObjectId>(c.pending)) resolve(p, id);
      while (!c.holds.empty()) drop(p, c.holds.begin()->first);
    }
    for (int i = 0; i < 3 || again_; ++i) full_round();
    return sound_ && table_.entries().empty() && extents_.empty() && disk_.empty() &&
           nobody_waits();
  }
  size_t values_freed() const { return freed_; }
  std::string why() const { return why_; }

 private:
  size_t pick(size_t n) { return random_() % n; }
  bool chance(int percent) { return static_cast<int>(random_() % 100) < percent; }
  ProcessId any_alive() {
    std::vector<ProcessId> alive;
    for (auto& [p, c] : clients_) if (c.alive) alive.push_back(p);
    return alive[pick(alive.size())];
  }
  bool any_held(ProcessId p, ObjectId& id) {
    auto& holds = clients_[p].holds;
    if (holds.empty()) return false;
    id = std::next(holds.begin(), static_cast<ptrdiff_t>(pick(holds.size())))->first;
    return true;
  }
  void join() {
    ProcessId p = ++last_process_;
    clients_[p];
    table_.process_joined(p);
  }
  void send(ProcessId p, std::function<void()> message) {
    clients_[p].lane.push_back(std::move(message));
  }

  void step() {
    ProcessId p = any_alive();
    ObjectId id;
    if (!late_.empty() && chance(10)) {
      late_.front()();
      late_.pop_front();
    }
    switch (pick(12)) {
      case 0: case 1: create(p); break;
      case 2: case 3: case 4: if (any_held(p, id)) hand_over(p, any_alive(), id); break;
      case 5: case 6: if (any_held(p, id)) drop(p, id); break;
      case 7: if (!clients_[p].pending.empty()) resolve(p, *clients_[p].pending.begin()); break;
      case 8: if (any_held(p, id)) send(p, [=, this] { subscribe(p, id); }); break;
      case 9: if (chance(8)) { die(p); join(); } break;
      case 10: disk_event(); break;
      default: if (chance(50)) drain_some(); else full_round();
    }
  }

  void create(ProcessId p) {
    ObjectId id = ObjectId::make(p, ++last_object_);
    Client& c = clients_[p];
    std::vector<ObjectId> inner;
    ObjectId held;
    if (chance(30) && any_held(p, held)) inner.push_back(held);
    if (chance(40)) {                        // a task's result: sealed by p for somebody else
      ProcessId holder = any_alive();
      Locator where = extent();
      truth_contained_[id] = inner;
      send(p, [=, this] {
        act([&] { table_.seal(p, id, where, holder, inner, out_); });
        valued_.insert(id);
      });
      ++clients_[holder].holds[id];
    } else {
      bool pending = chance(50);
      if (!pending) truth_contained_[id] = inner;
      else c.pending.insert(id);
      publish(p, id, pending, pending ? std::vector<ObjectId>{} : inner);
      ++c.holds[id];
    }
  }
  void publish(ProcessId p, ObjectId id, bool pending, std::vector<ObjectId> inner) {
    send(p, [=, this] {
      act([&] {
        table_.publish(p, id, pending ? ValueState::kPending : ValueState::kInline, "v", inner,
                       out_);
      });
      if (!pending) valued_.insert(id);
    });
  }
  void resolve(ProcessId p, ObjectId id) {
    clients_[p].pending.erase(id);
    if (!clients_[p].holds.contains(id)) return;   // let go of meanwhile
    publish(p, id, false, {});
  }
  void hand_over(ProcessId from, ProcessId to, ObjectId id) {
    if (!careless_)
      send(from, [=, this] { act([&] { table_.hold(to, std::vector{id}, {}, out_); }); });
    ++clients_[to].holds[id];
    if (careless_)
      late_.push_back([=, this] { act([&] { table_.hold(to, std::vector{id}, {}, out_); }); });
  }
  void drop(ProcessId p, ObjectId id) {
    auto it = clients_[p].holds.find(id);
    if (--it->second == 0) clients_[p].holds.erase(it);
    send(p, [=, this] { act([&] { table_.hold(p, {}, std::vector{id}, out_); }); });
  }
  void subscribe(ProcessId p, ObjectId id) {
    Waits& w = waits_[{p, id}];
    ++w.asked;
    w.waiting = true;
    act([&] { table_.subscribe(p, std::vector{id}, chance(70), out_); });
  }
  void die(ProcessId p) {
    Client& c = clients_[p];
    while (!c.lane.empty()) deliver(c);      // the daemon reads a dead process's lane to its end
    c = Client{};
    c.alive = false;
    std::erase_if(waits_, [&](const auto& w) { return w.first.first == p; });
    act([&] { table_.process_died(p, out_); });
  }

  void deliver(Client& c) {
    auto message = std::move(c.lane.front());
    c.lane.pop_front();
    message();
  }
  void drain_some() {
    Client& c = clients_[any_alive()];
    for (size_t n = pick(4); n > 0 && !c.lane.empty(); --n) deliver(c);
  }
  void full_round() {
    for (auto& [p, c] : clients_) while (!c.lane.empty()) deliver(c);
    again_ = false;
    act([&] { again_ = table_.quiesce(out_); });
    check();
  }

  Locator extent() {
    last_offset_ += 64;
    extents_.insert(last_offset_);
    return {1, 0, MemoryKind::kHost, 1, last_offset_, 100};
  }
  void disk_event() {
    if (chance(50)) {
      act([&] {
        table_.on_pressure(300, [&](const ObjectId&, const Locator&) { return chance(70); }, false,
                           out_);
      });
    }
    if (disk_jobs_.empty()) return;
    auto job = std::move(disk_jobs_[pick(disk_jobs_.size())]);
    std::erase_if(disk_jobs_, [&](const auto& j) { return !j; });
    job();
    std::erase_if(disk_jobs_, [&](const auto& j) { return !j; });
  }

  template <class F>
  void act(F&& f) {
    f();
    while (!out_.empty()) {
      Actions now;
      now.swap(out_);
      for (Action& a : now) perform(a);
    }
  }
  void perform(Action& a) {
    if (auto* n = std::get_if<NotifyReady>(&a)) {
      Waits& w = waits_[{n->process, n->event.id}];
      if (w.asked-- == 0) fail("answered more often than asked");
      w.waiting = false;
    } else if (auto* f = std::get_if<FreeExtent>(&a)) {
      if (extents_.erase(f->locator.offset) == 0) fail("extent freed twice");
      ++freed_;
    } else if (auto* s = std::get_if<StartSpill>(&a)) {
      disk_jobs_.push_back([this, s = *s] {
        act([&] {
          if (chance(20)) return table_.spill_failed(s.id, s.locator);
          SpillPlace place{++last_file_, 0, 100};
          disk_.insert(place.file);
          if (table_.spill_written(s.id, s.locator, place, out_) && chance(80))
            table_.evicted(s.id, out_);
        });
      });
    } else if (auto* e = std::get_if<TryEvict>(&a)) {
      if (chance(80)) table_.evicted(e->id, out_);
    } else if (auto* r = std::get_if<StartRestore>(&a)) {
      disk_jobs_.push_back([this, r = *r] {
        act([&] {
          if (chance(20)) return table_.restore_failed(r.id, r.place, LossCause::kStoreFull, out_);
          table_.restored(r.id, r.place, extent(), out_);
        });
      });
    } else if (auto* d = std::get_if<DeleteSpill>(&a)) {
      if (disk_.erase(d->place.file) == 0) fail("spill file deleted twice");
    }
  }

  bool nobody_waits() const {
    return std::none_of(waits_.begin(), waits_.end(),
                        [](const auto& w) { return w.second.waiting; });
  }
  // After a full round every value that a live process reaches is there.
  void check() {
    std::vector<ObjectId> reach;
    for (auto& [p, c] : clients_) for (auto& [id, count] : c.holds) reach.push_back(id);
    std::set<ObjectId> seen(reach.begin(), reach.end());
    while (!reach.empty()) {
      ObjectId id = reach.back();
      reach.pop_back();
      const ObjectTable::Entry* e = table_.find(id);
      if (valued_.contains(id) && (e == nullptr || !e->known || e->state == ValueState::kPending)) {
        fail("a reachable value is gone: " + to_hex(id));
        return;
      }
      for (const ObjectId& inner : truth_contained_[id]) {
        if (valued_.contains(id) && seen.insert(inner).second) reach.push_back(inner);
      }
    }
  }
  void fail(std::string what) {
    sound_ = false;
    why_ = std::move(what);
  }

  std::mt19937 random_;
  std::deque<std::function<void()>> late_;
  bool careless_;   // hand-overs register the new holder late: the mutant that must be caught
  ObjectTable table_{[](LossCause, const ObjectId&) { return std::string("lost"); }};
  Actions out_;
  std::map<ProcessId, Client> clients_;
  std::map<ObjectId, std::vector<ObjectId>> truth_contained_;
  std::set<ObjectId> valued_;
  std::set<uint64_t> extents_, disk_;
  struct Waits {
    int asked = 0;          // subscriptions that wait together may be answered as one
    bool waiting = false;   // since the last subscription there was no answer
  };
  std::map<std::pair<ProcessId, ObjectId>, Waits> waits_;
  std::vector<std::function<void()>> disk_jobs_;
  ProcessId last_process_ = kDaemonProcess;
  uint64_t last_object_ = 0, last_offset_ = 0, last_file_ = 0;
  size_t freed_ = 0;
  bool sound_ = true, again_ = false;
  std::string why_;

 public:
  // Disk work that was started must end before nothing can be left.
  void finish_disk() {
    while (!disk_jobs_.empty()) disk_event();
  }
};

TEST(ObjectTableRandomTest, NothingReachableIsFreedAndEverythingElseIs) {
  uint32_t first = std::random_device{}();
  size_t freed = 0;
  for (uint32_t seed = first; seed < first + 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    World world(seed, false);
    ASSERT_TRUE(world.run(3000)) << world.why();
    world.wind_down();
    world.finish_disk();
    ASSERT_TRUE(world.wind_down()) << world.why();
    freed += world.values_freed();
  }
  EXPECT_GT(freed, 1000u);
}

TEST(ObjectTableRandomTest, ClientsThatRegisterHoldersLateAreCaught) {
  int caught = 0;
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    World world(seed, true);
    caught += !world.run(3000);
  }
  EXPECT_GT(caught, 0);
}

}  // namespace
}  // namespace sheaf::objstore::object_table_random_test
