#include "tests/checker_objects/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace sheaf::objstore::checker {
namespace {

constexpr uint64_t kBytes = 9000;   // of object 0, where it is not small

std::string loss_text(LossCause cause, const ObjectId&) {
  return std::string(1, static_cast<char>('0' + static_cast<int>(cause)));
}

Locator at(ProcessId daemon, uint32_t generation) {
  return {node_of(daemon), 0, MemoryKind::kHost, generation, 64, kBytes};
}

}  // namespace

std::string to_text(const Step& s) {
  static constexpr const char* kNames[] = {
      "deliver {0} -> {1}", "pull {0} ends", "node {0} looks again for {2}",
      "the controller declares {0} dead", "node {0} finds nobody at the head's address",
      "the head is started again", "node {0} registers again", "all are back",
      "process {0} drops {2}", "process {0} gives {2} to {1}", "process {0} calls {1} with {2}",
      "process {0} keeps the argument {2}", "process {0} returns", "process {0} gets {2}",
      "process {0} reads what is in 0", "node {0} evicts 0", "node {0} dies"};
  return fmt::format(fmt::runtime(kNames[s.kind]), s.a, s.b, s.object);
}

Model::Model(const Config& config)
    : members_(config.nodes), count_(config.nodes), broadcast_(config.broadcast) {
  left_ = {static_cast<int8_t>(config.sends), static_cast<int8_t>(config.calls),
           static_cast<int8_t>(config.keeps), static_cast<int8_t>(config.gets),
           static_cast<int8_t>(config.decodes), static_cast<int8_t>(config.evictions),
           static_cast<int8_t>(config.crashes), static_cast<int8_t>(config.heads)};
  for (int n = 1; n <= count_; ++n) {
    nodes_[n] = std::make_shared<Node>(Node{NodeTable(loss_text, daemon(n)), {}, 0, {}});
    NodeTable& t = nodes_[n]->table;
    Actions none;
    t.table().process_joined(process(n));
    if (broadcast_) t.set_broadcast(1, 1, kBytes / 8);
    for (int m = 1; m <= count_; ++m) if (m != n) t.peer_up(daemon(m), none);
  }
  homes_ = {config.home, std::max(config.inner_home, 1)};
  for (int o = 0; o < kObjects; ++o)
    ids_[o] = ObjectId::make(process(homes_[o]), static_cast<uint64_t>(o) + 1);
  begin(config);
}

// Object 1 is made, and what object 0 is made of comes to its maker.
void Model::begin(const Config& config) {
  std::vector<ObjectId> inner;
  Actions out;
  int maker = config.maker != 0 ? config.maker : config.home;
  if (config.inner_home != 0) {
    objects_ = 2;
    int home = config.inner_home;
    inner.push_back(ids_[1]);
    change(home).table.publish(process(home), ids_[1], ValueState::kInline, "i", {}, out);
    processes_[home].refs[1] = 1;
    perform(home, out);
    if (maker != home) {
      ++left_.sends;
      apply({kSend, static_cast<uint8_t>(home), static_cast<uint8_t>(maker), 1});
    }
    deliver_all();
  }
  processes_[config.home].refs[0] = 1;
  Node& node = change(maker);
  if (config.maker == 0) {
    node.table.publish(process(maker), ids_[0], ValueState::kInline, "v", inner, out);
  } else {
    Locator locator = at(daemon(maker), ++node.last_generation);
    node.arena.push_back({locator.generation, true, 0});
    node.table.table().seal(process(maker), ids_[0], locator, process(config.home), inner, out);
  }
  perform(maker, out);
  deliver_all();
}

void Model::deliver_all() {
  for (;;) {
    std::vector<Step> next = steps();
    if (next.empty() || next[0].kind != kDeliver) return;
    apply(next[0]);
  }
}

Model::Node& Model::change(int n) {
  if (nodes_[n].use_count() > 1) nodes_[n] = std::make_shared<Node>(*nodes_[n]);
  nodes_[n]->hash.reset();
  return *nodes_[n];
}

const Model::Extent* Model::find(const Node& node, uint32_t generation) {
  for (const Extent& e : node.arena) if (e.generation == generation) return &e;
  return nullptr;
}

// ---- What may happen ----------------------------------------------------------------------------

