// The hot paths, step by step in one thread, for counting their instructions under callgrind.
//
// Two runtimes, a caller and a worker, share one lane region; this program plays the daemon, with real messages over
// the real lanes. No helper thread runs and nobody sleeps, so a run executes the same instructions each time. Usage:
//   valgrind --tool=callgrind --collect-atstart=no --callgrind-out-file=F count_instructions
// writes F.1, F.2, ..., one a path, named in its "desc: Trigger" line: kRounds passes each. tests/perf reads them.
// Language layers (C++ codecs, the Python binding) come on top.

#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#ifdef SHEAF_HAVE_VALGRIND
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_TOGGLE_COLLECT
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_DUMP_STATS_AT(name)
#endif

#include "runtime/impl.h"

namespace {

using namespace sheaf;            // NOLINT: a small main
using namespace sheaf::runtime;   // NOLINT
using protocol::MessageType;
using transport::BellBlock;
using transport::Lane;
using transport::LaneInfo;
using transport::LaneRegion;
using transport::RegionOffset;
using transport::RingBlock;

constexpr int kRounds = 1000;
constexpr int kWarmUp = 2000;     // past the first growth of every table
constexpr uint64_t kArenaBytes = 64 << 20;
constexpr uint32_t kPinSlots = 64;
constexpr ProcessId kCallerId = 11, kWorkerId = 12;

RegionOffset must(Result<RegionOffset> offset) {
  SHEAF_CHECK(offset.has_value());
  return *offset;
}

// Memory of a node, and the daemon's end of its lanes.
struct Node {
  LaneRegion region = std::move(LaneRegion::create(64 << 20)).value();
  objstore::Arena arena = std::move(objstore::Arena::create(kArenaBytes)).value();
  RegionOffset bell = must(region.allocate(sizeof(BellBlock)));

  // The two ends of a new lane between bells `a` and `b`, with their numbers there.
  std::array<LaneInfo, 2> lane(RegionOffset a, uint32_t at_a, RegionOffset b, uint32_t at_b) {
    RegionOffset to_b = must(region.allocate(sizeof(RingBlock)));
    RegionOffset to_a = must(region.allocate(sizeof(RingBlock)));
    return {LaneInfo{to_b, to_a, b, at_b, at_a}, LaneInfo{to_a, to_b, a, at_a, at_b}};
  }
};

// A process without its process: its runtime, and the daemon's lane to it.
class Member {
 public:
  Member(Node& node, ProcessId id, protocol::ClientKind kind, uint32_t number) : node_(node) {
    bell_ = must(node.region.allocate(sizeof(BellBlock)));
    auto ends = node.lane(bell_, 0, node.bell, number);
    protocol::Welcome welcome;
    welcome.process = id;
    welcome.node = node_of(id);
    welcome.incarnation = 1;
    welcome.bell = bell_;
    welcome.daemon_lane = ends[0];
    welcome.pin_slots = kPinSlots;
    welcome.pin_table = must(node.region.allocate(objstore::pin_table_bytes(kPinSlots)));
    welcome.arena_bytes = kArenaBytes;
    Session session(-1, welcome, std::move(LaneRegion::map(dup(node.region.fd()))).value(),
                    std::move(objstore::Arena::map(dup(node.arena.fd()), kArenaBytes)).value());
    Lane own = std::move(Lane::open(session.region, ends[0])).value();
    ConnectOptions options;
    options.kind = kind;
    runtime_ = std::make_unique<Runtime::Impl>(std::move(session), std::move(options), std::move(own));
    daemon_ = std::make_unique<Lane>(std::move(Lane::open(node.region, ends[1])).value());
  }

  Runtime::Impl& rt() { return *runtime_; }
  RegionOffset bell() const { return bell_; }
  template <class T>
  void tell(MessageType type, const T& message) {
    daemon_->send(static_cast<uint16_t>(type), wire::as_bytes(wire::encode(protocol::Envelope{})),
                  wire::as_bytes(wire::encode(message)));
  }
  // Takes what the runtime said to the daemon, so that its lane never fills; true when `type` was among it.
  bool hear(MessageType type) {
    bool heard = false;
    while (auto message = daemon_->peek()) {
      heard |= message->type == static_cast<uint16_t>(type);
      daemon_->pop();
    }
    return heard;
  }
  void drain() {
    Locked guard(*runtime_);
    runtime_->progress.drain();
  }

