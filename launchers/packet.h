// One packet on a SOCK_SEQPACKET socket, with descriptors. Stateless; neither call blocks longer
// than the socket does.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/fd.h"
#include "core/status.h"

namespace sheaf::launchers {

inline constexpr size_t kPacketFdsMax = 8;

// kOverloaded when the socket is full, kInvalidArgument when the packet is too large for it.
Status send_packet(int socket, std::string_view bytes, std::span<const int> fds = {});

struct Packet {
  std::string bytes;
  std::vector<Fd> fds;     // close-on-exec
  bool end = false;        // the peer has closed
  bool truncated = false;  // it was longer than `bytes_max`; the rest is lost
};
// kOverloaded when nothing is there yet. Descriptors that came along are closed when the caller
// drops them.
Result<Packet> receive_packet(int socket, size_t bytes_max);

// A name in the file system, listening; 0600. kInvalidArgument when `path` is too long for a socket
// address.
Result<Fd> listen_packets(const std::string& path, int backlog);

}  // namespace sheaf::launchers