std::vector<Step> Model::steps() const {
  std::vector<Step> out;
  auto add = [&](StepKind kind, int a, int b = 0, int object = 0) {
    out.push_back({kind, static_cast<uint8_t>(a), static_cast<uint8_t>(b),
                   static_cast<uint8_t>(object)});
  };
  for (int a = 1; a <= count_; ++a) {
    for (int b = 1; b <= count_; ++b) if (!wires_[a][b].empty()) add(kDeliver, a, b);
  }
  for (size_t i = 0; i < pulls_.size(); ++i)
    if (may_end(pulls_[i])) add(kEndPull, static_cast<int>(i));
  for (int n = 1; n <= count_; ++n) {
    for (int o = 0; o < objects_; ++o) if (retries_[n][o]) add(kRetry, n, 0, o);
    if (dead_[n] && !declared_[n] && has_controller()) add(kDeclare, n);
  }
  if (dead_[1] && !restored_) add_head_steps(out);
  for (int n = 1; n <= count_; ++n) if (alive(n)) add_choices(n, out);
  return out;
}

// Not while its source waits for the bytes itself.
bool Model::may_end(const Pull& pull) const {
  const Extent* source = find(*nodes_[pull.from], pull.remote.generation);
  return !alive(pull.from) || source == nullptr || source->whole;
}

int Model::calls_under_way(int n, int object) const {
  int calls = 0;
  for (uint8_t c : processes_[n].calls[object]) calls += c;
  return calls;
}

void Model::add_choices(int n, std::vector<Step>& out) const {
  auto add = [&](StepKind kind, int a, int b = 0, int object = 0) {
    out.push_back({kind, static_cast<uint8_t>(a), static_cast<uint8_t>(b),
                   static_cast<uint8_t>(object)});
  };
  const Process& p = processes_[n];
  for (int o = 0; o < objects_; ++o) {
    bool needed = calls_under_way(n, o) > 0 || p.waits[o];   // who waits for it, or lent it, has it
    if (p.refs[o] > (needed ? 1 : 0)) add(kDrop, n, 0, o);
    if (p.refs[o] > 0 && left_.gets > 0 && !p.waits[o]) add(kGet, n, 0, o);
    bool task = std::any_of(p.tasks.begin(), p.tasks.end(),
                            [&](const Task& t) { return t.object == o; });
    for (int m = 1; m <= count_; ++m) {
      if (m == n || !can_reach(n, m)) continue;
      if (p.refs[o] > 0 && left_.sends > 0) add(kSend, n, m, o);
      if (p.refs[o] > 0 && left_.calls > 0) add(kCall, n, m, o);
    }
    if (task && left_.keeps > 0) add(kKeep, n, 0, o);
  }
  if (p.refs[0] > 0 && objects_ == 2 && left_.decodes > 0 && !excused_[0]) add(kDecode, n);
  if (!p.tasks.empty()) add(kFinish, n);
  const ObjectTable::Entry* e = table(n).table().find(ids_[0]);
  if (left_.evictions > 0 && e != nullptr && e->in_arena() && e->foreign && e->kept == 0)
    add(kEvict, n);
  if (n <= members_ && (n == 1 ? left_.heads : left_.crashes) > 0) add(kCrash, n);
}

void Model::apply(const Step& s) {
  switch (s.kind) {
    case kDeliver: deliver(s.a, s.b); break;
    case kEndPull: end_pull(s.a); break;
    case kDeclare: declare(s.a); break;
    case kLoseHead: lose_head(s.a); break;
    case kNextHead: begin_next_head(); break;
    case kRejoin: rejoin(s.a); break;
    case kAllBack: end_restoring(); break;
    case kEvict: evict(s.a); break;
    case kCrash: crash(s.a); break;
    default: act(s); break;
  }
  close_what_all_reached();
  if (violation_.empty()) check();
}

// A process does something.
void Model::act(const Step& s) {
  Process& p = processes_[s.a];
  const ObjectId id = ids_[s.object];
  Actions out;
  switch (s.kind) {
    case kRetry:
      retries_[s.a][s.object] = false;
      change(s.a).table.retry(id, out);
      break;
    case kDrop:
      --p.refs[s.object];
      change(s.a).table.hold(process(s.a), 0, {}, {&id, 1}, out);
      break;
    case kSend:
      --left_.sends;
      change(s.a).table.hold(process(s.a), process(s.b), {&id, 1}, {}, out);
      perform(s.a, out);
      record(s.a, s.b, RecordKind::kGive, s.object);
      break;
    case kCall:
      --left_.calls;
      ++p.calls[s.object][s.b];
      record(s.a, s.b, RecordKind::kArgument, s.object);
      break;
    case kKeep:
      --left_.keeps;
      ++p.refs[s.object];
      change(s.a).table.hold(process(s.a), 0, {&id, 1}, {}, out);
      break;
    case kFinish: {
      Task task = p.tasks.front();
      p.tasks.erase(p.tasks.begin());
      record(s.a, task.from, RecordKind::kReply, task.object);
      break;
    }
    case kGet:
      --left_.gets;
      p.waits[s.object] = true;
      change(s.a).table.table().subscribe(process(s.a), {&id, 1}, true, out);
      break;
    case kDecode:
      --left_.decodes;
      ++p.refs[1];
      change(s.a).table.hold(process(s.a), 0, {&ids_[1], 1}, {}, out);
      break;
    default: break;
  }
  perform(s.a, out);
}

