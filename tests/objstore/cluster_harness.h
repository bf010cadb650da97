// Several stores in one process, joined by FIFO channels and pulls that the test delivers in the
// order it likes. Single-threaded.
#pragma once

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/objstore/store_harness.h"

namespace sheaf::objstore {

class ClusterHarness {
 public:
  static constexpr uint64_t kMiB = 1 << 20;
  struct Options {
    uint64_t arena_bytes = 32 * kMiB;
    bool spilling = true;
    uint64_t broadcast_bytes = 4 * kMiB;
    uint64_t chunk_bytes = 0;
  };

  explicit ClusterHarness(uint16_t nodes) : ClusterHarness(nodes, Options{}) {}
  ClusterHarness(uint16_t nodes, Options options) : settings_(options) {
    for (uint16_t n = 1; n <= nodes; ++n) {
      nodes_[n] = std::make_unique<StoreHarness>(
          options.arena_bytes, options.spilling, "", std::chrono::milliseconds(50),
          [&](StoreOptions& o) { wire(n, o); });
    }
    for (auto& [a, one] : nodes_) {
      for (auto& [b, other] : nodes_) if (a != b) one->store->peer_up(daemon(b));
    }
  }
  ~ClusterHarness() {
    for (auto& [n, node] : nodes_) if (node) (void)node->store->close().is_ok();
  }

  static ProcessId daemon(uint16_t n) { return make_process(n, 1, 1); }
  static ProcessId process(uint16_t n, uint32_t number) { return make_process(n, 1, 100 + number); }
  StoreHarness& node(uint16_t n) { return *nodes_.at(n); }
  Store& store(uint16_t n) { return *node(n).store; }
  bool alive(uint16_t n) const { return !dead_.contains(n); }
  std::vector<uint16_t> alive_nodes() const {
    std::vector<uint16_t> all;
    for (auto& [n, node] : nodes_) if (alive(n)) all.push_back(n);
    return all;
  }

