#include "launchers/head_ledger.h"

#include <algorithm>
#include <utility>

namespace sheaf::launchers {

using protocol::MessageType;
using scheduler::From;

namespace {

constexpr size_t kExitsKept = 10000;
constexpr size_t kEndedKept = 10000;  // actors of one process, so that late callers learn of it
constexpr size_t kFunctionBytesKept = 64 << 20;

}  // namespace

void HeadLedger::said(const scheduler::ControllerEvent& event, ForwardedRequest forwarded,
                      scheduler::Time now) {
  ProcessId process = forwarded.process;
  if (const auto* hold = std::get_if<From<protocol::ActorHold>>(&event)) {
    Book& book = books_[process];
    if (hold->message.delta < 0) book.holds.erase(hold->message.actor);
    else book.holds.insert(hold->message.actor);
  } else if (const auto* watch = std::get_if<From<protocol::ActorSubscribe>>(&event)) {
    books_[process].watches.insert(watch->message.actor);
  } else if (const auto* group = std::get_if<From<protocol::GroupSubscribe>>(&event)) {
    books_[process].watched_groups.insert(group->message.group);
  } else if (const auto* started = std::get_if<From<protocol::ActorStarted>>(&event)) {
    started_[process] = {forwarded, started->message.ok};
  } else if (const auto* exit = std::get_if<From<protocol::ActorExiting>>(&event)) {
    if (!exit->message.intended) return;
    if (exits_.size() >= kExitsKept) exits_.pop_front();
    exits_.push_back({exit->message.actor, exit->message.reason});
  } else if (const auto* create = std::get_if<From<protocol::ActorCreate>>(&event)) {
    books_[process].holds.insert(create->message.spec.actor);
  } else if (const auto* put = std::get_if<From<protocol::KvPut>>(&event)) {
    if (put->message.space == kFunctionSpace) keep_function(put->message.key, put->message.value);
  }
  if (forwarded.request == 0) return;
  orders_[{process, forwarded.request}] = next_order_;
  unanswered_[next_order_++] = {std::move(forwarded), now};
}

std::vector<ObjectId> HeadLedger::held_by(const ForwardedRequest& request) const {
  if (static_cast<MessageType>(request.type) != MessageType::kActorCreate) return {};
  auto create = wire::decode<protocol::ActorCreate>(wire::as_bytes(request.body));
  return create ? create->spec.holds : std::vector<ObjectId>{};
}

std::vector<ObjectId> HeadLedger::answered(ProcessId process, wire::Bytes bytes) {
  wire::Reader reader(bytes);
  protocol::Envelope envelope;
  protocol::ReplyHead head;
  reader(envelope, head);
  auto order = orders_.find({process, envelope.request});
  if (!reader.ok() || order == orders_.end()) return {};
  ForwardedRequest request = std::move(unanswered_.extract(order->second).mapped().request);
  orders_.erase(order);
  auto type = static_cast<MessageType>(request.type);
  if (type == MessageType::kKvGet && head.code == StatusCode::kOk) {
    auto get = wire::decode<protocol::KvGet>(wire::as_bytes(request.body));
    protocol::KvGetReply got;
    reader(got);
    if (get && reader.ok() && get->space == kFunctionSpace && got.value)
      keep_function(get->key, *got.value);
    return {};
  }
  if (type != MessageType::kActorCreate) return {};
  auto create = wire::decode<protocol::ActorCreate>(wire::as_bytes(request.body));
  if (!create) return {};
  std::vector<ObjectId> held = create->spec.holds;
  protocol::ActorCreateReply reply;
  reader(reply);
  ActorId id = create->spec.actor;
  bool made = reader.ok() && head.code == StatusCode::kOk && !reply.existing;
  if (!made) {
    books_[process].holds.erase(id);
  } else if (!create->spec.detached) {   // the journal has the others
    created_[id].spec = std::make_shared<protocol::ActorSpec>(std::move(create->spec));
    books_[process].created.insert(id);
  }
  return held;
}

const std::string* HeadLedger::function(const std::string& key) const {
  auto it = functions_.find(key);
  return it == functions_.end() ? nullptr : &it->second;
}

void HeadLedger::keep_function(const std::string& key, const std::string& code) {
  if (!functions_.try_emplace(key, code).second) return;
  functions_in_order_.push_back(key);
  function_bytes_ += code.size();
  while (function_bytes_ > kFunctionBytesKept) {
    auto oldest = functions_.extract(functions_in_order_.front());
    functions_in_order_.pop_front();
    function_bytes_ -= oldest.mapped().size();
  }
}

void HeadLedger::updated(ProcessId subscriber, const protocol::ActorUpdate& update) {
  auto created = created_.find(update.actor);
  if (created != created_.end()) {
    Created& actor = created->second;
    bool fresh = update.incarnation > actor.incarnation;   // others here may hear of it, too
    if (update.state == protocol::ActorState::kAlive) actor.ran = true;
    if (update.state == protocol::ActorState::kRestarting && fresh &&
        update.cause.kind != protocol::ErrorKind::kNodeDied)
      ++actor.restarts;
    actor.incarnation = std::max(actor.incarnation, update.incarnation);
  }
  if (update.state != protocol::ActorState::kDead) return;
  if (auto book = books_.find(subscriber); book != books_.end()) {
    book->second.watches.erase(update.actor);
    book->second.holds.erase(update.actor);
  }
  if (created != created_.end()) created_.erase(created);
  auto creator = books_.find(update.actor.process());
  if (creator == books_.end()) return;
  creator->second.created.erase(update.actor);
  std::deque<ActorId>& ended = creator->second.ended;
  if (std::find(ended.begin(), ended.end(), update.actor) != ended.end()) return;
  ended.push_back(update.actor);
  if (ended.size() > kEndedKept) ended.pop_front();
}

std::vector<ObjectId> HeadLedger::client_left(ProcessId process) {
  std::vector<ObjectId> held;
  for (auto it = orders_.lower_bound({process, 0});
       it != orders_.end() && it->first.first == process;) {
    auto request = unanswered_.extract(it->second);
    for (const ObjectId& id : held_by(request.mapped().request)) held.push_back(id);
    it = orders_.erase(it);
  }
  started_.erase(process);
  if (auto book = books_.extract(process); !book.empty()) {
    for (const ActorId& id : book.mapped().created) created_.erase(id);
  }
  return held;
}

std::vector<HeadLedger::GivenUp> HeadLedger::give_up(scheduler::Time before) {
  std::vector<GivenUp> out;
  for (auto it = unanswered_.begin(); it != unanswered_.end();) {
    const auto& [request, since] = it->second;
    if (since > before) break;   // they are in order
    bool waited_for = true;
    if (static_cast<MessageType>(request.type) == MessageType::kActorCreate) {
      auto create = wire::decode<protocol::ActorCreate>(wire::as_bytes(request.body));
      waited_for = create && !create->spec.name.empty();
      if (waited_for) books_[request.process].holds.erase(create->spec.actor);
    } else if (static_cast<MessageType>(request.type) == MessageType::kKvPut) {
      auto put = wire::decode<protocol::KvPut>(wire::as_bytes(request.body));
      waited_for = put && put->space != kFunctionSpace;   // those are answered here
    } else if (static_cast<MessageType>(request.type) == MessageType::kKvGet) {
      auto get = wire::decode<protocol::KvGet>(wire::as_bytes(request.body));
      waited_for = get && get->space != kFunctionSpace;   // a task waits, not its caller
    }
    if (!waited_for) {
      ++it;
      continue;
    }
    out.push_back({request.process, request.request, held_by(request)});
    orders_.erase({request.process, request.request});
    it = unanswered_.erase(it);
  }
  return out;
}

void HeadLedger::describe(scheduler::LiveClient& client) const {
  auto it = books_.find(client.process);
  if (it == books_.end()) return;
  const Book& book = it->second;
  client.holds.assign(book.holds.begin(), book.holds.end());
  client.watches.assign(book.watches.begin(), book.watches.end());
  client.watched_groups.assign(book.watched_groups.begin(), book.watched_groups.end());
  for (const ActorId& id : book.created) {
    const Created& created = created_.at(id);
    client.created.push_back({created.spec, created.ran, created.restarts});
  }
  client.ended.assign(book.ended.begin(), book.ended.end());
}

bool HeadLedger::has_started(ProcessId worker) const {
  auto it = started_.find(worker);
  return it != started_.end() && it->second.ok;
}

std::vector<scheduler::ExitedActor> HeadLedger::exited() const {
  return {exits_.begin(), exits_.end()};
}

std::vector<ForwardedRequest> HeadLedger::to_repeat(
    const std::function<void(ProcessId process, uint64_t request)>& refuse) {
  std::vector<ForwardedRequest> out;
  for (const auto& [worker, started] : started_) {
    if (!started.ok) out.push_back(started.message);
  }
  for (auto it = unanswered_.begin(); it != unanswered_.end();) {
    const ForwardedRequest& request = it->second.request;
    bool once = false;
    if (static_cast<MessageType>(request.type) == MessageType::kKvPut) {
      auto put = wire::decode<protocol::KvPut>(wire::as_bytes(request.body));
      once = put && !put->overwrite && put->space != kFunctionSpace;
    }
    if (!once) {
      out.push_back(request);
      ++it;
      continue;
    }
    RequestKey key{request.process, request.request};
    it = unanswered_.erase(it);
    orders_.erase(key);
    refuse(key.first, key.second);
  }
  return out;
}

}  // namespace sheaf::launchers
