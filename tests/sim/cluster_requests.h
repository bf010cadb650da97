// Messages to the controller from anywhere in the simulated cluster. Included by the sources that
// send them.
#pragma once

#include <utility>

#include "tests/sim/cluster.h"

namespace sheaf::sim {

inline protocol::MessageType type_of(const protocol::RegisterJob&) {
  return protocol::MessageType::kRegisterJob;
}
inline protocol::MessageType type_of(const protocol::ActorSubscribe&) {
  return protocol::MessageType::kActorSubscribe;
}
inline protocol::MessageType type_of(const protocol::ActorCreate&) {
  return protocol::MessageType::kActorCreate;
}
inline protocol::MessageType type_of(const protocol::ActorHold&) {
  return protocol::MessageType::kActorHold;
}
inline protocol::MessageType type_of(const protocol::ActorStarted&) {
  return protocol::MessageType::kActorStarted;
}
inline protocol::MessageType type_of(const protocol::GroupCreate&) {
  return protocol::MessageType::kGroupCreate;
}
inline protocol::MessageType type_of(const protocol::GroupRemove&) {
  return protocol::MessageType::kGroupRemove;
}

template <class Event>
void Cluster::tell_head(SimNode& node, Event event, size_t bytes) {
  if (node.number == 1) return to_controller(std::move(event));
  send(node, 1, bytes, [this, event = std::move(event)](SimNode&) { to_controller(event); });
}

template <class Message>
void Cluster::ask(SimProcess& p, Message message,
                  std::function<void(SimProcess&, const Reply&)> then) {
  const uint64_t request = p.next_request++;
  p.waiting[request] = [then = std::move(then)](SimProcess& self, const Reply& reply) {
    then(self, reply);
  };
  say(p, request, std::move(message));
}

template <class Message>
void Cluster::post(SimProcess& p, Message message) {
  say(p, 0, std::move(message));
}

template <class Message>
void Cluster::say(SimProcess& p, uint64_t request, Message message) {
  From<Message> event{p.id, request, std::move(message)};
  to_daemon(p, [this, event = std::move(event)](SimNode& node) {
    if (node.slot == 0) return to_controller(event);
    launchers::ForwardedRequest forwarded{event.process, event.request,
                                          static_cast<uint16_t>(type_of(event.message)),
                                          wire::encode(event.message)};
    node.ledger.said(event, forwarded, now_);
    if (!node.away) tell_head(node, event, 30 + forwarded.body.size());
  });
}

// The processes of a node that have not died, in the order of their numbers.
template <class Look>
void Cluster::each_process(const SimNode& node, Look look) {
  const ProcessId last = make_process(node.number, node.incarnation, UINT32_MAX);
  auto it = processes_.lower_bound(make_process(node.number, node.incarnation, 0));
  for (; it != processes_.end() && it->first <= last; ++it) {
    if (it->second.alive) look(it->second);
  }
}

}  // namespace sheaf::sim
