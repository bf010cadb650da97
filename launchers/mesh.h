// Mesh: this daemon's channels to the daemons of other nodes, over a fabric.
//
// A channel delivers every message exactly once and in order for as long as both lives of its nodes
// last, whatever happens to the connection below: messages carry numbers, are kept until the other
// side has confirmed them, and are sent again after a reconnect. A channel ends only by forget(),
// when the controller has declared that life dead. Sending never blocks and never fails;
// congested() tells those who can wait that they should. Owned by the loop.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/event_loop.h"
#include "core/log.h"
#include "transport/fabric/fabric.h"
#include "transport/fabric/sock_options.h"

namespace sheaf::launchers {

using transport::FabricAddress;
using transport::PeerId;

struct MeshEvents {
  // `payload` is valid inside the call only.
  std::function<void(const PeerId& from, uint16_t type, wire::Bytes payload)> on_message;
  // The connection broke, or cannot be made. `refused`: nobody serves that life's port any more,
  // which proves its death; otherwise it may be a partition, and the mesh keeps trying.
  std::function<void(const PeerId& peer, bool refused, const Status& why)> on_silence;
  // It is there again, or for the first time.
  std::function<void(const PeerId& peer)> on_contact;
  // After congested(): there is room again.
  std::function<void(const PeerId& peer)> on_room;
};

struct MeshOptions {
  PeerId self;
  transport::ClusterSecret secret;
  uint64_t cluster = 0;  // SockFabricOptions::cluster
  FabricAddress listen;
  MeshEvents events;
  Logger log;
  std::chrono::milliseconds connect_timeout{1000};
  // A connection on which nothing is heard for so long is broken.
  std::chrono::milliseconds peer_timeout{10000};
  std::chrono::milliseconds reconnect_pause{100};
  // A receiver confirms after this at the latest, and every kConfirmMessages.
  std::chrono::milliseconds confirm_delay{20};
};

class Mesh {
 public:
  static Result<std::unique_ptr<Mesh>> create(EventLoop& loop, MeshOptions options);
  ~Mesh();

  PeerId self() const { return options_.self; }
  FabricAddress address() const { return fabric_->address(); }
  transport::Fabric& fabric() { return *fabric_; }

  // Where that life of a node listens. Messages to it may be sent from now on; the connection is
  // made with the first one.
  void know(const PeerId& peer, const FabricAddress& address);
  bool knows(const PeerId& peer) const { return channels_.contains(peer.node); }
  // It is dead: nothing of it is accepted any more, what was under way is dropped.
  void forget(const PeerId& peer, const Status& why);
  // Nothing of any life of it is accepted.
  void ban(uint32_t node) { fabric_->fence(node, UINT64_MAX); }
  // Which life of a node, not known to the mesh, is at `address` now? One attempt; see
  // Fabric::connect() for what errors prove. know() takes up the connection.
  void seek(uint32_t node, const FabricAddress& address,
            std::function<void(const Result<PeerId>&)> done);
  // The life that `node` is known by; incarnation 0 when it is not.
  PeerId peer(uint32_t node) const;

  // Connects without anything to send, so that pulls find a session.
  void contact(const PeerId& peer);

  // Dropped when the node is not known. Long ones travel in parts.
  void send(uint32_t node, uint16_t type, wire::Bytes payload);
  // To a node that has no number yet, over the connection that it made.
  void answer_newcomer(const PeerId& peer, uint16_t type, wire::Bytes payload);
  bool congested(uint32_t node) const;
  // Bytes sent and not confirmed, over all channels.
  uint64_t unconfirmed_bytes() const;
  void close();

 private:
  struct Sent {
    uint64_t number;
    uint16_t type;
    std::string frame;  // number, confirmed, payload
  };
  struct Channel {
    PeerId peer;
    FabricAddress address;
    bool connecting = false;
    bool agreed = false;         // both know what the other has received: messages may go out
    uint64_t last_number = 0;
    std::deque<Sent> unconfirmed;
    std::string assembly;        // parts of a message that goes on
    size_t unsent = 0;           // of those at the back, not given to this connection yet
    size_t bytes = 0;            // of `unconfirmed`
    bool told_congested = false;
    uint64_t received = 0;       // the last number that was delivered here
    uint64_t confirmed = 0;      // what the other side knows of `received`
    EventLoop::TimerId retry = 0;
  };
  Mesh(EventLoop& loop, MeshOptions options) : loop_(loop), options_(std::move(options)) {}

  void on_message(const PeerId& from, uint16_t type, wire::Bytes bytes);
  void queue(Channel& channel, uint16_t type, wire::Bytes payload);
  void deliver(Channel& channel, uint16_t type, wire::Bytes payload);
  void on_peer(const PeerId& peer, transport::PeerState state, const Status& why);
  void connect(Channel& channel);
  void retry_later(Channel& channel);
  void flush(Channel& channel);
  void confirm(Channel& channel);
  void confirm_later();
  void drop_confirmed(Channel& channel, uint64_t number);
  void agree(Channel& channel, uint64_t received);
  Channel* find(const PeerId& peer);

  EventLoop& loop_;
  MeshOptions options_;
  std::unique_ptr<transport::Fabric> fabric_;
  std::map<uint32_t, Channel> channels_;
  std::map<PeerId, uint64_t> early_;  // up, not known here: what they have received
  EventLoop::TimerId confirm_timer_ = 0;
};

// In front of every message: its number and what its sender has received; zero outside of channels.
inline constexpr size_t kMeshHeadBytes = 16;
inline constexpr size_t kMeshMessageBytesMax = transport::kFabricMessageBytesMax - 64;

}  // namespace sheaf::launchers
