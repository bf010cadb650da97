// Makes the lanes between client processes: one for each pair that needs one, and takes the memory
// back.
//
// A lane lives while both ends live; later leases and actors of the same pair use the same one. Its
// memory is given back when both ends have let go: an end lets go when it has been reaped, or when
// it has answered something that was sent after its PeerDown (the service's fence). Owned by the
// loop.
#pragma once

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "launchers/clients.h"

namespace sheaf::launchers {

class LaneBroker {
 public:
  LaneBroker(transport::LaneRegion& region, Clients& clients)
      : region_(region), clients_(clients) {}

  struct Link {
    transport::LaneInfo near, far;  // for `from` and for `to`
    bool fresh = false;             // `to` does not know of it yet: LaneOpen comes first
  };
  // Both alive.
  Result<Link> connect(Client& from, Client& to);
  // Those with whom this process shares a lane that they have not let go of.
  std::vector<ProcessId> peers_of(ProcessId process) const;
  // `process` does not touch its lane to `peer` any more.
  void let_go(ProcessId process, ProcessId peer);
  void reaped(ProcessId process);
  size_t lane_count() const { return lanes_.size(); }

 private:
  struct End {
    ProcessId process = 0;
    uint32_t number = 0;  // at its bell
    bool holds = true;
  };
  struct PairLane {
    transport::RegionOffset offset = 0;
    End ends[2];  // ends[0] writes the first ring
    transport::LaneInfo info(int end, Clients& clients) const;
  };
  using Key = std::pair<ProcessId, ProcessId>;  // smaller first
  static Key key_of(ProcessId a, ProcessId b) { return a < b ? Key{a, b} : Key{b, a}; }
  void drop_end(std::map<Key, PairLane>::iterator it, int end);

  transport::LaneRegion& region_;
  Clients& clients_;
  std::map<Key, PairLane> lanes_;
  std::map<ProcessId, std::set<ProcessId>> peers_;
};

}  // namespace sheaf::launchers