  // ---- The wire
  // One message, pull or record of the k-th channel that has something. False: nothing moves.
  bool deliver_one(uint64_t k = 0) {
    std::vector<std::pair<uint16_t, uint16_t>> busy;
    for (auto& [way, queue] : wires_) if (!queue.empty()) busy.push_back(way);
    size_t choices = busy.size() + pulls_.size();
    if (choices == 0) return false;
    k %= choices;
    if (k < busy.size()) deliver_from(busy[k]);
    else finish_pull(k - busy.size());
    return true;
  }
  void deliver_all() {
    while (deliver_one()) {}
  }
  size_t under_way() const {
    size_t n = pulls_.size();
    for (auto& [way, queue] : wires_) n += queue.size();
    for (auto& [way, queue] : held_back_) n += queue.size();
    return n;
  }
  // Turns everything until `done` or some seconds have passed.
  template <class F>
  bool until(F&& done) {
    for (auto end = StoreHarness::now() + std::chrono::seconds(5); StoreHarness::now() < end;) {
      deliver_all();
      for (uint16_t n : alive_nodes()) turn(n);
      deliver_all();
      if (done()) return true;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    return done();
  }
  // Until nothing moves any more.
  void settle() {
    int still = 0;
    until([&] { return (still = under_way() == 0 ? still + 1 : 0) >= 6; });
  }
  void turn(uint16_t n) {
    store(n).quiesce();
    store(n).poll(StoreHarness::now());
  }

  // A record from a process of `from` to one of `to`: runs there when it arrives, after all that
  // the daemon was told before. Not sent if `from` dies while it has to wait.
  void send_record(uint16_t from, uint16_t to, std::function<void()> arrives) {
    if (!alive(from) || !alive(to)) return;
    auto& waiting = held_back_[{from, to}];
    if (from != to && (!waiting.empty() || !store(from).may_forward(daemon(to))))
      return waiting.push_back(std::move(arrives));
    wires_[{from, to}].push_back({std::nullopt, std::move(arrives)});
  }

  // kill -9: what it had sent arrives up to a point that `cut` chooses; its pulls fail.
  void kill(uint16_t n, const std::function<size_t(size_t)>& cut = [](size_t all) { return all; }) {
    dead_.insert(n);
    for (auto& [way, queue] : wires_) {
      if (way.first == n) queue.resize(cut(queue.size()));
      if (way.second == n) queue.clear();
    }
    for (auto& [way, queue] : held_back_) {
      if (way.first == n || way.second == n) queue.clear();
    }
    std::erase_if(pulls_, [&](const Pull& p) { return p.to == n; });
  }
  // What the controller does then. Each live node hears it with declare(n, who), in any order, and
  // the barrier closes when all that live have answered.
  void declare(uint16_t n, uint16_t who) {
    wires_[{n, who}].clear();   // fenced
    for (size_t i = pulls_.size(); i-- > 0;) {
      if (pulls_[i].from == n && pulls_[i].to == who) fail_pull(i);
    }
    store(who).peer_down(daemon(n), n, StoreHarness::now());
  }
  void declare(uint16_t n) {
    for (uint16_t who : alive_nodes()) declare(n, who);
  }
  bool reached(uint16_t n) {
    for (uint16_t who : alive_nodes()) if (!reached_.contains({n, who})) return false;
    return true;
  }
  void close_barrier(uint16_t n) {
    for (uint16_t who : alive_nodes()) store(who).barrier_closed(n);
  }
  void bury(uint16_t n) {
    declare(n);
    until([&] { return reached(n); });
    EXPECT_TRUE(reached(n));
    close_barrier(n);
  }

  // Tasks that a store wants to be run again, in the test's hands: maker_gone() or the results end
  // them. `choose` finds a process for them; unset: there is none.
  struct Handed { uint16_t by; ProcessId maker; TaskRecord record; };
  std::deque<Handed> handed;
  std::function<ProcessId(uint16_t by, const std::set<ProcessId>& tried)> choose;

  uint64_t pulls_done = 0;
  std::map<uint16_t, uint64_t> pulls_from, pulls_to;   // of chunks, by node
  std::map<std::string, uint64_t> told;            // messages, by name

 private:
  struct Item {
    std::optional<ObjectMessage> message;
    std::function<void()> record;
  };
  struct Pull {
    transport::PullId id;
    uint16_t from, to;
    transport::RemoteRange range;
    std::span<std::byte> into;
    transport::Fabric::OnPulled done;
    bool started = false;
  };

  void wire(uint16_t n, StoreOptions& o) {
    o.node = n;
    o.daemon = daemon(n);
    o.broadcast_bytes = settings_.broadcast_bytes;
    o.chunk_bytes = settings_.chunk_bytes;
    o.chunk_retry = std::chrono::milliseconds(0);
    o.tell = [this, n](ProcessId to, const ObjectMessage& message) {
      // Through the codec, as on a real wire.
      auto decoded = decode_object_message(wire::as_bytes(encode(message)));
      ASSERT_TRUE(decoded) << name_of(message);
      ++told[std::string(name_of(message))];
      if (alive(n) && alive(node_of(to))) wires_[{n, node_of(to)}].push_back({*decoded, {}});
    };
    o.pull = [this, n](ProcessId from, const transport::RemoteRange& range,
                       std::span<std::byte> into, transport::PullPriority,
                       transport::Fabric::OnPulled done) -> Result<transport::PullId> {
      if (!alive(node_of(from))) return Status(StatusCode::kDisconnected, "dead");
      pulls_.push_back({++last_pull_, node_of(from), n, range, into, std::move(done)});
      return last_pull_;
    };
    o.cancel_pull = [this](transport::PullId id) {
      std::erase_if(pulls_, [&](const Pull& p) { return p.id == id; });
    };
    o.find_maker = [this, n](JobId, const std::set<ProcessId>& tried) {
      return choose ? choose(n, tried) : kNoProcess;
    };
    o.hand_task = [this, n](ProcessId maker, const TaskRecord& record) {
      if (alive(n)) handed.push_back({n, maker, record});
    };
    o.barrier_reached = [this, n](uint64_t barrier) { reached_.insert({barrier, n}); };
    o.forward_ready = [this, n](ProcessId to) { ready_.emplace_back(n, node_of(to)); };
  }

  void deliver_from(std::pair<uint16_t, uint16_t> way) {
    Item item = std::move(wires_[way].front());
    wires_[way].pop_front();
    if (item.message) {
      Status s = store(way.second).on_peer(daemon(way.first), *item.message, StoreHarness::now());
      EXPECT_TRUE(s) << s.to_string();
    } else {
      item.record();
    }
    release_records();
  }
  void release_records() {
    for (auto [from, to] : std::exchange(ready_, {})) {
      auto& waiting = held_back_[{from, to}];
      while (!waiting.empty() && store(from).may_forward(daemon(to))) {
        wires_[{from, to}].push_back({std::nullopt, std::move(waiting.front())});
        waiting.pop_front();
      }
    }
  }
  void finish_pull(size_t i) {
    Pull p = std::move(pulls_[i]);
    pulls_.erase(pulls_.begin() + static_cast<ptrdiff_t>(i));
    Status status(StatusCode::kDisconnected, "dead");
    if (alive(p.from)) {
      transport::PeerId reader{p.to, 1};
      status = store(p.from).acquire(reader, p.range);
      if (status) {
        std::memcpy(p.into.data(), node(p.from).base() + p.range.offset, p.range.length);
        store(p.from).release(reader, p.range);
        ++pulls_done;
        ++pulls_from[p.from];
        ++pulls_to[p.to];
      }
    }
    p.done(status);
    release_records();
  }
  void fail_pull(size_t i) {
    Pull p = std::move(pulls_[i]);
    pulls_.erase(pulls_.begin() + static_cast<ptrdiff_t>(i));
    p.done({StatusCode::kDisconnected, "dead"});
  }

  Options settings_;
  std::map<std::pair<uint16_t, uint16_t>, std::deque<Item>> wires_;
  std::map<std::pair<uint16_t, uint16_t>, std::deque<std::function<void()>>> held_back_;
  std::vector<std::pair<uint16_t, uint16_t>> ready_;
  std::vector<Pull> pulls_;
  transport::PullId last_pull_ = 0;
  std::set<uint16_t> dead_;
  std::set<std::pair<uint64_t, uint16_t>> reached_;
  std::map<uint16_t, std::unique_ptr<StoreHarness>> nodes_;
};

}  // namespace sheaf::objstore
