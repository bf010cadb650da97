#include "launchers/mesh.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "transport/fabric/sock_fabric.h"

namespace sheaf::launchers {

using transport::PeerState;

namespace {

// Messages of the mesh itself; those of its user start at 16.
constexpr uint16_t kResume = 1;   // u64: the last number received; first message of a connection
constexpr uint16_t kConfirm = 2;  // u64: the same, while messages flow
constexpr uint16_t kGoesOn = 0x8000;  // the message's next part follows
constexpr size_t kAssemblyBytesMax = size_t{1} << 30;
constexpr uint64_t kConfirmMessages = 64;
constexpr size_t kCongestedBytes = 4 << 20;

std::string number_bytes(uint64_t number) {
  return std::string(reinterpret_cast<const char*>(&number), sizeof number);
}

}  // namespace

Result<std::unique_ptr<Mesh>> Mesh::create(EventLoop& loop, MeshOptions options) {
  auto mesh = std::unique_ptr<Mesh>(new Mesh(loop, std::move(options)));
  Mesh* m = mesh.get();
  transport::SockFabricOptions fabric;
  fabric.self = m->options_.self;
  fabric.secret = m->options_.secret;
  fabric.cluster = m->options_.cluster;
  fabric.listen = m->options_.listen;
  fabric.peer_timeout = m->options_.peer_timeout;
  fabric.log = m->options_.log;
  fabric.events.on_message = [m](const PeerId& from, uint16_t type, wire::Bytes payload) {
    m->on_message(from, type, payload);
  };
  fabric.events.on_peer = [m](const PeerId& peer, PeerState state, const Status& why) {
    m->on_peer(peer, state, why);
  };
  fabric.events.on_room = [m](const PeerId& peer) {
    if (Channel* channel = m->find(peer)) m->flush(*channel);
  };
  SHEAF_ASSIGN(mesh->fabric_, transport::make_sock_fabric(loop, std::move(fabric)));
  return mesh;
}

Mesh::~Mesh() { close(); }

void Mesh::close() {
  if (confirm_timer_ != 0) loop_.cancel_timer(std::exchange(confirm_timer_, 0));
  for (auto& [node, channel] : channels_) {
    if (channel.retry != 0) loop_.cancel_timer(channel.retry);
  }
  channels_.clear();
  if (fabric_) fabric_->close();
}

Mesh::Channel* Mesh::find(const PeerId& peer) {
  auto it = channels_.find(peer.node);
  return it != channels_.end() && it->second.peer == peer ? &it->second : nullptr;
}

PeerId Mesh::peer(uint32_t node) const {
  auto it = channels_.find(node);
  return it == channels_.end() ? PeerId{node, 0} : it->second.peer;
}

void Mesh::know(const PeerId& peer, const FabricAddress& address) {
  auto [it, added] = channels_.try_emplace(peer.node);
  Channel& channel = it->second;
  if (!added && channel.peer != peer) {
    forget(channel.peer, Status(StatusCode::kDisconnected, "the node has restarted"));
    return know(peer, address);
  }
  channel.peer = peer;
  channel.address = address;
  // It connected to us before we knew it.
  if (added && fabric_->is_up(peer)) {
    on_peer(peer, PeerState::kUp, Status());
    if (auto early = early_.extract(peer)) agree(channels_.at(peer.node), early.mapped());
  }
}

void Mesh::forget(const PeerId& peer, const Status& why) {
  Channel* channel = find(peer);
  if (channel == nullptr) return;
  if (channel->retry != 0) loop_.cancel_timer(channel->retry);
  channels_.erase(peer.node);
  fabric_->fail(peer, why);
  fabric_->fence(peer.node, peer.incarnation + 1);
}

void Mesh::seek(uint32_t node, const FabricAddress& address,
                std::function<void(const Result<PeerId>&)> done) {
  auto deadline = EventLoop::Clock::now() + options_.connect_timeout;
  fabric_->connect({node, 0}, address, deadline, std::move(done));
}

void Mesh::send(uint32_t node, uint16_t type, wire::Bytes payload) {
  auto it = channels_.find(node);
  if (it == channels_.end()) return;
  Channel& channel = it->second;
  while (payload.size() > kMeshMessageBytesMax) {
    queue(channel, type | kGoesOn, payload.first(kMeshMessageBytesMax));
    payload = payload.subspan(kMeshMessageBytesMax);
  }
  queue(channel, type, payload);
  if (channel.agreed)
    flush(channel);
  else if (!fabric_->is_up(channel.peer))
    connect(channel);
}

void Mesh::queue(Channel& channel, uint16_t type, wire::Bytes payload) {
  Sent message{++channel.last_number, type, {}};
  message.frame.reserve(kMeshHeadBytes + payload.size());
  message.frame += number_bytes(message.number);
  message.frame += number_bytes(0);  // what we have received, filled in when it goes out
  message.frame.append(wire::as_text(payload));
  channel.bytes += message.frame.size();
  channel.unconfirmed.push_back(std::move(message));
  ++channel.unsent;
}

void Mesh::answer_newcomer(const PeerId& peer, uint16_t type, wire::Bytes payload) {
  std::string frame(kMeshHeadBytes, '\0');
  frame.append(wire::as_text(payload));
  (void)fabric_->send(peer, type, wire::as_bytes(frame));
}

bool Mesh::congested(uint32_t node) const {
  auto it = channels_.find(node);
  if (it == channels_.end() || it->second.bytes < kCongestedBytes) return false;
  const_cast<Channel&>(it->second).told_congested = true;
  return true;
}

uint64_t Mesh::unconfirmed_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [node, channel] : channels_) bytes += channel.bytes;
  return bytes;
}