void Model::deliver(int from, int to) {
  Wire& wire = wires_[from][to];
  Item item = wire.front();
  wire.erase(wire.begin());
  Process& p = processes_[to];
  switch (item.record) {
    case RecordKind::kNone: {
      Actions out;
      change(to).table.on_message(daemon(from), item.message->message, out);
      return perform(to, out);
    }
    case RecordKind::kGive: ++p.refs[item.object]; return;
    case RecordKind::kArgument:
      return p.tasks.push_back({static_cast<uint8_t>(from), item.object});
    case RecordKind::kReply: --p.calls[item.object][from]; return;
    case RecordKind::kReached: reached_[item.object][from] = true; return;
    case RecordKind::kGone: return hear_of(to, item.object, from);
    case RecordKind::kClosed: return close(to, item.object, from);
    case RecordKind::kView: {
      Actions out;
      change(to).table.peer_up(daemon(from), out);
      return perform(to, out);
    }
  }
}

void Model::end_pull(size_t i) {
  Pull pull = pulls_[i];
  pulls_.erase(pulls_.begin() + static_cast<ptrdiff_t>(i));
  Status status;
  Node& node = change(pull.to);
  if (!alive(pull.from)) status = {StatusCode::kDisconnected, "dead"};
  else if (find(*nodes_[pull.from], pull.remote.generation) == nullptr)
    status = {StatusCode::kNotFound, "gone"};
  auto extent = std::find_if(node.arena.begin(), node.arena.end(),
                             [&](const Extent& e) { return e.generation == pull.local; });
  if (status) extent->whole = true;
  else if (!broadcast_) node.arena.erase(extent);   // else it goes on where it was
  Actions out;
  node.table.pulled(ids_[pull.object], status, at(daemon(pull.to), pull.local), out);
  perform(pull.to, out);
}

void Model::evict(int n) {
  --left_.evictions;
  if (wounded_[0] && !at_rest()) {   // it may be the last one, before its node hears that it is
    bool others = false;
    for (int m = 1; m <= count_; ++m) others = others || (m != n && alive(m) && has_value(m, 0));
    if (!others) excused_[0] = true;
  }
  Actions out;
  change(n).table.table().evicted(ids_[0], out);
  perform(n, out);
}

// ---- Deaths -------------------------------------------------------------------------------------

// What it had sent may still arrive, until the receiver hears of its death.
void Model::crash(int n) {
  --(n == 1 ? left_.heads : left_.crashes);
  ByObject<bool> had{};
  for (int o = 0; o < objects_; ++o) had[o] = has_value(n, o);
  dead_[n] = true;
  processes_[n] = {};
  for (int m = 1; m <= count_; ++m) {
    wires_[m][n].clear();
    held_back_[m][n].clear();
    lose(held_back_[n][m]);
  }
  std::erase_if(pulls_, [&](const Pull& p) { return p.to == n; });
  retries_[n] = {};
  for (int o = 0; o < objects_; ++o) {
    wounded_[o] = wounded_[o] || had[o];
    if (!available(o)) excused_[o] = true;
  }
  nodes_[n] = std::make_shared<Node>(Node{NodeTable(loss_text, daemon(n)), {}, 0, {}});
}

void Model::lose(Wire& wire) {
  for (const Item& item : wire) lost_records_ |= item.record == RecordKind::kGive;
  wire.clear();
}

// Nobody can tell the head anything that he knows of it before the head does.
void Model::declare(int dead) {
  declared_[dead] = true;
  reached_[dead] = {};
  hear_of(head_, dead, head_);
  for (int n = 2; n <= count_; ++n) {
    if (alive(n) && n != head_)
      wires_[head_][n].push_back({nullptr, RecordKind::kGone, static_cast<uint8_t>(dead)});
  }
}

