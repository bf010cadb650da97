// The processes that we share a lane with. Needs the runtime's lock.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "runtime/task.h"

namespace sheaf::runtime {

class Peers {
 public:
  explicit Peers(Runtime::Impl& rt) : rt_(rt) {}

  // The known peer, or a new one on this lane; null when the lane's offsets are not ours. A lane to
  // ourselves (an actor calls itself) is opened by both ends: one to send on, one to read from.
  Peer* open(ProcessId process, const transport::LaneInfo& lane);
  Peer* find(ProcessId process);
  // Drains one lane: true when it was left empty. One that holds nonsense is the end of its peer.
  bool drain_lane(uint32_t lane);
  void down(ProcessId process, const protocol::ErrorRecord& cause);
  // Moves overflow into rings that have room again.
  void flush();
  bool has_overflow() const;
  void for_each(const std::function<void(Peer&)>& visit);
  // It sent a record that no correct peer sends: after the current message it counts as dead.
  void distrust(const Peer& peer) { distrusted_.push_back(peer.process); }

 private:
  // For peers that broke their lane: calls to them end as if they had died, and the daemon is asked to make it so.
  void end_broken();
  void end(Peer& peer, const protocol::ErrorRecord& cause);
  void handle(Peer& peer, const transport::Message& message);

  Runtime::Impl& rt_;
  std::map<ProcessId, std::unique_ptr<Peer>> peers_;
  std::vector<Peer*> by_lane_;
  std::vector<ProcessId> distrusted_;
  std::unique_ptr<Peer> echo_;   // what we read our own messages from; they are handled as the sending end's
};

}  // namespace sheaf::runtime
