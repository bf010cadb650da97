// How the daemon puts a message on a client's lane 0. Part of Service; included by its sources
// only.
#pragma once

#include "launchers/service.h"

namespace sheaf::launchers {

template <class T>
void Service::send(Client& client, protocol::MessageType type, const T& message) {
  if (client.dead || client.broken) return;
  std::string head = wire::encode(protocol::Envelope{});
  client.lane->send(static_cast<uint16_t>(type), wire::as_bytes(head),
                    wire::as_bytes(wire::encode(message)));
}

template <class T>
void Service::send(ProcessId process, protocol::MessageType type, const T& message) {
  if (!is_here(process)) {
    std::string text = wire::encode(protocol::Envelope{}) + wire::encode(message);
    return tell_node(node_of(process), NodeMessageType::kToProcess,
                     wire::encode(ForProcess{process, static_cast<uint16_t>(type),
                                             std::move(text)}));
  }
  if (Client* client = clients_->alive(process)) send(*client, type, message);
}

}  // namespace sheaf::launchers
