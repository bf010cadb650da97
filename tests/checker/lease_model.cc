#include "tests/checker/lease_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace sheaf::scheduler {

// What the controller will do, with times counted from now.
class ControllerTestAccess {
 public:
  template <class Number>
  static void feed(const Controller& c, Time now, Number number) {
    const auto time = [&](Time at) { number((at - now).count()); };
    number(c.boot_);
    number(c.boot_durable_);
    number(c.last_number_);
    number(c.restoring_);
    for (const auto& timer : c.timers_) {
      const bool of_node = timer.kind == Controller::Timer::Kind::kNode;
      const auto subject = static_cast<uint16_t>(timer.hi);
      if (of_node && !c.numbers_.contains(subject) && !c.expected_.contains(subject)) continue;
      if (!of_node && timer.kind != Controller::Timer::Kind::kRestoring) continue;
      time(timer.at);
      number(static_cast<int64_t>(timer.hi));
    }
    number(-1);
    for (const auto& [id, info] : c.nodes_) {
      number(info.number);
      number(info.incarnation);
      number(static_cast<int64_t>(info.placing.size()));
      if (!info.local) time(info.heard);
    }
    for (const auto& [given, expected] : c.expected_) {
      number(given);
      number(static_cast<int64_t>(expected.node.hi * 16 + expected.node.lo));
      number(expected.incarnation);
      number(expected.journal_pending != 0);
      time(expected.since);
    }
    for (const auto& [id, barrier] : c.barriers_) {
      number(static_cast<int64_t>(id));
      for (const NodeId& node : barrier.awaited) number(static_cast<int64_t>(node.hi));
    }
    for (const auto& [id, actor] : c.actors_) {
      number(static_cast<int64_t>(actor.state));
      number(actor.incarnation);
      number(static_cast<int64_t>(actor.node.hi));
      number(static_cast<int64_t>(actor.process));
      number(actor.journal_pending != 0);
      number(c.unplaced_.contains(id) | c.unconfirmed_.contains(id) << 1);
    }
    number(static_cast<int64_t>(c.pending_.size()));
  }
};

}  // namespace sheaf::scheduler