void Mesh::contact(const PeerId& peer) {
  Channel* channel = find(peer);
  if (channel != nullptr && !fabric_->is_up(peer)) connect(*channel);
}

void Mesh::connect(Channel& channel) {
  if (channel.connecting || channel.retry != 0) return;
  channel.connecting = true;
  PeerId peer = channel.peer;
  fabric_->connect(peer, channel.address, EventLoop::Clock::now() + options_.connect_timeout,
                   [this, peer](Result<PeerId> result) {
                     Channel* c = find(peer);
                     if (c == nullptr) return;
                     c->connecting = false;
                     if (result) return;  // on_peer has been called, or will be
                     bool refused = result.status().code() == StatusCode::kDisconnected;
                     if (options_.events.on_silence)
                       options_.events.on_silence(peer, refused, result.status());
                     if (Channel* still = find(peer)) retry_later(*still);
                   });
}

void Mesh::retry_later(Channel& channel) {
  if (channel.retry != 0) return;
  PeerId peer = channel.peer;
  channel.retry = loop_.call_after(options_.reconnect_pause, [this, peer] {
    Channel* c = find(peer);
    if (c == nullptr) return;
    c->retry = 0;
    if (!fabric_->is_up(peer)) connect(*c);
  });
}

void Mesh::on_peer(const PeerId& peer, PeerState state, const Status& why) {
  Channel* channel = find(peer);
  if (state == PeerState::kDown) early_.erase(peer);
  if (channel == nullptr) return;
  if (state == PeerState::kUp) {
    std::string received = number_bytes(channel->received);
    channel->confirmed = channel->received;
    (void)fabric_->send(peer, kResume, wire::as_bytes(received));
    return;
  }
  channel->agreed = false;
  channel->unsent = channel->unconfirmed.size();
  SHEAF_LOG(options_.log, kInfo, "the connection to node {} broke: {}", to_string(peer),
            why.to_string());
  // At once: a refusal proves that nobody is there any more.
  connect(*channel);
}

void Mesh::agree(Channel& channel, uint64_t received) {
  drop_confirmed(channel, received);
  channel.unsent = channel.unconfirmed.size();
  channel.agreed = true;
  PeerId peer = channel.peer;
  if (options_.events.on_contact) options_.events.on_contact(peer);
  if (Channel* still = find(peer)) flush(*still);
}

