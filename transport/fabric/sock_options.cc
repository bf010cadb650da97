#include "transport/fabric/sock_options.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>

#include <cerrno>
#include <cstring>

namespace sheaf::transport {
namespace {

constexpr int kBacklog = 512;
// Unsent bytes that the kernel may take from a bulk connection: what an urgent pull waits behind.
constexpr int kBulkUnsentBytes = 1 << 20;

void set(int fd, int level, int name, int value) {
  // Options are hints: a kernel without one still works.
  (void)setsockopt(fd, level, name, &value, sizeof value);
}

}  // namespace

Result<SocketAddress> to_socket_address(const FabricAddress& address) {
  SocketAddress out;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&out.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&out.storage);
  if (inet_pton(AF_INET, address.host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(address.port);
    out.size = sizeof *v4;
  } else if (inet_pton(AF_INET6, address.host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(address.port);
    out.size = sizeof *v6;
  } else {
    return Status(StatusCode::kInvalidArgument, address.host + " is no numeric address");
  }
  return out;
}

FabricAddress from_socket_address(const SocketAddress& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.storage.ss_family == AF_INET6) {
    auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address.storage);
    inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
    return {text, ntohs(v6->sin6_port)};
  }
  auto* v4 = reinterpret_cast<const sockaddr_in*>(&address.storage);
  inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
  return {text, ntohs(v4->sin_port)};
}

Result<Fd> listen_on(const FabricAddress& address, FabricAddress* bound) {
  SHEAF_ASSIGN(SocketAddress where, to_socket_address(address));
  Fd fd(::socket(where.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return Status::from_errno("socket", errno);
  set(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&where.storage), where.size) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    return Status::from_errno("listening on " + to_string(address), errno);
  }
  where.size = sizeof where.storage;
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&where.storage), &where.size) != 0) {
    return Status::from_errno("getsockname", errno);
  }
  *bound = from_socket_address(where);
  return fd;
}

void set_stream_options(int fd, bool control, std::chrono::milliseconds peer_timeout) {
  int timeout_ms = static_cast<int>(peer_timeout.count());
  int seconds = std::max(1, timeout_ms / 4000);
  set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  // Data that nobody acknowledges, and, by the probes, a connection on which nothing is under way.
  set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, timeout_ms);
  set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds);
  set(fd, IPPROTO_TCP, TCP_KEEPINTVL, seconds);
  set(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
  // Queueing disciplines with bands send control first.
  set(fd, IPPROTO_IP, IP_TOS, control ? IPTOS_LOWDELAY : IPTOS_THROUGHPUT);
  set(fd, SOL_SOCKET, SO_PRIORITY, control ? 6 : 2);
  if (!control) set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, kBulkUnsentBytes);
}

}  // namespace sheaf::transport
