// Lane 0: requests to the node daemon and what it tells us. Every method needs the runtime's lock unless it says so.
#pragma once

#include <map>
#include <string>
#include <unordered_map>

#include "runtime/runtime.h"
#include "transport/lane.h"

namespace sheaf::runtime {

class DaemonLink {
 public:
  DaemonLink(Runtime::Impl& rt, transport::Lane lane) : rt_(rt), lane_(std::move(lane)) {}

  transport::Lane& lane() { return lane_; }
  template <class T>
  void send(protocol::MessageType type, const T& message) {
    send_bytes(type, 0, wire::encode(message));
  }
  void send_bytes(protocol::MessageType type, uint64_t request, const std::string& body);

  struct Answer {
    bool done = false;
    Status status;
    std::string payload;
  };
  // The answer lands in `*answer`, which must stay until it is done or forget() was called.
  uint64_t start_request(protocol::MessageType type, const std::string& body, Answer* answer);
  void forget(uint64_t request) { requests_.erase(request); }
  // For requests whose answer is handled when it comes: called with the lock held.
  void request_then(protocol::MessageType type, const std::string& body, std::function<void(Answer&&)> then);

  void handle(const transport::Message& message);

  protocol::GroupState group_state(const PlacementGroupId& group);
  // A group that is removed stays so: news of its creation may have been under way.
  void set_group_state(const PlacementGroupId& group, protocol::GroupState state);

 private:
  void handle_reply(uint64_t request, wire::Bytes body);
  void handle_object_ready(wire::Bytes body);
  void handle_lane_open(wire::Bytes body);
  void handle_exit(wire::Bytes body);

  Runtime::Impl& rt_;
  transport::Lane lane_;
  uint64_t next_request_ = 1;
  struct Pending {
    Answer* answer = nullptr;
    std::function<void(Answer&&)> then;
  };
  std::unordered_map<uint64_t, Pending> requests_;
  std::map<PlacementGroupId, protocol::GroupState> groups_;
};

}  // namespace sheaf::runtime
