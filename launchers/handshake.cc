#include "launchers/handshake.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <cerrno>

#include "launchers/packet.h"

namespace sheaf::launchers {

void refuse(int socket, StatusCode code, const std::string& message) {
  protocol::Welcome welcome;
  welcome.code = code;
  welcome.message = message;
  Status ignored = send_packet(socket, wire::encode(welcome));
  static_cast<void>(ignored);
}

Result<std::unique_ptr<Listener>> Listener::create(EventLoop& loop, const std::string& path,
                                                   OnGreeting on_greeting) {
  SHEAF_ASSIGN(Fd socket, listen_packets(path, kListenBacklog));
  auto listener =
      std::unique_ptr<Listener>(new Listener(loop, std::move(socket), std::move(on_greeting)));
  listener->watch_listener(true);
  return listener;
}

Listener::Listener(EventLoop& loop, Fd socket, OnGreeting on_greeting)
    : loop_(loop), socket_(std::move(socket)), on_greeting_(std::move(on_greeting)) {}

Listener::~Listener() { close(); }

void Listener::close() {
  watch_listener(false);
  while (!half_open_.empty()) drop(half_open_.begin()->first);
  socket_.reset();
}

void Listener::watch_listener(bool on) {
  if (on == watching_ || !socket_) return;
  watching_ = on;
  if (!on) return loop_.remove_fd(socket_.get());
  Status status = loop_.add_fd(socket_.get(), EPOLLIN, [this](uint32_t) { accept_some(); });
  SHEAF_CHECK(status.is_ok());
}

void Listener::accept_some() {
  while (half_open_.size() < kHalfOpenMax) {
    Fd fd(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        // Level-triggered and nothing we can do: look again when something may have been closed.
        watch_listener(false);
        loop_.call_after(std::chrono::milliseconds(100), [this] { watch_listener(true); });
      }
      return;
    }
    ucred peer{};
    socklen_t size = sizeof peer;
    if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != geteuid()) {
      ++refused_;
      continue;
    }
    int number = fd.get();
    auto timer = loop_.call_after(kHandshakeTimeout, [this, number] {
      ++refused_;
      drop(number);
    });
    half_open_.emplace(number, HalfOpen{std::move(fd), peer.pid, timer});
    Status status = loop_.add_fd(number, EPOLLIN, [this, number](uint32_t) { read_hello(number); });
    if (!status.is_ok()) drop(number);
  }
  watch_listener(false);
}

void Listener::drop(int fd) {
  auto it = half_open_.find(fd);
  if (it == half_open_.end()) return;
  loop_.cancel_timer(it->second.timer);
  loop_.remove_fd(fd);
  half_open_.erase(it);
  if (socket_) watch_listener(true);
}

void Listener::read_hello(int fd) {
  auto packet = receive_packet(fd, kHelloBytesMax);
  if (!packet && packet.status().code() == StatusCode::kOverloaded) return;
  auto hello = packet && !packet->end && !packet->truncated
                   ? wire::decode<protocol::Hello>(packet->bytes)
                   : Status(StatusCode::kCorrupt, "no greeting");
  if (!hello || hello->magic != protocol::kMagic) {
    ++refused_;
    return drop(fd);
  }
  if (hello->version != protocol::kVersion || hello->kind > protocol::ClientKind::kTool) {
    ++refused_;
    refuse(fd, StatusCode::kUnsupported,
           fmt::format("this node daemon speaks protocol {}, the client {}: both must come from "
                       "the same installation",
                       protocol::kVersion, hello->version));
    return drop(fd);
  }
  HalfOpen& entry = half_open_.at(fd);
  Greeting greeting{std::move(entry.socket), *hello, entry.pid != 0 ? entry.pid : hello->pid};
  loop_.remove_fd(fd);
  drop(fd);  // its socket has moved on
  on_greeting_(std::move(greeting));
}

}  // namespace sheaf::launchers