 private:
  Node& node_;
  RegionOffset bell_ = 0;
  std::unique_ptr<Runtime::Impl> runtime_;
  std::unique_ptr<Lane> daemon_;
};

// Encoded values as a language writes them: opaque to the engine.
const std::string kArguments(13, '\1');
const std::string kValue(9, '\2');

// A caller with a leased worker and an actor in that worker.
class Pair {
 public:
  Pair() {
    auto ends = node_.lane(caller_.bell(), 1, worker_.bell(), 1);
    worker_.tell(MessageType::kLaneOpen, protocol::LaneOpen{kCallerId, protocol::ClientKind::kDriver, ends[1]});
    worker_.drain();
    TaskTemplate function;
    function.function.lo = 7;
    function.placement.resources["CPU"] = 10000;
    task_ = caller_.rt().submitter.define(function);
    TaskTemplate method;
    method.method = "echo";
    method.flags = kActorMethod;
    method_ = caller_.rt().submitter.define(method);
    actor_ = ActorId{1, 2};

    Slot first = submit_task(), call = submit_call();
    SHEAF_CHECK(caller_.hear(MessageType::kLeaseRequest));
    protocol::LeaseGrant grant;
    grant.lease = 1;
    grant.worker = kWorkerId;
    grant.lane = ends[0];
    caller_.tell(MessageType::kLeaseGrant, grant);
    protocol::ActorUpdate alive;
    alive.actor = actor_;
    alive.state = protocol::ActorState::kAlive;
    alive.incarnation = 1;
    alive.process = kWorkerId;
    alive.lane = ends[0];
    caller_.tell(MessageType::kActorUpdate, alive);
    caller_.drain();
    while (serve()) {}
    caller_.drain();
    take(first);
    take(call);
  }

  Slot submit_task() {
    Slot slot = kNoSlot;
    Runtime::Impl& rt = caller_.rt();
    Locked guard(rt);
    rt.submitter.submit(task_, {wire::as_bytes(kArguments), {}, {}}, 0, &slot);
    rt.progress.drain_if_ready();
    return slot;
  }
  // Of a task whose argument is the result of the last one, which is not made yet.
  Slot submit_follower() {
    Slot slot = kNoSlot;
    Runtime::Impl& rt = caller_.rt();
    Locked guard(rt);
    rt.submitter.submit(task_, {wire::as_bytes(kArguments), std::span(&last_, 1), {}}, 0, &slot);
    rt.progress.drain_if_ready();
    return slot;
  }
  Slot submit_first() {
    *caller_.rt().submitter.definition(task_).mean_us = 1;   // whatever valgrind made of it: short ones are followed
    return last_ = submit_task();
  }
  Slot submit_call() {
    Slot slot = kNoSlot;
    Runtime::Impl& rt = caller_.rt();
    Locked guard(rt);
    Status status =
        rt.actors.submit(actor_, method_, {wire::as_bytes(kArguments), {}, {}}, 0, 0, 0, &slot);
    SHEAF_CHECK(status.is_ok());
    rt.progress.drain_if_ready();
    return slot;
  }
  // The worker takes one task and answers it.
  bool serve() {
    Runtime::Impl& rt = worker_.rt();
    ReturnValue value;
    value.inline_bytes = wire::as_bytes(kValue);
    Locked guard(rt);
    rt.progress.drain();
    Incoming* task = rt.executor.pop();
    if (task == nullptr) return false;
    if (task->early) SHEAF_CHECK(rt.executor.take_made(task));
    rt.executor.reply(task, ReplyStatus::kOk, std::span(&value, 1), nullptr);
    return true;
  }
  // The caller sees the value and lets go of it.
  void receive(Slot slot) {
    caller_.drain();
    take(slot);
  }
  Slot put() {
    Runtime::Impl& rt = caller_.rt();
    Locked guard(rt);
    Slot slot = rt.objects.create();
    rt.objects.set_bytes(slot, ValueState::kInline, wire::as_bytes(kValue));
    return slot;
  }
  size_t get(Slot slot) {
    Runtime::Impl& rt = caller_.rt();
    Locked guard(rt);
    Entry& e = rt.objects.at(slot);
    SHEAF_CHECK(e.ready() && e.has_bytes());
    return e.bytes().size();
  }
  void drop(Slot slot) {
    Runtime::Impl& rt = caller_.rt();
    Locked guard(rt);
    rt.objects.release(slot);
  }
  void keep_house() {
    caller_.hear(MessageType::kReply);
    worker_.hear(MessageType::kReply);
  }

