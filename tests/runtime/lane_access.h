// How these tests reach the ring beneath a lane.
#pragma once

#include "runtime/impl.h"

namespace testgarbage {

// An explicit instantiation may name a private member; the function that it defines hands it out.
template <auto Member>
struct Reach {
  friend const sheaf::transport::LaneInfo& info_of(const sheaf::transport::Lane& lane) { return lane.*Member; }
};
const sheaf::transport::LaneInfo& info_of(const sheaf::transport::Lane& lane);
template struct Reach<&sheaf::transport::Lane::info_>;

// An odd cursor in the ring that we send on, and a wake for whoever reads it.
inline void spoil_ring(sheaf::runtime::Runtime::Impl& rt, sheaf::runtime::Peer& peer) {
  const auto& info = info_of(peer.lane);
  auto* ring = rt.session.region.at<sheaf::transport::RingBlock>(info.tx_ring);
  ring->head.fetch_add(13, std::memory_order_seq_cst);
  sheaf::transport::BellRinger(rt.session.region.at<sheaf::transport::BellBlock>(info.peer_bell), info.peer_lane)
      .ring();
}

}  // namespace testgarbage
