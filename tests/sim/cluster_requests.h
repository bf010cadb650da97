// Messages to the controller from anywhere in the simulated cluster. Included by the sources that
// send them.
#pragma once

#include <utility>

#include "tests/sim/cluster.h"

namespace sheaf::sim {

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
  const size_t bytes = options_.count_bytes ? 30 + wire::encode(message).size() : 0;
  From<Message> event{p.id, request, std::move(message)};
  to_daemon(p, [this, event = std::move(event), bytes](SimNode& node) {
    tell_head(node, event, bytes);
  });
}

template <class Message>
void Cluster::post(SimProcess& p, Message message) {
  const size_t bytes = options_.count_bytes ? 30 + wire::encode(message).size() : 0;
  From<Message> event{p.id, 0, std::move(message)};
  to_daemon(p, [this, event = std::move(event), bytes](SimNode& node) {
    tell_head(node, event, bytes);
  });
}

}  // namespace sheaf::sim
