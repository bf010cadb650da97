#include "transport/fabric/sock_fabric.h"

#include <fmt/core.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>

#include "transport/fabric/sock_state.h"

namespace sheaf::transport {
namespace {

// Welcomes name sessions by numbers that nobody can guess.
uint64_t random_session_name() {
  uint64_t out;
  while (getrandom(&out, sizeof out, 0) != sizeof out) SHEAF_CHECK(errno == EINTR);
  return out;
}

}  // namespace

Result<std::unique_ptr<Fabric>> make_sock_fabric(EventLoop& loop, SockFabricOptions options) {
  auto fabric = std::make_unique<SockFabric>(loop, std::move(options));
  SHEAF_TRY(fabric->start());
  return std::unique_ptr<Fabric>(std::move(fabric));
}

Status SockFabric::start() {
  if (options_.bulk_threads < 1 || options_.half_open_max < 1 || !options_.events.on_message ||
      !options_.events.on_peer) {
    return {StatusCode::kInvalidArgument, "a fabric needs handlers, a place and a thread"};
  }
  SHEAF_ASSIGN(tls_, TlsContext::create(options_.secret));
  for (int i = 0; i < options_.bulk_threads; ++i) {
    SHEAF_ASSIGN(bulks_.emplace_back(), SockBulk::create(loop_, bulk_events()));
  }
  if (!options_.listens) return Status::ok();
  auto judge_hello = [this](const Hello& hello) { return judge(hello); };
  auto greeted = [this](Greeted result, const FabricAddress& from) {
    on_greeted(std::move(result), from);
  };
  SHEAF_ASSIGN(listener_, SockListener::create(loop_, tls_, options_, judge_hello, greeted));
  return Status::ok();
}

FabricCapabilities SockFabric::capabilities() const {
  FabricCapabilities out;
  out.name = "sock";
  out.encrypted = true;
  out.best_pull_bytes = 4 << 20;
  return out;
}

FabricStats SockFabric::stats() const {
  FabricStats out = stats_;
  out.peers_up = by_peer_.size();
  if (listener_) {
    out.half_open = listener_->half_open();
    out.refused += listener_->refused();
  }
  return out;
}

Session* SockFabric::live(uint64_t number) {
  auto it = sessions_.find(number);
  return it == sessions_.end() || it->second->closing ? nullptr : it->second.get();
}

Session* SockFabric::live(const PeerId& peer) {
  auto it = by_peer_.find(peer);
  return it == by_peer_.end() ? nullptr : live(it->second);
}

Status SockFabric::send(const PeerId& to, uint16_t type, wire::Bytes payload) {
  Session* session = live(to);
  if (session == nullptr) {
    return {StatusCode::kDisconnected, "no session with node " + to_string(to)};
  }
  Status sent = session->link->send(type, payload);
  if (sent.is_ok()) {
    ++stats_.messages_sent;
    stats_.message_bytes_sent += payload.size();
  }
  return sent;
}

CreditHold SockFabric::hold_credit() {
  Session* session = live(handling_);
  return session == nullptr ? CreditHold{} : session->link->hold_credit();
}

Status SockFabric::export_region(uint32_t region, std::span<const std::byte> memory,
                                 RangeGuard* guard) {
  if (exports_.contains(region)) {
    return {StatusCode::kAlreadyExists, fmt::format("region {} is exported already", region)};
  }
  exports_.emplace(region, Export{memory, guard, 0, false, {}});
  return Status::ok();
}

void SockFabric::withdraw_region(uint32_t region, std::function<void()> done) {
  auto it = exports_.find(region);
  if (it == exports_.end() || it->second.withdrawn) return post(std::move(done));
  if (it->second.held == 0) {
    exports_.erase(it);
    return post(std::move(done));
  }
  it->second.withdrawn = true;
  it->second.on_free = std::move(done);
}

void SockFabric::fail(const PeerId& peer, const Status& why) {
  if (Session* session = live(peer)) end_session(session->number, why);
}

void SockFabric::fence(uint32_t node, uint64_t incarnation) {
  NodeMemory& memory = nodes_[node];
  memory.fence = std::max(memory.fence, incarnation);
  std::vector<uint64_t> stale;
  for (const auto& [peer, number] : by_peer_) {
    if (peer.node == node && peer.incarnation < memory.fence) stale.push_back(number);
  }
  for (uint64_t number : stale) {
    end_session(number, {StatusCode::kDisconnected, "this life of the node was declared dead"});
  }
}

Welcome SockFabric::judge(const Hello& hello) {
  Welcome out;
  out.self = options_.self;
  Status status;
  if (hello.magic != kFabricMagic) {
    status = {StatusCode::kUnsupported, "speaks another protocol"};
  } else if (hello.version != kFabricVersion) {
    status = {StatusCode::kUnsupported,
              fmt::format("speaks version {} of the fabric's protocol, node {} speaks {}",
                          hello.version, to_string(options_.self), kFabricVersion)};
  } else if (hello.cluster != 0 && options_.cluster != 0 && hello.cluster != options_.cluster) {
    status = {StatusCode::kPermissionDenied,
              "another cluster is at this address now, with the same secret and another journal"};
  } else if (hello.expected.node != options_.self.node ||
             (hello.expected.incarnation != 0 &&
              hello.expected.incarnation != options_.self.incarnation)) {
    status = {StatusCode::kDisconnected, fmt::format("looks for node {}, this is {}",
                                                     to_string(hello.expected),
                                                     to_string(options_.self))};
  } else if (hello.self == options_.self || hello.self.incarnation == 0) {
    status = {StatusCode::kInvalidArgument,
              "has no identity of its own: it says it is " + to_string(hello.self)};
  } else if (hello.purpose == ConnectionPurpose::kBulk) {
    status = judge_bulk(hello);
  } else {
    status = judge_control(hello);
    out.session = random_session_name();
    if (auto dial = dials_.find(hello.self.node); dial != dials_.end()) {
      out.abandoned = dial->second.number;
    }
  }
  out.code = status.code();
  out.message = status.message();
  return out;
}

Status SockFabric::judge_bulk(const Hello& hello) {
  Session* session = live(hello.self);
  if (session == nullptr || session->secret != hello.session || session->dialer ||
      session->has_bulk) {
    return {StatusCode::kDisconnected, "names a session that is not there"};
  }
  return Status::ok();
}

// Two nodes that dial each other at the same time must end with one session: the dial of the lower
// node counts. A dial that has been overtaken by a later one of its own node, or that its node gave
// up when it accepted ours, is void.
Status SockFabric::judge_control(const Hello& hello) {
  if (hello.self.node == kNoNode) return Status::ok();
  auto it = nodes_.find(hello.self.node);
  if (it != nodes_.end()) {
    const NodeMemory& known = it->second;
    if (hello.self.incarnation < std::max(known.incarnation, known.fence)) {
      return {StatusCode::kPermissionDenied,
              fmt::format("is life {} of node {}, which has ended", hello.self.incarnation,
                          hello.self.node)};
    }
    if (hello.self.incarnation == known.incarnation &&
        hello.dial <= std::max(known.last_dial, known.abandoned)) {
      return {StatusCode::kCancelled, "comes after a later connection of the same node"};
    }
  }
  auto dial = dials_.find(hello.self.node);
  bool ours_is_under_way = dial != dials_.end() && dial->second.greeting != nullptr;
  if (ours_is_under_way && options_.self < hello.self) {
    return {StatusCode::kAlreadyExists, "is being connected to from here"};
  }
  return Status::ok();
}

void SockFabric::close() {
  if (std::exchange(closed_, true)) return;
  const Status why(StatusCode::kDisconnected, "the node leaves");
  listener_.reset();
  for (auto& [number, session] : sessions_) {
    if (session->link) session->link->close(why);
    session->bulk_dial.reset();
  }
  bulks_.clear();   // joins the threads: nobody touches memory any more
  gate_.reset();    // what was posted is done here instead
  std::map<uint32_t, Dial> dials = std::exchange(dials_, {});
  for (auto& [node, dial] : dials) {
    for (Waiter& waiter : dial.waiters) {
      loop_.cancel_timer(waiter.timer);
      waiter.done(Status(StatusCode::kCancelled, "the fabric is closed"));
    }
  }
  auto peers = std::exchange(by_peer_, {});
  while (!pulls_.empty()) {
    PullId id = pulls_.begin()->first;
    const Pull& pull = *pulls_.begin()->second;
    finish_pull(id, pull.ending ? pull.status
                                : Status(StatusCode::kCancelled, "the fabric is closed"));
  }
  for (auto& [number, session] : sessions_) {
    while (!session->held.empty()) release(*session, session->held.begin()->first);
  }
  sessions_.clear();
  const Status closed(StatusCode::kCancelled, "the fabric is closed");
  for (auto& [peer, number] : peers) options_.events.on_peer(peer, PeerState::kDown, closed);
}

}  // namespace sheaf::transport
