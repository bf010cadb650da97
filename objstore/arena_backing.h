// Where the arena's file comes from: tries the kinds of memory in order and makes an unlinked,
// private file of the given size. Nothing stays visible in any file system. Stateless; the daemon
// calls it once at start.
#pragma once

#include <cstdint>

#include "core/status.h"
#include "objstore/arena.h"

namespace sheaf::objstore::internal {

struct BackingFile {
  int fd = -1;   // owned by the receiver
  ArenaBacking backing = ArenaBacking::kMemfd;
};

// The first kind from `first` on that works here.
Result<BackingFile> open_backing(ArenaBacking first, uint64_t bytes);

}  // namespace sheaf::objstore::internal
