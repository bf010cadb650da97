// How sessions begin and end.
#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "transport/fabric/sock_state.h"

namespace sheaf::transport {

void SockFabric::connect(const PeerId& peer, const FabricAddress& address,
                         EventLoop::TimePoint deadline, OnConnected done) {
  for (const auto& [up, number] : by_peer_) {
    if (up.node != peer.node || up.node == kNoNode) continue;
    if (peer.incarnation != 0 && up.incarnation != peer.incarnation) continue;
    return post([done = std::move(done), up = up] { done(up); });
  }
  auto known = nodes_.find(peer.node);
  if (peer.node == kNoNode || peer.node == options_.self.node ||
      (known != nodes_.end() && peer.incarnation != 0 &&
       peer.incarnation < std::max(known->second.incarnation, known->second.fence))) {
    bool stale = peer.node != kNoNode && peer.node != options_.self.node;
    Status wrong(stale ? StatusCode::kDisconnected : StatusCode::kInvalidArgument,
                 fmt::format("node {} cannot be connected to", to_string(peer)));
    return post([done = std::move(done), wrong] { done(wrong); });
  }
  uint64_t number = next_waiter_++;
  uint32_t node = peer.node;
  Waiter waiter{number, peer, 0, std::move(done)};
  waiter.timer = loop_.call_at(deadline, [this, node, number] { waiter_expired(node, number); });
  auto [it, added] = dials_.try_emplace(node);
  Dial& dial = it->second;
  dial.waiters.push_back(std::move(waiter));
  // A later caller knows better where the node is and which life of it.
  bool other = dial.address != address || dial.expected != peer;
  if (!added && !other) return;
  dial.expected = peer;
  dial.address = address;
  start_dial(dial);
}

void SockFabric::start_dial(Dial& dial) {
  dial.number = next_dial_++;
  Hello hello;
  hello.self = options_.self;
  hello.expected = dial.expected;
  hello.dial = dial.number;
  hello.cluster = options_.cluster;
  uint32_t node = dial.expected.node;
  uint64_t number = dial.number;
  auto greeting = Greeting::dial(
      loop_, tls_, options_, dial.address, hello,
      [this, node, number](Greeted greeted) { on_dialed(node, number, std::move(greeted)); });
  if (greeting) {
    dial.greeting = std::move(greeting).value();
    return;
  }
  dial.greeting.reset();
  post([this, node, number, status = greeting.status()] {
    auto it = dials_.find(node);
    if (it != dials_.end() && it->second.number == number) end_dial(node, status);
  });
}

void SockFabric::on_dialed(uint32_t node, uint64_t number, Greeted greeted) {
  auto it = dials_.find(node);
  if (it == dials_.end() || it->second.number != number) return;
  std::unique_ptr<Greeting> ended = std::move(it->second.greeting);  // it is running us
  if (greeted.status.code() == StatusCode::kAlreadyExists) return;   // the other side's dial counts
  if (!greeted.status.is_ok()) {
    Status why(greeted.status.code(), fmt::format("node {} at {}: {}", node,
                                                  to_string(it->second.address),
                                                  greeted.status.message()));
    return end_dial(node, why);
  }
  PeerId peer = greeted.welcome.self;
  const PeerId& expected = it->second.expected;
  NodeMemory& memory = nodes_[node];
  if (peer.node != node ||
      (expected.incarnation != 0 && peer.incarnation != expected.incarnation) ||
      peer.incarnation < std::max(memory.incarnation, memory.fence)) {
    // Who is fenced is there all the same: no proof that it is gone.
    return end_dial(node, Status(StatusCode::kPermissionDenied,
                                 fmt::format("node {} answered as {}", to_string(expected),
                                             to_string(peer))));
  }
  FabricAddress address = it->second.address;
  if (memory.incarnation != peer.incarnation) memory = {peer.incarnation, memory.fence, 0, 0};
  memory.abandoned = std::max(memory.abandoned, greeted.welcome.abandoned);
  adopt(std::move(greeted), peer, true, address);
}

void SockFabric::end_dial(uint32_t node, const Result<PeerId>& result) {
  auto taken = dials_.extract(node);
  if (taken.empty()) return;
  for (Waiter& waiter : taken.mapped().waiters) {
    loop_.cancel_timer(waiter.timer);
    bool other_life = result && waiter.expected.incarnation != 0 &&
                      waiter.expected.incarnation != result->incarnation;
    if (other_life) {
      waiter.done(Status(StatusCode::kDisconnected,
                         fmt::format("node {} answered as {}", to_string(waiter.expected),
                                     to_string(*result))));
    } else {
      waiter.done(result);
    }
  }
}

void SockFabric::waiter_expired(uint32_t node, uint64_t waiter) {
  auto it = dials_.find(node);
  if (it == dials_.end()) return;
  auto& waiters = it->second.waiters;
  auto at = std::find_if(waiters.begin(), waiters.end(),
                         [&](const Waiter& w) { return w.number == waiter; });
  if (at == waiters.end()) return;
  Waiter expired = std::move(*at);
  waiters.erase(at);
  FabricAddress address = it->second.address;
  if (waiters.empty()) dials_.erase(it);
  expired.done(Status(StatusCode::kTimeout, fmt::format("node {} at {} did not answer in time",
                                                        node, to_string(address))));
}

void SockFabric::on_greeted(Greeted greeted, const FabricAddress& from) {
  PeerId peer = greeted.hello.self;
  if (greeted.hello.purpose == ConnectionPurpose::kBulk) {
    if (!judge_bulk(greeted.hello).is_ok()) return;
    Session* session = live(peer);
    session->has_bulk = true;
    return bulk(session->number).attach(session->number, std::move(greeted.stream));
  }
  // Things may have changed since the Hello was judged.
  if (!judge_control(greeted.hello).is_ok()) return;
  std::vector<uint64_t> earlier;
  for (const auto& [up, number] : by_peer_) {
    bool same = peer.node == kNoNode ? up == peer : up.node == peer.node;
    if (same) earlier.push_back(number);
  }
  for (uint64_t number : earlier) {
    bool restarted = live(number)->peer != peer;
    end_session(number, {StatusCode::kDisconnected,
                         restarted ? "the node has restarted" : "the peer has connected anew"});
  }
  if (peer.node != kNoNode) {
    NodeMemory& memory = nodes_[peer.node];
    if (memory.incarnation != peer.incarnation) memory = {peer.incarnation, memory.fence, 0, 0};
    memory.last_dial = greeted.hello.dial;
  }
  adopt(std::move(greeted), peer, false, from);
}

void SockFabric::adopt(Greeted greeted, const PeerId& peer, bool dialer,
                       const FabricAddress& address) {
  uint64_t number = next_session_++;
  auto session = std::make_unique<Session>();
  session->number = number;
  session->peer = peer;
  session->secret = greeted.welcome.session;
  session->dialer = dialer;
  session->address = address;
  session->link = std::make_shared<SockLink>(loop_, std::move(greeted.stream),
                                             options_.queue_bytes, link_events(number));
  std::shared_ptr<SockLink> link = session->link;
  sessions_.emplace(number, std::move(session));
  by_peer_[peer] = number;
  bulk(number).open(number);
  link->start();
  options_.events.on_peer(peer, PeerState::kUp, Status::ok());
  end_dial(peer.node, peer);
}

SockLink::Events SockFabric::link_events(uint64_t number) {
  SockLink::Events out;
  out.on_message = [this, number](uint16_t type, wire::Bytes payload) {
    Session* session = live(number);
    if (session == nullptr) return;
    ++stats_.messages_received;
    stats_.message_bytes_received += payload.size();
    handling_ = number;
    PeerId from = session->peer;
    options_.events.on_message(from, type, payload);
    handling_ = 0;
  };
  out.on_frame = [this, number](const Frame& frame) { on_frame(number, frame); };
  out.on_room = [this, number] {
    Session* session = live(number);
    if (session != nullptr && options_.events.on_room) options_.events.on_room(session->peer);
  };
  out.on_broken = [this, number](const Status& why) { end_session(number, why); };
  return out;
}

void SockFabric::on_frame(uint64_t number, const Frame& frame) {
  Session* session = live(number);
  if (session == nullptr) return;
  switch (frame.header.kind) {
    case FrameKind::kPullOpen:
      if (auto open = wire::decode<PullOpen>(frame.body)) return on_pull_open(*session, *open);
      break;
    case FrameKind::kPullGrant:
      if (auto grant = wire::decode<PullGrant>(frame.body)) {
        return bulk(number).grant(number, grant->pull, grant->granted);
      }
      break;
    case FrameKind::kPullClose:
      if (auto close = wire::decode<PullClose>(frame.body)) {
        return bulk(number).stop_sending(number, close->pull);
      }
      break;
    case FrameKind::kPullFailed:
      if (auto end = wire::decode<PullFailed>(frame.body)) return on_pull_end(*session, *end);
      break;
    case FrameKind::kBye:
      if (auto bye = wire::decode<Bye>(frame.body)) {
        return end_session(number, {StatusCode::kDisconnected, bye->message});
      }
      break;
    default:
      break;
  }
  session->link->violation("sends a frame that may not be there");
}

void SockFabric::end_session(uint64_t number, const Status& why) {
  Session* session = live(number);
  if (session == nullptr) return;
  session->closing = true;
  session->link->close(why);
  session->bulk_dial.reset();
  by_peer_.erase(session->peer);
  Status status(StatusCode::kDisconnected,
                fmt::format("node {}: {}", to_string(session->peer), why.message()));
  for (PullId id : session->pulls) {
    Pull& pull = *pulls_[id];
    if (std::exchange(pull.ending, true)) continue;
    pull.status = status;
  }
  bulk(number).drop(number);
  PeerId peer = session->peer;
  post([this, peer, status] { options_.events.on_peer(peer, PeerState::kDown, status); });
}

// The bulk thread has let go.
void SockFabric::finish_session(uint64_t number) {
  auto taken = sessions_.extract(number);
  if (taken.empty()) return;
  Session& session = *taken.mapped();
  while (!session.held.empty()) release(session, session.held.begin()->first);
  std::vector<PullId> ids(session.pulls.begin(), session.pulls.end());
  for (PullId id : ids) {
    if (auto it = pulls_.find(id); it != pulls_.end()) finish_pull(id, it->second->status);
  }
}

}  // namespace sheaf::transport
