// A process's membership of its node's cluster: the socket, the shared memory, and who we are.
#pragma once

#include <memory>
#include <optional>

#include "objstore/arena.h"
#include "runtime/runtime.h"
#include "transport/lane.h"
#include "transport/lane_region.h"

namespace sheaf::runtime {

// Immutable after open(); the mappings live as long as it does.
struct Session {
  int socket = -1;                     // silent after the handshake; its end is the daemon's end
  protocol::Welcome welcome;
  transport::LaneRegion region;
  objstore::Arena arena;

  Session(int fd, protocol::Welcome w, transport::LaneRegion r, objstore::Arena a)
      : socket(fd), welcome(std::move(w)), region(std::move(r)), arena(std::move(a)) {}
  Session(Session&& other) noexcept
      : socket(std::exchange(other.socket, -1)), welcome(std::move(other.welcome)),
        region(std::move(other.region)), arena(std::move(other.arena)) {}
  ~Session();

  // Blocks for at most a few seconds. kPermissionDenied when the daemon belongs to another user.
  static Result<Session> open(const ConnectOptions& options);
};

}  // namespace sheaf::runtime
