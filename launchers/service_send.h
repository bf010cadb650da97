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

}  // namespace sheaf::launchers
