#include "runtime/peers.h"

#include <utility>

#include "runtime/impl.h"

namespace sheaf::runtime {

Peer* Peers::open(ProcessId process, const transport::LaneInfo& info) {
  Peer* known = find(process);
  bool other_end = known && process == rt_.session.welcome.process && info.own_lane != known->lane.own_lane();
  if (known && (!other_end || echo_)) return known;
  auto lane = transport::Lane::open(rt_.session.region, info);
  if (!lane || info.own_lane >= transport::kMaxLanes) return nullptr;
  auto peer = std::make_unique<Peer>(process, std::move(*lane));
  Peer* raw = peer.get();
  (known ? echo_ : peers_[process]) = std::move(peer);
  if (by_lane_.size() <= info.own_lane) by_lane_.resize(info.own_lane + 1);
  by_lane_[info.own_lane] = raw;
  return known ? known : raw;
}

Peer* Peers::find(ProcessId process) {
  auto it = peers_.find(process);
  return it == peers_.end() ? nullptr : it->second.get();
}

bool Peers::drain_lane(uint32_t lane) {
  Peer* peer = lane < by_lane_.size() ? by_lane_[lane] : nullptr;
  if (!peer) return true;   // its LaneOpen was not delivered, or it is gone
  Peer& sender = peer == echo_.get() ? *find(peer->process) : *peer;
  while (distrusted_.empty()) {
    auto message = peer->lane.peek();
    if (!message) break;
    handle(sender, *message);
    peer->lane.pop();
  }
  if (peer->lane.overflow_bytes() > 0) peer->lane.flush();
  if (peer->lane.corrupt()) distrust(sender);
  if (!distrusted_.empty()) end_broken();
  return true;
}

void Peers::handle(Peer& peer, const transport::Message& message) {
  switch (static_cast<LaneType>(message.type)) {
    case LaneType::kReply: return rt_.submitter.handle_reply(peer, message.payload);
    case LaneType::kItem: return rt_.submitter.handle_item(peer, message.payload);
    default: return rt_.executor.handle(peer, message);
  }
}

void Peers::down(ProcessId process, const protocol::ErrorRecord& cause) {
  Peer* peer = find(process);
  if (!peer || !peer->alive) return;
  while (auto message = peer->lane.peek()) {   // what it said before it died still counts
    handle(*peer, *message);
    peer->lane.pop();
  }
  end(*peer, cause);
}

void Peers::end_broken() {
  for (ProcessId process : std::exchange(distrusted_, {})) {
    Peer* peer = find(process);
    if (!peer || !peer->alive) continue;
    std::string text = "process " + std::to_string(process) + " wrote nonsense into its lane: it counts as dead";
    rt_.progress.post([this, text] { rt_.show_warning(text); });
    // A worker of our job is killed, so that its lease or actor ends for everyone. A driver is not: then this worker,
    // which cannot hear it any more, goes, and the driver learns of that.
    rt_.daemon.request_then(protocol::MessageType::kKillProcess, wire::encode(protocol::KillProcess{process}),
                            [this](DaemonLink::Answer&& answer) {
                              bool worker = rt_.kind == protocol::ClientKind::kWorker;
                              if (!answer.status.is_ok() && worker) rt_.executor.request_exit(false);
                            });
    end(*peer, {protocol::ErrorKind::kWorkerCrashed, text, "", {}});
  }
}

void Peers::end(Peer& peer, const protocol::ErrorRecord& cause) {
  const ProcessId process = peer.process;
  peer.alive = false;
  std::erase(distrusted_, process);
  rt_.submitter.peer_down(peer, cause);
  rt_.executor.caller_gone(peer);
  by_lane_[peer.lane.own_lane()] = nullptr;
  if (echo_ && echo_->process == process) {
    by_lane_[echo_->lane.own_lane()] = nullptr;
    echo_.reset();
  }
  peers_.erase(process);
  rt_.progress.note_ready();
}

void Peers::flush() {
  for (auto& [id, peer] : peers_) {
    if (peer->lane.overflow_bytes() > 0) peer->lane.flush();
    if (peer->lane.corrupt()) distrust(*peer);
  }
  if (!distrusted_.empty()) end_broken();
}

bool Peers::has_overflow() const {
  for (auto& [id, peer] : peers_) {
    if (peer->lane.overflow_bytes() > 0) return true;
  }
  return false;
}

void Peers::for_each(const std::function<void(Peer&)>& visit) {
  for (auto& [id, peer] : peers_) visit(*peer);
}

}  // namespace sheaf::runtime