namespace sheaf::checker {

namespace {

constexpr Time kStep = std::chrono::seconds(1);
constexpr Time kLease = 5 * kStep;
constexpr Time kNever = std::chrono::hours(1000);
constexpr NodeId kHead{1, 1};
constexpr uint16_t kHeadNumber = 1;
const ProcessId kDriver = make_process(1, 1, 5);
const ActorId kActor{kDriver, 1};

ControllerConfig config() {
  ControllerConfig out;
  out.lease_time = kLease;
  out.view_interval = out.warn_interval = out.holder_grace = kNever;
  return out;
}

constexpr const char* kNames[] = {"time",   "up",        "down", "pause", "wake", "kill",
                                  "notice", "come back", "sync", "the head stands still",
                                  "the head goes on", "the head crashes, batches left:"};

}  // namespace

std::string to_text(const LeaseStep& step) {
  return fmt::format("{} {}", kNames[static_cast<size_t>(step.act)], step.which);
}

LeaseModel::LeaseModel(const LeasePlan& plan)
    : plan_(&plan), controller_(config()), steps_(plan.steps), pauses_(plan.pauses),
      head_pauses_(plan.head_pauses), kills_(plan.kills), crashes_(plan.crashes),
      lives_(plan.lives) {
  start_head({});
  while (!journal_.empty()) sync();
  create_actor();
  for (size_t i = 0; i < kNodes; ++i) {
    nodes_[i].up = i < plan.nodes;
    if (!nodes_[i].up) continue;
    contact(i);
    for (int n = 0; n < 8 && (plan.joined || i == 0); ++n) {
      read(i);
      while (!journal_.empty()) sync();
      receive(i);
    }
  }
}

void LeaseModel::fail(const char* invariant, const std::string& what) {
  if (violation_.empty()) violation_ = fmt::format("{}: {}", invariant, what);
}

// ---- The head -----------------------------------------------------------------------------------

void LeaseModel::start_head(const std::vector<JournalRecord>& records) {
  controller_ = Controller(config());
  for (const std::string& strange : controller_.restore(records)) fail("JournalPrefix", strange);
  for (const ControllerAction& action : controller_.start(now_)) perform(action);
  tell(NodeJoined{kHead, {}, {}, "", "", kHeadNumber, 0});
  settle();
}

void LeaseModel::create_actor() {
  tell(ClientJoined{kDriver, protocol::ClientKind::kDriver, 0});
  tell(From<protocol::RegisterJob>{kDriver, 1, {}});
  protocol::ActorSpec spec;
  spec.actor = kActor;
  spec.detached = true;
  spec.name = "actor";
  spec.max_restarts = -1;
  spec.placement.resources = {{"slot", kResourceUnit}};
  tell(From<protocol::ActorCreate>{kDriver, 2, {spec}});
  settle();
  while (!journal_.empty()) sync();
}

// Its connections end with it: what was under way is lost, and nodes that live turn to the next.
void LeaseModel::crash_head(size_t kept) {
  for (size_t n = 0; n < kept; ++n) apply_batch(journal_[n]);
  journal_.clear();
  later_.clear();
  opened_.clear();
  head_paused_ = false;
  for (Node& node : nodes_) {
    node.sent.clear();
    node.coming.clear();
    node.asked = false;
  }
  std::vector<JournalRecord> records;
  for (const auto& [key, value] : disk_) records.push_back({key.first, key.second, value});
  start_head(records);
  for (size_t i = 0; i < kNodes; ++i) {
    if (nodes_[i].up) contact(i);
  }
}

void LeaseModel::apply_batch(const Batch& batch) {
  for (const JournalRecord& record : batch.records) {
    if (record.value) disk_[{record.kind, record.key}] = *record.value;
    else disk_.erase({record.kind, record.key});
  }
}

void LeaseModel::sync() {
  const Batch batch = std::move(journal_.front());
  journal_.pop_front();
  apply_batch(batch);
  tell(JournalSynced{{batch.sequence, {}}});
  settle();
}

void LeaseModel::tick() {
  if (auto due = controller_.next_tick(); due && *due <= now_) tell(ControllerTick{});
  settle();
}

void LeaseModel::settle() {
  while (!later_.empty()) {
    const ControllerEvent next = std::move(later_.front());
    later_.pop_front();
    for (const ControllerAction& action : controller_.handle(next, now_)) perform(action);
    while (!plan_->slow_disk && !journal_.empty() && later_.empty()) {
      const Batch batch = std::move(journal_.front());
      journal_.pop_front();
      apply_batch(batch);
      tell(JournalSynced{{batch.sequence, {}}});
    }
  }
}

void LeaseModel::perform(const ControllerAction& action) {
  const auto forward = [&](const NodeId& node) {
    for (size_t i = 0; i < kNodes; ++i) {
      if (nodes_[i].up && id_of(i) == node) nodes_[i].coming.push_back(action);
    }
  };
  if (const auto* append = std::get_if<AppendJournal>(&action)) {
    journal_.push_back({append->sequence, append->records});
  } else if (const auto* fence = std::get_if<FenceNode>(&action)) {
    declared(*fence);
  } else if (const auto* renew = std::get_if<RenewLease>(&action)) {
    forward(renew->node);
  } else if (const auto* refused = std::get_if<NodeRefused>(&action)) {
    forward(refused->node);
  } else if (const auto* accepted = std::get_if<NodeAccepted>(&action)) {
    auto [known, first] = given_.try_emplace(accepted->number, accepted->node);
    if (known->second != accepted->node) {
      fail("NumbersUnique", fmt::format("number {} is given out again", accepted->number));
    }
    forward(accepted->node);
  } else if (const auto* message = std::get_if<ToNode>(&action)) {
    pass_on(*message, action);
  }
}

void LeaseModel::pass_on(const ToNode& message, const ControllerAction& action) {
  if (const auto* closed = std::get_if<BarrierClosed>(&message.message)) closes(*closed);
  const auto* gone = std::get_if<NodeGone>(&message.message);
  if (message.number == kHeadNumber) {
    if (gone) tell(FromNode{kHead, BarrierReached{gone->barrier}});
    return;
  }
  const bool for_actor = std::holds_alternative<PlaceActor>(message.message) ||
                         std::holds_alternative<ReleaseActor>(message.message);
  if (!for_actor && !gone) return;
  for (size_t i = 0; i < kNodes; ++i) {
    if (!nodes_[i].up || id_of(i) != message.node) continue;
    nodes_[i].coming.push_back(action);
    if (gone) opened_[gone->barrier].told.insert({i, nodes_[i].life});
  }
}

// ---- Time and nodes -----------------------------------------------------------------------------

bool LeaseModel::stopped(size_t i) const {
  const Node& node = nodes_[i];
  return !node.up || !node.lease || node.lease->expired(clock(i));
}

std::optional<size_t> LeaseModel::with_number(uint16_t number) const {
  for (size_t i = 0; i < kNodes; ++i) {
    if (nodes_[i].number == number) return i;
  }
  return std::nullopt;
}

// Its lease, before anything else.
bool LeaseModel::look(size_t i) {
  Node& node = nodes_[i];
  if (node.lease && node.lease->expired(clock(i))) node.up = false;
  return node.up;
}

void LeaseModel::pass_time() {
  --steps_;
  const Time end = now_ + kStep;
  while (!head_paused_) {
    const auto due = controller_.next_tick();
    if (!due || *due > end) break;
    now_ = std::max(now_, *due);
    tick();
  }
  now_ = end;
  for (size_t i = 0; i < kNodes; ++i) {
    Node& node = nodes_[i];
    if (!node.up || node.paused || !look(i)) continue;
    if (!node.lease) {
      if (node.sent.empty() && node.coming.empty()) contact(i);   // an answer was lost: once more
      continue;
    }
    if (auto sent = node.lease->heartbeat(clock(i))) send(i, {Up::What::kHeartbeat, *sent});
  }
}

// One heartbeat under way is enough: the next one says no more to who has not read this one.
void LeaseModel::send(size_t i, Up up) {
  Node& node = nodes_[i];
  const bool waits = up.what == Up::What::kHeartbeat &&
                     std::any_of(node.sent.begin(), node.sent.end(), [](const Up& other) {
                       return other.what == Up::What::kHeartbeat;
                     });
  if (!waits) node.sent.push_back(up);
}

// With a head that it has not spoken to yet.
void LeaseModel::contact(size_t i) {
  Node& node = nodes_[i];
  if (node.paused) return;   // when it wakes
  if (node.number == 0) return send(i, {Up::What::kAskNumber});
  // An answer may be to the first time that it asked: its lease is counted from then.
  if (!std::exchange(node.asked, true)) node.asked_at = clock(i);
  send(i, {Up::What::kJoin, clock(i), node.incarnation, node.acts});
}

void LeaseModel::come_back(size_t i) {
  const uint64_t life = nodes_[i].life + 1;
  nodes_[i] = {};
  nodes_[i].life = life;
  contact(i);
}

void LeaseModel::read(size_t i) {
  const std::deque<Up> burst = std::exchange(nodes_[i].sent, {});
  for (const Up& up : burst) hear(i, up);
  settle();
}

void LeaseModel::hear(size_t i, const Up& up) {
  Node& node = nodes_[i];
  NodeJoin join;
  join.node = id_of(i);
  if (up.what == Up::What::kAskNumber) return tell(NodeAsks{join});
  const bool member = controller_.node_with(node.number) == id_of(i);
  const auto incarnation = static_cast<uint32_t>(up.number);
  const ProcessId worker = make_process(node.number, node.incarnation, 9);
  switch (up.what) {
    case Up::What::kJoin:
      join.number = node.number;
      join.incarnation = node.incarnation;
      join.total = {{"slot", kResourceUnit}};
      if (up.acts) {
        auto spec = std::make_shared<protocol::ActorSpec>();
        spec->actor = kActor;
        spec->detached = true;
        spec->max_restarts = -1;
        spec->placement.resources = join.total;
        join.actors.push_back({kActor, *up.acts, worker, 1, true, spec});
      }
      tell(NodeAsks{join});
      break;
    case Up::What::kHeartbeat:
      tell(NodeHeartbeat{node.number, node.incarnation, up.sent});
      break;
    case Up::What::kStarted:
      if (!member) return;   // the fabric accepts nothing of it
      tell(FromNode{id_of(i), ActorAssigned{kActor, incarnation, worker}});
      tell(From<protocol::ActorStarted>{worker, 0, {kActor, incarnation, true, {}}});
      break;
    case Up::What::kLost:
      tell(FromNode{id_of(i), ActorLost{kActor, incarnation, {}}});
      break;
    case Up::What::kReached: tell(FromNode{id_of(i), BarrierReached{up.number}}); break;
    default: break;
  }
}

void LeaseModel::receive(size_t i) {
  const std::deque<ControllerAction> burst = std::exchange(nodes_[i].coming, {});
  for (const ControllerAction& action : burst) {
    if (look(i)) take(i, action);
  }
}

void LeaseModel::take(size_t i, const ControllerAction& action) {
  Node& node = nodes_[i];
  if (const auto* accepted = std::get_if<NodeAccepted>(&action)) {
    if (!accepted->member && node.number == 0) {
      node.number = accepted->number;
      node.incarnation = accepted->incarnation;
      contact(i);
    } else if (accepted->member) {
      if (!node.lease) node.lease.emplace(NodeLeaseConfig{kLease, kStep}, node.asked_at);
      node.lease->renewed(node.asked_at);
    }
  }
  if (const auto* refused = std::get_if<NodeRefused>(&action)) {
    if (refused->number == node.number && node.number != 0) node.up = false;
  }
  if (const auto* renew = std::get_if<RenewLease>(&action)) {
    if (node.lease) node.lease->renewed(renew->sent_at);
  }
  const auto* message = std::get_if<ToNode>(&action);
  if (!message) return;
  if (const auto* place = std::get_if<PlaceActor>(&message->message)) {
    if (node.acts && *node.acts >= place->incarnation) return;
    node.acts = place->incarnation;
    send(i, {Up::What::kStarted, {}, place->incarnation});
  } else if (const auto* release = std::get_if<ReleaseActor>(&message->message)) {
    if (node.acts != release->incarnation) return;
    node.acts.reset();
    send(i, {Up::What::kLost, {}, release->incarnation});
  } else if (const auto* gone = std::get_if<NodeGone>(&message->message)) {
    node.reached.insert(gone->barrier);
    send(i, {Up::What::kReached, {}, gone->barrier});
  }
}

// ---- What may happen ----------------------------------------------------------------------------

std::vector<LeaseStep> LeaseModel::steps() const {
  std::vector<LeaseStep> out;
  const auto may = [&](bool condition, LeaseAct act, size_t which = 0) {
    if (condition) out.push_back({act, which});
  };
  may(steps_ > 0, LeaseAct::kTime);
  may(head_paused_, LeaseAct::kHeadWake);
  may(!head_paused_ && head_pauses_ > 0, LeaseAct::kHeadPause);
  may(!head_paused_ && plan_->slow_disk && !journal_.empty(), LeaseAct::kSync);
  for (size_t kept = 0; crashes_ > 0 && kept <= journal_.size(); ++kept) {
    out.push_back({LeaseAct::kHeadCrash, kept});
  }
  for (size_t i = 0; i < plan_->nodes; ++i) {
    const Node& node = nodes_[i];
    may(!node.sent.empty() && !head_paused_, LeaseAct::kUp, i);
    const bool known = !controller_.node_with(node.number).is_nil();
    may(!node.up && known && !head_paused_ && node.sent.empty(), LeaseAct::kNotice, i);
    may(!node.up && lives_ > 0, LeaseAct::kComeBack, i);
    may(node.up && node.paused, LeaseAct::kWake, i);
    if (!node.up || node.paused) continue;
    may(!node.coming.empty(), LeaseAct::kDown, i);
    may(pauses_ > 0, LeaseAct::kPause, i);
    may(kills_ > 0, LeaseAct::kKill, i);
  }
  return out;
}

void LeaseModel::apply(const LeaseStep& step) {
  const size_t i = step.which;
  switch (step.act) {
    case LeaseAct::kTime: pass_time(); break;
    case LeaseAct::kUp: read(i); break;
    case LeaseAct::kDown: receive(i); break;
    case LeaseAct::kPause:
      --pauses_;
      nodes_[i].paused = true;
      break;
    case LeaseAct::kWake:
      nodes_[i].paused = false;
      if (look(i) && !nodes_[i].asked) contact(i);   // the head is another one than before
      break;
    case LeaseAct::kKill:
      --kills_;
      nodes_[i].up = false;
      nodes_[i].coming.clear();
      break;
    case LeaseAct::kNotice:
      tell(NodeLost{id_of(i), {}});
      settle();
      break;
    case LeaseAct::kComeBack:
      --lives_;
      come_back(i);
      break;
    case LeaseAct::kSync: sync(); break;
    case LeaseAct::kHeadPause:
      --head_pauses_;
      head_paused_ = true;
      break;
    case LeaseAct::kHeadWake:
      head_paused_ = false;
      tick();
      break;
    case LeaseAct::kHeadCrash:
      --crashes_;
      crash_head(i);
      break;
  }
  check_authority();
}

// ---- What must hold -----------------------------------------------------------------------------

// Fence: whoever is declared dead has stopped.
void LeaseModel::declared(const FenceNode& fence) {
  const auto i = with_number(fence.number);
  if (!i || id_of(*i) != fence.node) return;   // a life before
  nodes_[*i].coming.clear();
  nodes_[*i].sent.clear();
  if (!stopped(*i)) fail("Fence", fmt::format("node {} lives on its lease", fence.number));
}

void LeaseModel::closes(const BarrierClosed& closed) {
  for (const auto& [i, life] : opened_[closed.barrier].told) {
    const Node& node = nodes_[i];
    if (node.life != life || stopped(i) || node.reached.contains(closed.barrier)) continue;
    fail("Barrier", fmt::format("it closed before node {} had reached it", node.number));
  }
}

// OneAuthority: of all who have been told to be the actor one may still answer.
void LeaseModel::check_authority() {
  int acting = 0;
  for (size_t i = 0; i < kNodes; ++i) acting += nodes_[i].acts && !stopped(i);
  if (acting > 1) fail("OneAuthority", "two nodes answer for one actor");
}

std::string LeaseModel::check_liveness() const {
  LeaseModel fair = *this;
  fair.pauses_ = fair.kills_ = fair.crashes_ = fair.head_pauses_ = 0;
  fair.head_paused_ = false;
  for (Node& node : fair.nodes_) node.paused = false;
  for (int round = 0; round < 30; ++round) {
    fair.steps_ = 1;
    fair.pass_time();
    for (int turn = 0; turn < 6; ++turn) {
      for (size_t i = 0; i < plan_->nodes; ++i) {
        fair.read(i);
        while (!fair.journal_.empty()) fair.sync();
        if (fair.nodes_[i].up) fair.receive(i);
        else if (!fair.look(i) && turn == 5) fair.come_back(i);
      }
    }
    if (!fair.violation_.empty()) return fair.violation_;
  }
  const std::string missing = fair.missing();
  return missing.empty() ? missing : "NoHang: " + missing;
}

std::string LeaseModel::missing() const {
  if (controller_.restoring()) return "the controller still waits for the last life's nodes";
  if (!controller_.barriers().empty()) return "a barrier is open";
  const ActorInfo& actor = controller_.actors().at(kActor);
  if (actor.state != protocol::ActorState::kAlive) return "the actor is not alive";
  for (size_t i = 0; i < plan_->nodes; ++i) {
    const Node& node = nodes_[i];
    if (stopped(i)) return fmt::format("node {} has no lease", i);
    if (controller_.node_with(node.number) != id_of(i)) return "a node is no member";
    const bool named = actor.node == id_of(i);
    if (named != node.acts.has_value()) return "the actor is not where the controller says";
    if (named && *node.acts != actor.incarnation) return "another incarnation answers";
  }
  return {};
}

// ---- Hash ---------------------------------------------------------------------------------------

Hash LeaseModel::hash() const {
  uint64_t lo = 1, hi = 2;
  const auto mix = [](uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
  };
  const auto number = [&](int64_t value) {
    lo = mix(lo ^ static_cast<uint64_t>(value));
    hi = mix(hi + 0x9e3779b97f4a7c15ull + static_cast<uint64_t>(value));
  };
  const auto text = [&](const std::string& value) {
    number(static_cast<int64_t>(std::hash<std::string>{}(value)));
  };
  number(steps_ | pauses_ << 8 | head_pauses_ << 12 | kills_ << 16 | crashes_ << 20 |
         lives_ << 24 | head_paused_ << 28);
  ControllerTestAccess::feed(controller_, now_, number);
  for (const auto& [key, value] : disk_) {
    text(key.second);
    text(value);
  }
  for (const Batch& batch : journal_) {
    for (const JournalRecord& record : batch.records) {
      text(record.key);
      text(record.value.value_or(""));
    }
    number(-4);
  }
  for (const auto& [given, node] : given_) number(given << 8 | static_cast<int>(node.lo));
  for (size_t i = 0; i < kNodes; ++i) {
    const Node& node = nodes_[i];
    const auto time = [&](Time at) { number((at - clock(i)).count()); };
    number(node.up | node.paused << 1 | node.asked << 2 | node.number << 3);
    number(static_cast<int64_t>(node.life));
    number(node.acts ? int64_t{*node.acts} : -1);
    if (node.lease) {
      time(node.lease->fence_at());
      time(node.lease->next_tick());
    }
    if (!node.lease || !node.coming.empty() || !node.sent.empty()) time(node.asked_at);
    for (const Up& up : node.sent) {
      number(static_cast<int64_t>(up.what));
      if (up.what == Up::What::kHeartbeat) time(up.sent);
      number(static_cast<int64_t>(up.number));
    }
    number(-2);
    for (const ControllerAction& action : node.coming) {
      number(static_cast<int64_t>(action.index()));
      if (const auto* renew = std::get_if<RenewLease>(&action)) time(renew->sent_at);
      if (const auto* message = std::get_if<ToNode>(&action)) text(encode(message->message));
    }
    for (uint64_t barrier : node.reached) number(static_cast<int64_t>(barrier));
    number(-3);
  }
  return {lo, hi};
}

}  // namespace sheaf::checker
