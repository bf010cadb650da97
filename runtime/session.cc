#include "runtime/session.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

namespace sheaf::runtime {

namespace {

constexpr int kHandshakeFds = 2;           // lane region, arena
constexpr size_t kWelcomeBytesMax = 64 * 1024;
constexpr int kHandshakeSeconds = 10;

Result<int> connect_socket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Status(StatusCode::kInvalidArgument, "not a usable socket path: '" + path + "'");
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return Status::from_errno("socket", errno);
  timeval limit{kHandshakeSeconds, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    int error = errno;
    close(fd);
    return Status::from_errno("cannot reach the node daemon at " + path, error);
  }
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != geteuid()) {
    close(fd);
    return Status(StatusCode::kPermissionDenied, "the node daemon at " + path + " belongs to another user");
  }
  return fd;
}

// Receives one packet and the descriptors with it. On error no descriptor is left open.
Result<protocol::Welcome> receive_welcome(int fd, int (&fds)[kHandshakeFds]) {
  auto buffer = std::make_unique_for_overwrite<char[]>(kWelcomeBytesMax);   // a new worker pays for each page it touches
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fds)];
  iovec iov{buffer.get(), kWelcomeBytesMax};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n = 0;
  do n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0) return Status::from_errno("no answer from the node daemon", errno);
  if (n == 0) return Status(StatusCode::kDisconnected, "the node daemon closed the connection");
  int received = 0;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    received = static_cast<int>((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(fds, CMSG_DATA(c), sizeof(int) * static_cast<size_t>(std::min(received, kHandshakeFds)));
  }
  auto welcome = wire::decode<protocol::Welcome>(std::string_view(buffer.get(), static_cast<size_t>(n)));
  Status status = welcome.status();
  if (status.is_ok() && welcome->code != StatusCode::kOk) status = Status(welcome->code, welcome->message);
  if (status.is_ok() && received != kHandshakeFds) {
    status = Status(StatusCode::kCorrupt, "the node daemon sent no shared memory");
  }
  if (!status.is_ok()) {
    for (int i = 0; i < received; ++i) close(fds[i]);
    return status;
  }
  return welcome;
}

}  // namespace

Session::~Session() {
  if (socket >= 0) close(socket);
}

Result<Session> Session::open(const ConnectOptions& options) {
  SHEAF_ASSIGN(int fd, connect_socket(options.socket_path));
  protocol::Hello hello;
  hello.kind = options.kind;
  hello.pid = static_cast<int32_t>(getpid());
  hello.spawn_token = options.spawn_token;
  std::string bytes = wire::encode(hello);
  int fds[kHandshakeFds] = {-1, -1};
  if (::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) {
    int error = errno;
    close(fd);
    return Status::from_errno("cannot greet the node daemon", error);
  }
  auto welcome = receive_welcome(fd, fds);
  if (!welcome) {
    close(fd);
    return welcome.status();
  }
  auto region = transport::LaneRegion::map(fds[0]);
  auto arena = objstore::Arena::map(fds[1], welcome->arena_bytes);
  if (!region || !arena) {
    close(fd);
    return region ? arena.status() : region.status();
  }
  return Session(fd, std::move(*welcome), std::move(*region), std::move(*arena));
}

}  // namespace sheaf::runtime