 private:
  void take(Slot slot) {
    SHEAF_CHECK(get(slot) == kValue.size());
    drop(slot);
  }

  Node node_;
  Member caller_{node_, kCallerId, protocol::ClientKind::kDriver, 1};
  Member worker_{node_, kWorkerId, protocol::ClientKind::kWorker, 2};
  TemplateId task_ = 0, method_ = 0;
  ActorId actor_;
  Slot last_ = kNoSlot;
};

// Counts `step` over kRounds; `before` and `after` of each round do not count.
template <class Before, class Step, class After>
void count(const char* name, Before before, Step step, After after) {
  for (int i = 0; i < kWarmUp; ++i) {
    before();
    step();
    after();
  }
  CALLGRIND_ZERO_STATS;
  for (int i = 0; i < kRounds; ++i) {
    before();
    CALLGRIND_TOGGLE_COLLECT;
    step();
    CALLGRIND_TOGGLE_COLLECT;
    after();
  }
  CALLGRIND_DUMP_STATS_AT(name);
  std::printf("%s %d\n", name, kRounds);
}

void nothing() {}

void count_lane() {
  Node node;
  RegionOffset other = must(node.region.allocate(sizeof(BellBlock)));
  auto ends = node.lane(node.bell, 1, other, 1);
  Lane a = std::move(Lane::open(node.region, ends[0])).value();
  Lane b = std::move(Lane::open(node.region, ends[1])).value();
  std::string payload(24, 'x');
  auto send = [&] { a.send(1, wire::as_bytes(payload)); };
  auto receive = [&] {
    SHEAF_CHECK(b.peek()->payload.size() == payload.size());
    b.pop();
  };
  count("nothing", nothing, nothing, nothing);
  count("lane_push", nothing, send, receive);
  count("lane_pop", send, receive, nothing);
}

void count_calls(Pair& pair, const char* kind, Slot (Pair::*submit)()) {
  std::string prefix = kind;
  Slot slot = kNoSlot;
  auto send = [&] { slot = (pair.*submit)(); };
  auto serve = [&] { SHEAF_CHECK(pair.serve()); };
  auto receive = [&] { pair.receive(slot); };
  auto house = [&] { pair.keep_house(); };
  count((prefix + "_submit").c_str(), nothing, send, [&] { serve(), receive(), house(); });
  count((prefix + "_execute").c_str(), send, serve, [&] { receive(), house(); });
  count((prefix + "_receive").c_str(), [&] { send(), serve(); }, receive, house);
}

// The second of two tasks in a chain, sent before the first has run.
void count_chain(Pair& pair) {
  Slot first = kNoSlot, second = kNoSlot;
  auto send_first = [&] { first = pair.submit_first(); };
  auto send = [&] { second = pair.submit_follower(); };
  auto serve = [&] { SHEAF_CHECK(pair.serve()); };
  auto receive = [&] { pair.receive(second), pair.receive(first), pair.keep_house(); };
  count("chain_submit", send_first, send, [&] { serve(), serve(), receive(); });
  count("chain_execute", [&] { send_first(), send(), serve(); }, serve, receive);
}

}  // namespace

int main() {
  count_lane();
  Pair pair;
  count_calls(pair, "task", &Pair::submit_task);
  count_chain(pair);
  count_calls(pair, "actor_call", &Pair::submit_call);
  Slot held = pair.put(), fresh = kNoSlot;
  count("put_small", nothing, [&] { fresh = pair.put(); }, [&] { pair.drop(fresh); });
  count("drop_small", [&] { fresh = pair.put(); }, [&] { pair.drop(fresh); }, nothing);
  count("get_held", nothing, [&] { SHEAF_CHECK(pair.get(held) > 0); }, nothing);
  pair.drop(held);
  std::fflush(stdout);
  _exit(0);   // the runtimes' destructors expect their threads
}
