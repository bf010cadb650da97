#include "transport/fabric/sock_listener.h"

#include <fmt/core.h>

#include <cerrno>
#include <utility>

namespace sheaf::transport {
namespace {

constexpr int kAcceptsPerRound = 16;
// What stands between us and the next accept() when the process is out of descriptors.
constexpr auto kAcceptRetry = std::chrono::milliseconds(100);

}  // namespace

Result<std::unique_ptr<SockListener>> SockListener::create(EventLoop& loop,
                                                           std::shared_ptr<TlsContext> tls,
                                                           const SockFabricOptions& options,
                                                           Greeting::Judge judge,
                                                           OnGreeted on_greeted) {
  std::unique_ptr<SockListener> out(new SockListener(loop, options));
  out->tls_ = std::move(tls);
  out->judge_ = std::move(judge);
  out->on_greeted_ = std::move(on_greeted);
  SHEAF_ASSIGN(out->socket_, listen_on(options.listen, &out->address_));
  SockListener* self = out.get();
  SHEAF_TRY(loop.add_fd(out->socket_.get(), EPOLLIN, [self](uint32_t) { self->accept_some(); }));
  return out;
}

SockListener::~SockListener() {
  if (resume_ != 0) loop_.cancel_timer(resume_);
  if (socket_) loop_.remove_fd(socket_.get());
}

void SockListener::accept_some() {
  for (int i = 0; i < kAcceptsPerRound && have_room(); ++i) {
    SocketAddress from;
    from.size = sizeof from.storage;
    Fd socket(::accept4(socket_.get(), reinterpret_cast<sockaddr*>(&from.storage), &from.size,
                        SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        pause(kAcceptRetry);
      }
      return;
    }
    uint64_t number = next_++;
    HalfOpen& place = half_open_[number];
    place.from = from_socket_address(from);
    place.greeting =
        Greeting::accept(loop_, tls_, options_, std::move(socket), judge_,
                         [this, number](Greeted result) { greeted(number, std::move(result)); });
  }
}

bool SockListener::have_room() {
  if (half_open_.size() < options_.half_open_max) return true;
  auto now = EventLoop::Clock::now();
  for (auto it = half_open_.begin(); it != half_open_.end(); ++it) {
    const Greeting& greeting = *it->second.greeting;
    if (now - greeting.started() < (greeting.silent() ? kEvictSilentAfter : kEvictAfter)) continue;
    refuse(it->second.from, Status(StatusCode::kOverloaded, "too many wait to authenticate"));
    half_open_.erase(it);
    return true;
  }
  pause(kEvictSilentAfter);
  return false;
}

void SockListener::pause(std::chrono::milliseconds delay) {
  if (resume_ != 0) return;
  (void)loop_.change_fd(socket_.get(), 0);
  resume_ = loop_.call_after(delay, [this] {
    resume_ = 0;
    (void)loop_.change_fd(socket_.get(), EPOLLIN);
  });
}

void SockListener::greeted(uint64_t number, Greeted result) {
  auto node = half_open_.extract(number);
  if (node.empty()) return;
  if (!result.status.is_ok()) {
    refuse(node.mapped().from, result.status);
    return;
  }
  on_greeted_(std::move(result), node.mapped().from);
}

void SockListener::refuse(const FabricAddress& from, const Status& why) {
  ++refused_;
  if (!options_.log.enabled(LogLevel::kWarning)) return;
  options_.log.limited(refusals_, LogLevel::kWarning,
                       fmt::format("refused a connection from {}: {}", to_string(from),
                                   why.message()));
}

}  // namespace sheaf::transport