void Model::forget_processes_of(int n, int dead) {
  lose(wires_[dead][n]);   // fenced
  Process& p = processes_[n];
  for (auto& calls : p.calls) calls[dead] = 0;
  std::erase_if(p.tasks, [&](const Task& t) { return t.from == dead; });
}

void Model::hear_of(int n, int dead, int from) {
  heard_[dead][n] = true;
  forget_processes_of(n, dead);
  Actions out;
  change(n).table.peer_down(daemon(dead), barrier_of(dead, from), out);
  perform(n, out);
}

void Model::close_what_all_reached() {
  if (!has_controller()) return;
  for (int k = 1; k <= count_; ++k) {
    if (!declared_[k] || closing_[k]) continue;
    bool all = true;
    for (int n = 1; n <= count_; ++n) all = all && (declared_[n] || reached_[k][n]);
    if (!all) continue;
    closing_[k] = true;
    for (int n = 2; n <= count_; ++n) {
      if (alive(n) && n != head_)
        wires_[head_][n].push_back({nullptr, RecordKind::kClosed, static_cast<uint8_t>(k)});
    }
    close(head_, k, head_);
    k = 0;   // that may have been what another waited for
  }
}

void Model::close(int n, int dead, int from) {
  Actions out;
  change(n).table.barrier_closed(barrier_of(dead, from), out);
  perform(n, out);
}

// ---- The head's death and next life -------------------------------------------------------------

bool Model::can_reach(int n, int m) const {
  if (m == 1 && lost_[n]) return false;
  if (head_ == 1) return true;
  if (n == head_) return rejoined_[m];
  return m != head_ || table(n).is_up(daemon(head_));
}

void Model::add_head_steps(std::vector<Step>& out) const {
  if (head_ == 1) out.push_back({kNextHead});
  bool all = head_ != 1;
  for (int n = 2; n <= members_; ++n) {
    if (!alive(n)) continue;
    if (!lost_[n]) out.push_back({kLoseHead, static_cast<uint8_t>(n)});
    else if (head_ != 1 && !rejoined_[n]) out.push_back({kRejoin, static_cast<uint8_t>(n)});
    all = all && rejoined_[n];
  }
  if (all) out.push_back({kAllBack});
}

void Model::lose_head(int n) {
  lost_[n] = true;
  forget_processes_of(n, 1);
  Actions out;
  change(n).table.peer_away(daemon(1), out);
  perform(n, out);
}

void Model::begin_next_head() {
  head_ = ++count_;
  nodes_[head_] = std::make_shared<Node>(Node{NodeTable(loss_text, daemon(head_)), {}, 0, {}});
  NodeTable& t = nodes_[head_]->table;
  t.table().process_joined(process(head_));
  if (broadcast_) t.set_broadcast(1, 1, kBytes / 8);
}

void Model::rejoin(int n) {
  rejoined_[n] = true;
  Actions out;
  change(head_).table.peer_up(daemon(n), out);
  perform(head_, out);
  wires_[head_][n].push_back({nullptr, RecordKind::kView, 0});
}

// First that this is the head now; then deaths of the last life that not all had reached.
void Model::end_restoring() {
  restored_ = true;
  declare(1);
  for (int k = 2; k <= members_; ++k) {
    if (dead_[k] && !closing_[k]) declare(k);
  }
}

// ---- A daemon's service -------------------------------------------------------------------------

// Performs what the tables ask for, and lets them free as early as they may.
void Model::perform(int n, Actions& actions) {
  constexpr int kRoundsMax = 50;
  for (int round = 0; round < kRoundsMax; ++round) {
    change(n).table.digest(actions);
    std::vector<ObjectId> lost;
    bool ready = false;
    for (size_t i = 0; i < actions.size(); ++i) perform_one(n, actions[i], lost, ready);
    Actions more;
    for (Action& a : actions) {
      if (auto* pull = std::get_if<StartPull>(&a)) start_pull(n, *pull, more);
    }
    actions = std::move(more);
    drop_abandoned(n);
    if (ready) release_records(n);
    for (const ObjectId& id : lost) give_up(n, id, actions);
    bool again = change(n).table.table().quiesce(actions);
    if (!again && actions.empty()) return;
  }
  fail("NoHang", fmt::format("node {} does not come to rest", n));
}

