// The part of Store that deals with other nodes.
#include "objstore/store.h"

namespace sheaf::objstore {

void Store::peer_up(ProcessId daemon) { table_.process_joined(daemon); }

void Store::peer_down(ProcessId daemon, uint64_t barrier, TimePoint now) {
  now_ = now;
  process_died(daemon, false);
  if (barrier != 0 && options_.barrier_reached) options_.barrier_reached(barrier);
}

void Store::barrier_closed(uint64_t) {}

Status Store::on_peer(ProcessId, ObjectMessage, TimePoint now) {
  now_ = now;
  return {};
}

bool Store::may_forward(ProcessId) { return true; }

Status Store::acquire(const transport::PeerId&, const transport::RemoteRange&) {
  return {StatusCode::kNotFound, "the object is not here"};
}

void Store::release(const transport::PeerId&, const transport::RemoteRange&) {}

}  // namespace sheaf::objstore
