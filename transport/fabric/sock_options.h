// What a `sock` fabric is made with, and the small helpers on sockets that its parts share.
#pragma once

#include <sys/socket.h>

#include <chrono>
#include <cstddef>
#include <string>

#include "core/fd.h"
#include "core/log.h"
#include "core/status.h"
#include "transport/fabric/cluster_secret.h"
#include "transport/fabric/fabric.h"

namespace sheaf::transport {

struct SockFabricOptions {
  PeerId self;
  ClusterSecret secret;
  // Peers that say another one are refused (kPermissionDenied); 0: not known, and nobody is. Tells
  // two clusters apart that had the same secret and address one after the other.
  uint64_t cluster = 0;
  bool listens = true;
  FabricAddress listen{"127.0.0.1", 0};  // port 0: the kernel chooses
  FabricEvents events;
  Logger log;
  // From the TCP connection to the end of the greeting.
  std::chrono::milliseconds handshake_timeout{2000};
  // A silent peer's session ends after this at the latest, if the owner's detector is not faster.
  std::chrono::milliseconds peer_timeout{10000};
  size_t half_open_max = 64;
  // Messages of one peer that wait for credit.
  size_t queue_bytes = 4 << 20;
  // Encryption costs a core about 2 GB/s. Peers are spread over the threads.
  int bulk_threads = 1;
};

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
};
Result<SocketAddress> to_socket_address(const FabricAddress& address);
FabricAddress from_socket_address(const SocketAddress& address);
// Non-blocking listener.
Result<Fd> listen_on(const FabricAddress& address, FabricAddress* bound);
void set_stream_options(int fd, bool control, std::chrono::milliseconds peer_timeout);

}  // namespace sheaf::transport