void Model::perform_one(int n, Action& action, std::vector<ObjectId>& lost, bool& ready) {
  if (auto* notify = std::get_if<NotifyReady>(&action)) {
    answer(n, *notify);
    const ObjectEvent& e = notify->event;
    if (e.state == ValueState::kError && e.id.process() == process(n)) lost.push_back(e.id);
  } else if (auto* extent = std::get_if<FreeExtent>(&action)) {
    auto& arena = change(n).arena;
    bool there = std::erase_if(arena, [&](const Extent& e) {
      return e.generation == extent->locator.generation;
    }) > 0;
    if (!there) fail("OneOwner", fmt::format("node {} frees bytes twice", n));
  } else if (auto* tell = std::get_if<Tell>(&action)) {
    send(n, index_of(tell->to), std::move(tell->message));
  } else if (auto* later = std::get_if<RetryLater>(&action)) {
    retries_[n][index_of(later->id)] = true;
  } else if (auto* barrier = std::get_if<BarrierReached>(&action)) {
    auto dead = static_cast<uint8_t>(barrier->barrier);
    if (!has_controller() || barrier_of(dead, head_) != barrier->barrier) return;   // nobody asks
    if (n == head_) reached_[dead][n] = true;
    else wires_[n][head_].push_back({nullptr, RecordKind::kReached, dead});
  } else if (std::holds_alternative<ForwardReady>(action)) {
    ready = true;
  }
}

// Where objects are read while they come, room is taken now and others hear of it.
void Model::start_pull(int n, const StartPull& pull, Actions& actions) {
  Node& node = change(n);
  auto object = static_cast<uint8_t>(index_of(pull.id));
  Pull started{static_cast<uint8_t>(index_of(pull.from)), static_cast<uint8_t>(n), object,
               pull.locator, 0};
  for (const Extent& e : node.arena) {
    if (!e.whole && e.object == object) started.local = e.generation;
  }
  if (started.local == 0) {
    started.local = ++node.last_generation;
    node.arena.push_back({started.local, false, object});
    if (broadcast_) node.table.pull_started(pull.id, at(daemon(n), started.local), actions);
  }
  pulls_.push_back(started);
}

// What came of an object whose source has failed, when nobody waits for it any more.
void Model::drop_abandoned(int n) {
  auto abandoned = [&](const Extent& e) {
    bool pulling = std::any_of(pulls_.begin(), pulls_.end(), [&](const Pull& p) {
      return p.to == n && p.local == e.generation;
    });
    return !e.whole && !pulling && !table(n).fetches().contains(ids_[e.object]);
  };
  const auto& arena = nodes_[n]->arena;
  if (std::any_of(arena.begin(), arena.end(), abandoned)) std::erase_if(change(n).arena, abandoned);
}

// Nobody makes it again here: its maker says so.
void Model::give_up(int n, const ObjectId& id, Actions& actions) {
  NodeTable& t = change(n).table;
  if (wounded_[index_of(id)]) excused_[index_of(id)] = true;
  const ObjectTable::Entry* e = t.table().find(id);
  bool before = e != nullptr && !e->publishers.empty();
  t.publish(process(n), id, ValueState::kError, "given up", {}, actions);
  if (!before) t.hold(process(n), 0, {}, {&id, 1}, actions);
}

void Model::answer(int n, const NotifyReady& ready) {
  const ObjectEvent& e = ready.event;
  if (e.state == ValueState::kPending) return;
  int o = index_of(e.id);
  processes_[n].waits[o] = false;
  bool told_to_make_it_again = wounded_[o] && e.id.process() == process(n);
  if (e.state == ValueState::kError && !excused_[o] && !told_to_make_it_again)
    fail("NoDangling", fmt::format("process {} gets an error for {}", n, o));
  if (e.state != ValueState::kArena) return;
  const Extent* extent = find(*nodes_[n], e.locator.generation);
  if (e.locator.node != node_of(daemon(n)) || extent == nullptr || !extent->whole)
    fail("NoDangling", fmt::format("process {} is sent to bytes that are not there", n));
}

void Model::record(int from, int to, RecordKind kind, int object) {
  if (!alive(to)) return;
  Item item{nullptr, kind, static_cast<uint8_t>(object)};
  if (!held_back_[from][to].empty() || !change(from).table.may_forward(daemon(to)))
    held_back_[from][to].push_back(item);
  else
    wires_[from][to].push_back(item);
}

void Model::release_records(int from) {
  for (int to = 1; to <= count_; ++to) {
    Wire& waiting = held_back_[from][to];
    while (!waiting.empty() && change(from).table.may_forward(daemon(to))) {
      wires_[from][to].push_back(waiting.front());
      waiting.erase(waiting.begin());
    }
  }
}

}  // namespace sheaf::objstore::checker
