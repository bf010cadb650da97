// Time, the network, and how nodes come and go.
#include "tests/sim/cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <functional>

#include "tests/sim/cluster_requests.h"

namespace sheaf::sim {

namespace {

constexpr uint64_t kEventLimit = 60'000'000;
constexpr Time kConnectionsBreak = 20ms;   // a dead daemon's peers notice within

std::pair<uint32_t, uint32_t> link(uint32_t a, uint32_t b) {
  return {std::min(a, b), std::max(a, b)};
}

}  // namespace

Cluster::Cluster(ClusterOptions options) : options_(options), random_(options.seed) {
  const auto count =
      options_.nodes ? options_.nodes : static_cast<uint32_t>(random_.between(2, 6));
  faults_on_ = options_.faults;
  stats_.nodes = count;
  for (uint32_t slot = 0; slot < count; ++slot) {
    auto node = std::make_unique<SimNode>();
    node->slot = slot;
    const uint64_t cpus = options_.tasks ? 8 : random_.between(1, 4);
    node->total = {{"CPU", static_cast<ResourceAmount>(cpus) * kResourceUnit}};
    if (slot == count - 1 || random_.one_in(3)) node->total["GPU"] = 2 * kResourceUnit;
    node->labels = {{"zone", slot % 2 ? "odd" : "even"}};
    nodes_.push_back(std::move(node));
  }
}

Cluster::~Cluster() = default;

Time Cluster::delay(uint64_t low_us, uint64_t high_us) {
  return std::chrono::microseconds(random_.between(low_us, high_us));
}

void Cluster::note(uint64_t a, uint64_t b, uint64_t c) {
  for (uint64_t value : {static_cast<uint64_t>(now_.count()), a, b, c}) {
    hash_ = (hash_ ^ value) * 0x100000001b3ull;
  }
  if (options_.trace) {
    std::fprintf(stderr, "%.6f %lu %lx %lx\n", static_cast<double>(now_.count()) * 1e-9,
                 static_cast<unsigned long>(a), static_cast<unsigned long>(b),
                 static_cast<unsigned long>(c));
  }
}

void Cluster::fail(const char* oracle, const std::string& what) {
  if (!oracle_.empty()) return;
  oracle_ = oracle;
  violation_ = fmt::format("{:.6f} s: {}", static_cast<double>(now_.count()) * 1e-9, what);
}

void Cluster::at(Time time, Work what) {
  queue_.push_back({std::max(time, now_), next_event_++, std::move(what)});
  std::push_heap(queue_.begin(), queue_.end(), std::greater<>());
}

// Things that happen on a node happen only while it runs; what comes due meanwhile waits.
void Cluster::at_node(const SimNode& node, Time time, std::function<void(SimNode&)> what) {
  at(time, [this, slot = node.slot, life = node.life, what = std::move(what)] {
    SimNode& self = *nodes_[slot];
    if (self.life != life || !self.up) return;
    if (self.paused_until > now_) return at_node(self, self.paused_until, what);
    if (alive_now(self)) what(self);
  });
}

// A node looks at its lease before it does anything; without one it ends.
bool Cluster::alive_now(SimNode& node) {
  if (!node.up) return false;
  if (!node.lease || !node.lease->expired(now_)) return true;
  note(4, node.number);
  stop_node(node, true);
  return false;
}

bool Cluster::run() {
  start_head();
  for (uint32_t slot = 1; slot < nodes_.size(); ++slot) start_node(slot);
  if (options_.tasks) start_submitters();
  for (uint64_t n = options_.tasks ? 0 : random_.between(2, 5); n > 0; --n) {
    const auto slot = static_cast<uint32_t>(random_.below(nodes_.size()));
    at(now_ + 200ms + delay(0, 300000), [this, slot] {
      SimNode& node = *nodes_[slot];
      if (node.member) start_driver(node);
    });
  }
  if (faults_on_) {
    const Time end = now_ + options_.fault_time;
    for (Time t = now_ + 300ms; t < end; t += delay(1000, 2 * options_.fault_pace / 1us)) {
      at(t, [this] { inject_fault(); });
    }
    if (nodes_.size() > 2 && random_.one_in(4)) {
      at(now_ + delay(300000, 4000000), [this] { part_two_members(); });
    }
    at(end, [this] {
      faults_on_ = false;
      for (auto& [pair, cut] : cuts_) {
        if (!cut.lasting) mend(pair.first, pair.second);
      }
      pump_all();
    });
  }
  const Time deadline = now_ + options_.patience;
  while (!queue_.empty() && oracle_.empty() && stats_.events < kEventLimit) {
    std::pop_heap(queue_.begin(), queue_.end(), std::greater<>());
    const Due next = std::move(queue_.back());
    queue_.pop_back();
    now_ = next.time;
    if (now_ > deadline) break;
    ++stats_.events;
    next.what();
    drain();
    // At rest when nobody has worked for longer than a lease, and nothing stands still any more.
    const Time least = options_.faults ? 12s : 3s;
    const bool working = faults_on_ || lasting_ > 0 || drivers_alive_ > 0 || !head().up;
    if (working || now_ < least) last_work_ = now_;
    if (now_ - last_work_ > 6s) break;
  }
  if (oracle_.empty()) check_end();
  return oracle_.empty();
}

// A scaling run begins when everybody is there.
void Cluster::start_submitters() {
  at(now_ + 100ms, [this] {
    const bool complete = std::all_of(nodes_.begin(), nodes_.end(),
                                      [](const auto& node) { return node->member; });
    if (!complete) return start_submitters();
    stats_ = {};
    stats_.nodes = nodes_.size();
    stats_.begun = now_ + 1s;
    const size_t count = options_.submitters ? options_.submitters : (nodes_.size() + 1) / 2;
    for (size_t i = 0; i < count; ++i) {
      at_node(*nodes_[i * nodes_.size() / count], stats_.begun,
              [this](SimNode& node) { start_driver(node); });
    }
  });
}

void Cluster::drain() {
  if (draining_) return;
  draining_ = true;
  while (!work_.empty()) {
    Work work = std::move(work_.front());
    work_.pop_front();
    work();
  }
  draining_ = false;
}

// ---- The network --------------------------------------------------------------------------------

SimNode* Cluster::by_number(uint16_t number) {
  auto it = numbers_.find(number);
  if (it == numbers_.end()) return nullptr;
  SimNode& node = *nodes_[it->second.first];
  return node.up && node.life == it->second.second ? &node : nullptr;
}

bool Cluster::cut(uint32_t a, uint32_t b) const {
  auto it = cuts_.find(link(a, b));
  return it != cuts_.end() && it->second.mended == Time{0};
}

void Cluster::send(SimNode& from, uint16_t to, size_t bytes,
                   std::function<void(SimNode&)> deliver) {
  SimNode* target = by_number(to);
  if (!target || from.gone.contains(to)) return;
  if (to == 1 && from.head_life != target->life) return;   // it knows of no such life yet
  ++stats_.messages;
  stats_.bytes += bytes;
  if (bytes > 0) {
    const bool with_head = from.number == 1 || to == 1;
    ++stats_.control_messages;
    stats_.head_messages += with_head;
    stats_.head_bytes += with_head ? bytes : 0;
  }
  const LifeKey source{from.slot, from.life}, goal{target->slot, target->life};
  Channel& channel = channels_[{source, goal}];
  channel.last = std::max(channel.last, now_ + delay(20, random_.one_in(20) ? 5000 : 300));
  channel.queue.emplace_back(channel.last, std::move(deliver));
  at(channel.last, [this, source, goal] { pump(source, goal); });
}

void Cluster::pump(const LifeKey& from, const LifeKey& to) {
  auto it = channels_.find({from, to});
  if (it == channels_.end()) return;
  SimNode& target = *nodes_[to.first];
  if (target.life != to.second || !target.up) {
    channels_.erase(it);
    return;
  }
  while (!it->second.queue.empty() && it->second.queue.front().first <= now_) {
    if (cut(from.first, to.first)) return;   // until it heals
    if (target.paused_until > now_) {
      at(target.paused_until, [this, from, to] { pump(from, to); });
      return;
    }
    if (!alive_now(target)) return;
    auto deliver = std::move(it->second.queue.front().second);
    it->second.queue.pop_front();
    // What a dead life had under way is dropped by whoever was told of its death.
    const SimNode& source = *nodes_[from.first];
    const bool unknown_head = from.first == 0 && target.head_life != from.second;
    uint16_t number = source.life == from.second ? source.number : uint16_t{0};
    if (number == 0) {
      for (const auto& [given, life] : numbers_) {
        if (life == from) number = given;
      }
    }
    if (!unknown_head && !target.gone.contains(number)) deliver(target);
    drain();
    it = channels_.find({from, to});
    if (it == channels_.end()) return;
  }
}

void Cluster::pump_all() {
  std::vector<std::pair<LifeKey, LifeKey>> keys;
  for (const auto& [key, channel] : channels_) keys.push_back(key);
  for (const auto& [from, to] : keys) pump(from, to);
}

// ---- Lives of nodes -----------------------------------------------------------------------------

void Cluster::start_node(uint32_t slot) {
  SimNode& node = *nodes_[slot];
  ++node.life;
  node.id = {1000 + slot, node.life};
  node.number = node.incarnation = 0;
  node.up = true;
  node.member = false;
  node.paused_until = {};
  node.lease.reset();
  node.agent.reset();
  node.tick_at.reset();
  node.gone.clear();
  node.agent_told.clear();
  node.silent_since.clear();
  node.complained = false;
  node.away = node.rejoining = false;
  node.head_life = 0;
  node.ledger = {};
  node.jobs.clear();
  node.next_process = 2;
  at_node(node, now_ + delay(100, 100000), [this](SimNode& self) { ask_number(self); });
}

// Over a connection of its own, before it has a place in the mesh: asks until it is answered.
void Cluster::ask_number(SimNode& node) {
  if (node.number != 0) return;
  if (!cut(0, node.slot) && head().up && head().paused_until <= now_) {
    NodeJoin join;
    join.node = node.id;
    join.hostname = "host";
    at_node(head(), now_ + delay(50, 500),
            [this, join](SimNode&) { to_controller(NodeAsks{join}); });
  }
  at_node(node, now_ + 200ms, [this](SimNode& self) { ask_number(self); });
}

void Cluster::join(SimNode& node) {
  NodeJoin join;
  join.node = node.id;
  join.number = node.number;
  join.incarnation = node.incarnation;
  join.hostname = "host";
  join.address = "host:1";
  join.total = node.total;
  join.labels = node.labels;
  add_what_lives(node, join);
  node.asked_at = now_;
  send(node, 1, 100, [this, join](SimNode&) { to_controller(NodeAsks{join}); });
}

void Cluster::heartbeat(SimNode& node) {
  if (!node.lease) return;
  if (auto sent_at = node.lease->heartbeat(now_)) {
    ++stats_.heartbeats;
    send(node, 1, 21, [this, number = node.number, incarnation = node.incarnation,
                       sent = *sent_at](SimNode&) {
      to_controller(NodeHeartbeat{number, incarnation, sent});
    });
    complain(node);
  }
  at_node(node, node.lease->next_tick(), [this](SimNode& self) { heartbeat(self); });
}

// The daemon's process ends, with all of its node: by kill -9, or because it lost its lease.
void Cluster::stop_node(SimNode& node, bool restart) {
  ++stats_.node_deaths;
  node.up = node.member = false;
  std::erase_if(processes_, [&](const auto& entry) {
    if (entry.second.slot != node.slot) return false;
    drivers_alive_ -= entry.second.driver;
    return true;
  });
  std::erase_if(tasks_, [&](const auto& entry) {
    return by_number(node_of(entry.second.owner)) == nullptr;
  });
  const NodeId id = node.id;
  const uint32_t slot = node.slot;
  // Its port refuses connections from now on, which the head sees unless it is cut off.
  at_node(head(), now_ + delay(100, 20000) + kConnectionsBreak, [this, id, slot](SimNode&) {
    if (cut(0, slot)) return;
    to_controller(NodeLost{id, {ErrorKind::kNodeDied, "connection refused", "", {}}});
  });
  if (restart) at(now_ + delay(1000, 500000), [this, slot] {
    if (!nodes_[slot]->up) start_node(slot);
  });
}

// The members that its connections do not reach: the head is told, again and again.
void Cluster::complain(SimNode& node) {
  if (cuts_.empty() || node.away) return;
  PeersSilent silent;
  const std::map<uint16_t, Time> before = std::exchange(node.silent_since, {});
  for (const auto& other : nodes_) {
    const bool known = other->slot != 0 && other->member && !node.gone.contains(other->number);
    if (!known || !cut(node.slot, other->slot)) continue;
    auto old = before.find(other->number);
    const Time since = old == before.end() ? now_ : old->second;
    node.silent_since[other->number] = since;
    check_parting(node, other->number, since);
    if (now_ >= since + NodeLeaseConfig{}.lease_time / 2) silent.numbers.push_back(other->number);
  }
  const bool again = std::exchange(node.complained, !silent.numbers.empty());
  if (node.complained || again) tell_head(node, FromNode{node.id, silent}, 20);
}

void Cluster::sever(uint32_t a, uint32_t b) {
  auto [it, first] = cuts_.try_emplace(link(a, b), Cut{now_, {}, false});
  if (first || it->second.mended == Time{0}) return;
  // So short a time in between is seen by nobody.
  if (now_ - it->second.mended > 500ms) it->second.since = now_;
  it->second.mended = {};
}

void Cluster::mend(uint32_t a, uint32_t b) {
  auto it = cuts_.find(link(a, b));
  if (it == cuts_.end() || it->second.mended != Time{0} || it->second.lasting) return;
  it->second.mended = now_;
}

// For longer than anybody may wait for the other. Both still reach the head.
void Cluster::part_two_members() {
  const auto a = static_cast<uint32_t>(random_.between(1, nodes_.size() - 1));
  const auto b = static_cast<uint32_t>(random_.between(1, nodes_.size() - 1));
  if (a == b) return;
  ++stats_.faults;
  ++stats_.partings;
  note(5, a, b);
  sever(a, b);
  cuts_.at(link(a, b)).lasting = true;
  ++lasting_;
  at(now_ + delay(1000000, 25000000), [this, a, b] {
    cuts_.at(link(a, b)).lasting = false;
    mend(a, b);
    --lasting_;
    pump_all();
  });
}

// For a while, as an operator would who thinks better of it.
void Cluster::drain_somebody(uint32_t slot) {
  const uint16_t number = nodes_[slot]->number;
  to_controller(DrainAsked{number, true});
  at(now_ + delay(20000, 1500000), [this, number] { end_drain(number); });
}

void Cluster::end_drain(uint16_t number) {
  const bool there = head().up && head().paused_until <= now_ &&
                     !controller_->node_with(number).is_nil();
  if (there) return to_controller(DrainAsked{number, false});
  if (by_number(number)) at(now_ + 500ms, [this, number] { end_drain(number); });
}

void Cluster::inject_fault() {
  ++stats_.faults;
  const uint64_t kind = random_.below(20);
  const auto slot = static_cast<uint32_t>(random_.below(nodes_.size()));
  SimNode& node = *nodes_[slot];
  note(3, kind, slot);
  if (kind == 0 && slot != 0 && node.up) return stop_node(node, true);
  if (kind == 1) {   // stands still; now and then for longer than its lease
    node.paused_until = now_ + delay(1000, random_.one_in(3) && slot != 0 ? 6000000 : 600000);
    return;
  }
  if (kind == 2 || kind == 3) {   // a link, or all of a node's
    const auto other = static_cast<uint32_t>(random_.below(nodes_.size()));
    std::vector<std::pair<uint32_t, uint32_t>> links;
    for (uint32_t i = 0; i < nodes_.size(); ++i) {
      if (i != slot && (kind == 3 || i == other)) links.push_back(link(slot, i));
    }
    for (const auto& pair : links) sever(pair.first, pair.second);
    at(now_ + delay(10000, random_.one_in(2) ? 5000000 : 500000), [this, links] {
      for (const auto& pair : links) mend(pair.first, pair.second);
      pump_all();
    });
    return;
  }
  if (kind == 6 && node.member && head().up && head().paused_until <= now_) {
    return drain_somebody(slot);
  }
  if (kind == 7 && random_.one_in(3)) return crash_head();
  if (kind == 4 && node.member && drivers_started_ < 12) return start_driver(node);
  std::vector<ProcessId> victims;
  for (const auto& [id, p] : processes_) {
    if (p.alive && p.driver == (kind == 5)) victims.push_back(id);
  }
  if (!victims.empty()) kill_process(victims[random_.below(victims.size())]);
}

// ---- Timers -------------------------------------------------------------------------------------

void Cluster::tick(SimNode& node) {
  if (!node.agent) return;
  const std::optional<Time> next = node.agent->next_tick();
  if (!next) return;
  const Time due = std::max(*next, now_);
  if (node.tick_at && *node.tick_at <= due) return;
  node.tick_at = due;
  at_node(node, due, [this, due](SimNode& self) {
    if (self.tick_at != due) return;
    self.tick_at.reset();
    to_agent(self, Tick{});
  });
}

void Cluster::tick_controller() {
  if (!controller_) return;
  const std::optional<Time> next = controller_->next_tick();
  if (!next) return;
  const Time due = std::max(*next, now_);
  if (controller_tick_ && *controller_tick_ <= due) return;
  controller_tick_ = due;
  at_node(head(), due, [this, due](SimNode&) {
    if (controller_tick_ != due) return;
    controller_tick_.reset();
    to_controller(ControllerTick{});
  });
}

void Cluster::sync_journal() {
  if (std::exchange(sync_planned_, true)) return;
  at_node(head(), now_ + delay(50, 500), [this](SimNode&) {
    sync_planned_ = false;
    journal_->sync(random_.between(1, 8));
    if (journal_->unsynced() > 0) sync_journal();
  });
}

}  // namespace sheaf::sim
