// Relayed lanes: a local process talks to one of another node as if it sat beside it.
//
// The process has a lane as to any peer; the daemon holds its other end and forwards records to the
// daemon of the other process's node, unchanged and in order. Before a record goes out all that its
// sender had told this daemon is handled, so that holds on references precede the records that
// carry them. Owned by the loop.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "launchers/clients.h"
#include "launchers/node_wire.h"

namespace sheaf::launchers {

struct RelayHooks {
  // Handles what waits in the client's lane 0.
  std::function<void(Client& client)> drain;
  std::function<void(uint32_t node, wire::Bytes head_and_bytes)> forward;
  // `gate` is the record's, 0 at first; see Store::may_forward.
  std::function<bool(uint32_t node, uint64_t& gate)> congested;
};

class Relays {
 public:
  Relays(transport::LaneRegion& region, Clients& clients, RelayHooks hooks)
      : region_(region), clients_(clients), hooks_(std::move(hooks)) {}

  struct Link {
    transport::LaneInfo near;  // for the local process
    bool fresh = false;        // made by this call
  };
  Result<Link> open(Client& local, ProcessId remote);
  // Forwards what waits; true when nothing more can be done now.
  bool drain(uint32_t daemon_lane, size_t budget);
  // All lanes of a process that is dead, whatever room there is.
  void drain_last_words(ProcessId local);
  // A record of another node's process.
  void deliver(const RecordHead& head, wire::Bytes bytes);
  // Room towards this node again.
  void resume(uint32_t node);

  // Local processes that share a lane with `remote`.
  std::vector<ProcessId> locals_of(ProcessId remote) const;
  std::vector<ProcessId> remotes_on(uint16_t node, uint16_t incarnation) const;

  // The local process does not touch its lane to `remote` any more; no effect without such a lane.
  void let_go(ProcessId local, ProcessId remote);
  void remote_gone(ProcessId remote);
  void reaped(ProcessId local);

 private:
  using Key = std::pair<ProcessId, ProcessId>;  // local, remote
  struct Relay {
    ProcessId local = 0, remote = 0;
    transport::RegionOffset offset = 0;
    uint32_t daemon_number = 0, client_number = 0;
    std::optional<transport::Lane> lane;
    std::string assembly;      // of a record that comes in parts
    uint64_t gate = 0;         // of the oldest record
    bool client_holds = true;
    bool remote_alive = true;
  };
  bool forward_some(Relay& relay, size_t budget, bool force);
  void forward(const Relay& relay, const transport::Message& message);
  void release_if_done(const Key& key);

  transport::LaneRegion& region_;
  Clients& clients_;
  RelayHooks hooks_;
  std::map<Key, Relay> relays_;
  std::map<ProcessId, std::set<ProcessId>> locals_;  // by remote
  std::map<uint32_t, Relay*> by_lane_;
  std::string scratch_;
};

}  // namespace sheaf::launchers
