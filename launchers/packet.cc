#include "launchers/packet.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

namespace sheaf::launchers {

Status send_packet(int socket, std::string_view bytes, std::span<const int> fds) {
  SHEAF_CHECK(fds.size() <= kPacketFdsMax);
  alignas(cmsghdr) char control[CMSG_SPACE(kPacketFdsMax * sizeof(int))] = {};
  iovec iov{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  ssize_t n = 0;
  do n = sendmsg(socket, &message, MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  if (n >= 0) return {};
  if (errno == EAGAIN || errno == EWOULDBLOCK) return {StatusCode::kOverloaded, "socket full"};
  if (errno == EMSGSIZE) return {StatusCode::kInvalidArgument, "packet too large"};
  return Status::from_errno("sendmsg", errno);
}

Result<Packet> receive_packet(int socket, size_t bytes_max) {
  Packet packet;
  packet.bytes.resize(bytes_max);
  alignas(cmsghdr) char control[CMSG_SPACE(kPacketFdsMax * sizeof(int))];
  iovec iov{packet.bytes.data(), packet.bytes.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n = 0;
  do n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  if (n < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK)
      return Status(StatusCode::kOverloaded, "nothing to read");
    return Status::from_errno("recvmsg", errno);
  }
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      packet.fds.emplace_back(fd);
    }
  }
  packet.bytes.resize(static_cast<size_t>(n));
  packet.end = n == 0;
  packet.truncated = (message.msg_flags & MSG_TRUNC) != 0;
  return packet;
}

Result<Fd> listen_packets(const std::string& path, int backlog) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Status(
        StatusCode::kInvalidArgument,
        "the socket path is too long (" + std::to_string(path.size()) +
            " bytes, 107 are possible); set SHEAF_TMPDIR to a shorter directory: " + path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return Status::from_errno("socket", errno);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return Status::from_errno("cannot bind " + path, errno);
  }
  if (::listen(fd.get(), backlog) != 0) return Status::from_errno("listen", errno);
  return fd;
}

}  // namespace sheaf::launchers
