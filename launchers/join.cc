#include "launchers/join.h"

#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <optional>
#include <thread>

#include "core/event_loop.h"
#include "core/fd.h"
#include "launchers/mesh.h"
#include "transport/fabric/sock_fabric.h"

namespace sheaf::launchers {

using transport::Fabric;
using transport::PeerId;
using transport::PeerState;

namespace {

constexpr auto kRetryPause = std::chrono::milliseconds(100);
constexpr auto kOneTry = std::chrono::milliseconds(3000);

// One connection, one question. kDisconnected and kTimeout may be tried again.
Result<NumberGiven> ask_once(const transport::FabricAddress& head,
                             const transport::ClusterSecret& secret, const AskNumber& ask,
                             const Logger& log) {
  SHEAF_ASSIGN(auto loop, EventLoop::create());
  std::optional<Result<NumberGiven>> answer;
  transport::SockFabricOptions options;
  uint64_t life = 0;
  SHEAF_CHECK(getrandom(&life, sizeof life, 0) == sizeof life);
  options.self = {transport::kNoNode, life | 1};
  options.secret = secret;
  options.listens = false;
  options.log = log;
  options.events.on_message = [&](const PeerId&, uint16_t type, wire::Bytes payload) {
    if (type != static_cast<uint16_t>(NodeMessageType::kNumberGiven)) return;
    if (payload.size() < kMeshHeadBytes) return;
    answer = wire::decode<NumberGiven>(payload.subspan(kMeshHeadBytes));
    loop->stop();
  };
  options.events.on_peer = [&](const PeerId&, PeerState state, const Status& why) {
    if (state != PeerState::kDown || answer) return;
    answer = why.is_ok() ? Status(StatusCode::kDisconnected, "the head hung up") : why;
    loop->stop();
  };
  SHEAF_ASSIGN(auto fabric, transport::make_sock_fabric(*loop, std::move(options)));
  auto deadline = EventLoop::Clock::now() + kOneTry;
  fabric->connect({kHeadNumber, 0}, head, deadline, [&](Result<PeerId> connected) {
    if (!connected) {
      answer = connected.status();
      return loop->stop();
    }
    std::string frame(kMeshHeadBytes, '\0');
    frame += wire::encode(ask);
    (void)fabric->send(*connected, static_cast<uint16_t>(NodeMessageType::kAskNumber),
                       wire::as_bytes(frame));
  });
  loop->call_at(deadline, [&] {
    if (!answer) answer = Status(StatusCode::kTimeout, "the head does not answer");
    loop->stop();
  });
  loop->run();
  fabric->close();
  return *std::move(answer);
}

}  // namespace

Result<NumberGiven> ask_for_number(const transport::FabricAddress& head,
                                   const transport::ClusterSecret& secret, const AskNumber& ask,
                                   std::chrono::milliseconds timeout, const Logger& log) {
  auto deadline = EventLoop::Clock::now() + timeout;
  while (true) {
    auto answer = ask_once(head, secret, ask, log);
    if (answer && answer->code != StatusCode::kOk) return Status(answer->code, answer->message);
    if (answer) return answer;
    StatusCode code = answer.status().code();
    bool nobody_yet = code == StatusCode::kDisconnected || code == StatusCode::kTimeout;
    if (!nobody_yet || EventLoop::Clock::now() >= deadline) return answer.status();
    std::this_thread::sleep_for(kRetryPause);
  }
}

std::string own_address_towards(const std::string& towards) {
  if (towards.empty()) {
    // Of documentation networks: nobody's.
    const std::string v4 = own_address_towards("192.0.2.1");
    if (!v4.starts_with("127.")) return v4;
    const std::string v6 = own_address_towards("2001:db8::1");
    return v6 == "::1" ? v4 : v6;
  }
  const std::string nowhere = towards.find(':') == std::string::npos ? "127.0.0.1" : "::1";
  const auto to = transport::to_socket_address({towards, 9});
  if (!to) return nowhere;
  transport::SocketAddress own;
  own.size = sizeof own.storage;
  Fd fd(socket(to->storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to->storage), to->size) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&own.storage), &own.size) != 0) {
    return nowhere;
  }
  return transport::from_socket_address(own).host;
}

Result<transport::FabricAddress> listen_address(const std::string& text,
                                                const std::string& towards) {
  if (text.empty() || text == "auto") {
    return transport::FabricAddress{own_address_towards(towards), 0};
  }
  auto whole = transport::parse_fabric_address(text);
  if (whole) return whole;
  std::string host = text;
  const auto colons = std::count(host.begin(), host.end(), ':');
  if ((colons == 1 || host.starts_with('[')) && host.ends_with(":0")) host.resize(host.size() - 2);
  if (host.find(':') != std::string::npos && !host.starts_with('[')) host = "[" + host + "]";
  auto address = transport::parse_fabric_address(host + ":1");
  if (!address) return whole.status();
  address->port = 0;
  return address;
}

}  // namespace sheaf::launchers
