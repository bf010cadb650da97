#include "runtime/daemon_link.h"

#include "runtime/impl.h"

namespace sheaf::runtime {

using protocol::MessageType;

namespace {

bool is_loss(const std::string& bytes) {
  auto error = wire::decode<protocol::ErrorRecord>(bytes);
  return error && error->kind == protocol::ErrorKind::kObjectLost;
}

}  // namespace

void DaemonLink::send_bytes(MessageType type, uint64_t request, const std::string& body) {
  protocol::Envelope envelope{request};
  lane_.send(static_cast<uint16_t>(type), wire::as_bytes(wire::encode(envelope)), wire::as_bytes(body));
}

uint64_t DaemonLink::start_request(MessageType type, const std::string& body, Answer* answer) {
  uint64_t id = next_request_++;
  requests_[id].answer = answer;
  send_bytes(type, id, body);
  return id;
}

void DaemonLink::request_then(MessageType type, const std::string& body, std::function<void(Answer&&)> then) {
  uint64_t id = next_request_++;
  requests_[id].then = std::move(then);
  send_bytes(type, id, body);
}

void DaemonLink::handle_reply(uint64_t request, wire::Bytes body) {
  auto it = requests_.find(request);
  if (it == requests_.end()) return;   // given up at its deadline
  Pending pending = std::move(it->second);
  requests_.erase(it);
  protocol::ReplyHead head;
  wire::Reader reader(body);
  reader(head);
  Answer answer;
  answer.done = true;
  if (!reader.ok()) answer.status = Status(StatusCode::kCorrupt, "malformed reply from the node daemon");
  else if (head.code != StatusCode::kOk) answer.status = Status(head.code, head.message);
  answer.payload = std::string(wire::as_text(reader.take(reader.remaining())));
  rt_.progress.note_ready();
  if (pending.answer) *pending.answer = std::move(answer);
  else if (pending.then) pending.then(std::move(answer));
}

void DaemonLink::handle_object_ready(wire::Bytes body) {
  auto message = wire::decode<protocol::ObjectReady>(body);
  if (!message) return;
  Slot slot = rt_.objects.table().find(message->id);
  bool ours = message->id.process() == rt_.session.welcome.process;
  if (ours && message->state == ValueState::kError && is_loss(message->bytes)) {
    wire::Bytes error = wire::as_bytes(message->bytes);
    return slot == kNoSlot ? rt_.objects.give_up(message->id, error) : rt_.submitter.object_lost(slot, error);
  }
  if (slot == kNoSlot) return;   // dropped meanwhile
  Entry& e = rt_.objects.at(slot);
  if (e.ready()) return;
  if (message->state == ValueState::kPending) {
    rt_.objects.set_rebuilding(slot);
  } else if (message->state == ValueState::kArena) {
    e.set_locator(message->locator);
    rt_.objects.fetched(slot);
  } else {
    e.set_bytes(message->state, wire::as_bytes(message->bytes));
    rt_.objects.fetched(slot);
  }
}

void DaemonLink::handle_lane_open(wire::Bytes body) {
  auto message = wire::decode<protocol::LaneOpen>(body);
  if (message) rt_.peers.open(message->process, message->lane);
}

void DaemonLink::handle_exit(wire::Bytes body) {
  auto message = wire::decode<protocol::Exit>(body);
  rt_.executor.request_exit(message ? message->graceful : false);
}

void DaemonLink::handle(const transport::Message& message) {
  wire::Reader reader(message.payload);
  protocol::Envelope envelope;
  reader(envelope);
  wire::Bytes body = reader.take(reader.remaining());
  switch (static_cast<MessageType>(message.type)) {
    case MessageType::kReply: return handle_reply(envelope.request, body);
    case MessageType::kObjectReady: return handle_object_ready(body);
    case MessageType::kLaneOpen: return handle_lane_open(body);
    case MessageType::kExit: return handle_exit(body);
    case MessageType::kLeaseGrant:
      if (auto m = wire::decode<protocol::LeaseGrant>(body)) rt_.submitter.lease_granted(*m);
      return;
    case MessageType::kLeaseRecall:
      if (auto m = wire::decode<protocol::LeaseRecall>(body)) rt_.submitter.lease_recalled(m->lease);
      return;
    case MessageType::kLeaseRefused:
      if (auto m = wire::decode<protocol::LeaseRefused>(body)) rt_.submitter.lease_refused(*m);
      return;
    case MessageType::kCancelRequest:
      if (auto m = wire::decode<protocol::CancelTask>(body)) {
        Slot slot = rt_.objects.table().find(m->id);
        if (slot != kNoSlot) rt_.submitter.cancel(slot, m->force, m->recursive);
      }
      return;
    case MessageType::kAdoptTask:
      if (auto m = wire::decode<protocol::TaskLineage>(body)) rt_.submitter.adopt(*m);
      return;
    case MessageType::kPeerDown:
      if (auto m = wire::decode<protocol::PeerDown>(body)) rt_.peers.down(m->process, m->cause);
      return;
    case MessageType::kActorUpdate:
      if (auto m = wire::decode<protocol::ActorUpdate>(body)) rt_.actors.update(*m);
      return;
    case MessageType::kActorStart:
      if (auto m = wire::decode<protocol::ActorStart>(body)) rt_.executor.start_actor(std::move(*m));
      return;
    case MessageType::kGroupUpdate:
      if (auto m = wire::decode<protocol::GroupUpdate>(body)) {
        set_group_state(m->group, m->state);
        rt_.progress.note_ready();
      }
      return;
    case MessageType::kLogLines:
      if (auto m = wire::decode<protocol::LogLines>(body)) {
        rt_.progress.post([&rt = rt_, lines = std::move(*m)] { rt.show_log(lines); });
      }
      return;
    case MessageType::kWarning:
      if (auto m = wire::decode<protocol::Warning>(body)) {
        rt_.progress.post([&rt = rt_, text = std::move(m->text)] { rt.show_warning(text); });
      }
      return;
    case MessageType::kFlushRequest:
      if (auto m = wire::decode<protocol::FlushRequest>(body)) {
        rt_.flush_events();
        send(MessageType::kFlushDone, *m);
      }
      return;
    default: return;   // a newer daemon
  }
}

protocol::GroupState DaemonLink::group_state(const PlacementGroupId& group) {
  auto [it, fresh] = groups_.try_emplace(group, protocol::GroupState::kPending);
  if (fresh) send(MessageType::kGroupSubscribe, protocol::GroupSubscribe{group});
  return it->second;
}

void DaemonLink::set_group_state(const PlacementGroupId& group, protocol::GroupState state) {
  protocol::GroupState& known = groups_[group];
  if (known != protocol::GroupState::kRemoved) known = state;
}

}  // namespace sheaf::runtime