void Mesh::flush(Channel& channel) {
  while (channel.agreed && channel.unsent > 0) {
    Sent& next = channel.unconfirmed[channel.unconfirmed.size() - channel.unsent];
    std::memcpy(next.frame.data() + sizeof(uint64_t), &channel.received, sizeof(uint64_t));
    if (!fabric_->send(channel.peer, next.type, wire::as_bytes(next.frame)).is_ok()) return;
    channel.confirmed = channel.received;
    --channel.unsent;
  }
}

void Mesh::drop_confirmed(Channel& channel, uint64_t number) {
  while (!channel.unconfirmed.empty() && channel.unconfirmed.front().number <= number) {
    channel.bytes -= channel.unconfirmed.front().frame.size();
    if (channel.unsent == channel.unconfirmed.size()) --channel.unsent;
    channel.unconfirmed.pop_front();
  }
  if (channel.told_congested && channel.bytes < kCongestedBytes / 2) {
    channel.told_congested = false;
    if (options_.events.on_room) options_.events.on_room(channel.peer);
  }
}

void Mesh::confirm(Channel& channel) {
  if (!channel.agreed || channel.confirmed == channel.received) return;
  std::string received = number_bytes(channel.received);
  if (!fabric_->send(channel.peer, kConfirm, wire::as_bytes(received)).is_ok()) return;
  channel.confirmed = channel.received;
}

void Mesh::confirm_later() {
  if (confirm_timer_ != 0) return;
  confirm_timer_ = loop_.call_after(options_.confirm_delay, [this] {
    confirm_timer_ = 0;
    for (auto& [node, channel] : channels_) confirm(channel);
  });
}

void Mesh::on_message(const PeerId& from, uint16_t type, wire::Bytes bytes) {
  Channel* channel = find(from);
  if (channel == nullptr) {
    // A node that asks for a number has no channel; one that has heard of us first says so, and
    // sends nothing else until we have heard of it.
    if (from.node == transport::kNoNode && bytes.size() >= kMeshHeadBytes)
      options_.events.on_message(from, type, bytes.subspan(kMeshHeadBytes));
    else if (type == kResume && bytes.size() >= sizeof(uint64_t))
      std::memcpy(&early_[from], bytes.data(), sizeof(uint64_t));
    return;
  }
  uint64_t number = 0, received = 0;
  if (bytes.size() < sizeof number) return;
  std::memcpy(&number, bytes.data(), sizeof number);
  if (type == kResume) return agree(*channel, number);
  if (type == kConfirm) return drop_confirmed(*channel, number);
  if (bytes.size() < kMeshHeadBytes || number <= channel->received) return;
  if (number != channel->received + 1) {
    return fabric_->fail(from, Status(StatusCode::kCorrupt, "a message is missing"));
  }
  std::memcpy(&received, bytes.data() + sizeof number, sizeof received);
  channel->received = number;
  if (number - channel->confirmed >= kConfirmMessages)
    confirm(*channel);
  else
    confirm_later();
  drop_confirmed(*channel, received);
  deliver(*channel, type, bytes.subspan(kMeshHeadBytes));
}

// The handler may forget the channel.
void Mesh::deliver(Channel& channel, uint16_t type, wire::Bytes payload) {
  PeerId from = channel.peer;
  if ((type & kGoesOn) == 0 && channel.assembly.empty())
    return options_.events.on_message(from, type, payload);
  channel.assembly.append(wire::as_text(payload));
  if (channel.assembly.size() > kAssemblyBytesMax) {
    return fabric_->fail(from, Status(StatusCode::kCorrupt, "a message does not end"));
  }
  if ((type & kGoesOn) != 0) return;
  std::string whole = std::exchange(channel.assembly, {});
  options_.events.on_message(from, type, wire::as_bytes(whole));
}

}  // namespace sheaf::launchers
