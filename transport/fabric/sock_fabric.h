// The `sock` backend: TCP with TLS 1.3 and a pre-shared key. Always there; needs nothing of the
// host.
//
// A session is a control connection (sock_link.h), on the owner's loop, and, from the first pull
// on, a bulk connection (sock_bulk.h) on a thread of the fabric's. The reader of a pull grants the
// bytes that may be on their way, at most kPullWindowBytes per peer, in order of urgency.
#pragma once

#include <memory>

#include "transport/fabric/fabric.h"
#include "transport/fabric/sock_options.h"

namespace sheaf::transport {

inline constexpr uint64_t kPullWindowBytes = 8 << 20;
// Pulls of one peer that its exporter knows of; more wait at the reader.
inline constexpr size_t kOpenPullsMax = 64;

Result<std::unique_ptr<Fabric>> make_sock_fabric(EventLoop& loop, SockFabricOptions options);

}  // namespace sheaf::transport
