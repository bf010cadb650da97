// Requests of simulated processes to the controller. Included by the sources that make them.
#pragma once

#include <utility>

#include "tests/sim/world.h"

namespace sheaf::sim {

template <class Message>
void World::ask(Process& p, Message message, std::function<void(const Reply&)> then) {
  const uint64_t request = p.next_request++;
  p.waiting[request] = std::move(then);
  From<Message> event{p.id, request, std::move(message)};
  send_to_daemon(p.id, [this, event = std::move(event)] { to_controller(event); });
}

template <class Message>
void World::post(Process& p, Message message) {
  From<Message> event{p.id, 0, std::move(message)};
  send_to_daemon(p.id, [this, event = std::move(event)] { to_controller(event); });
}

}  // namespace sheaf::sim
