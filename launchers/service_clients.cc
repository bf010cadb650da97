// Service: how clients come, go, and learn of one another.
#include <unistd.h>

#include <fmt/format.h>

#include "launchers/service.h"
#include "launchers/service_send.h"

namespace sheaf::launchers {

using protocol::ClientKind;
using protocol::ErrorRecord;
using protocol::MessageType;
using scheduler::AgentEvent;
using scheduler::ControllerEvent;

namespace {
constexpr size_t kDeadPeersBeforeFence =
    16;  // lanes of dead peers that a client may keep unaccounted
}  // namespace

void Service::greet(Greeting greeting) {
  JobId job = 0;
  const protocol::Hello hello = greeting.hello;
  if (stopping_)
    return refuse(greeting.socket.get(), StatusCode::kDisconnected, "the cluster is shutting down");
  if (hello.kind == ClientKind::kWorker) {
    auto key = spawner_->greeted(hello.spawn_token, greeting.pid);
    if (!key) {
      return refuse(greeting.socket.get(), StatusCode::kPermissionDenied,
                    "the node daemon has not asked for this worker");
    }
    job = key->job;
  }
  protocol::Welcome welcome;
  welcome.node = static_cast<uint16_t>(self_.node);
  welcome.incarnation = static_cast<uint16_t>(self_.incarnation);
  welcome.node_id = node_id_;
  welcome.session_dir = options_.session->path();
  welcome.arena_bytes = arena_->bytes();
  welcome.arena_backing = arena_->backing();
  welcome.config = options_.config->as_map();
  int fds[] = {region_->fd(), arena_->fd()};
  auto admitted = clients_->admit(std::move(greeting), job, std::move(welcome), fds);
  if (!admitted) {
    SHEAF_LOG(log_, kWarning, "a client was not admitted: {}", admitted.status().to_string());
    if (hello.kind == ClientKind::kWorker) {
      ErrorRecord error{protocol::ErrorKind::kSystem, admitted.status().to_string(), {}, {}};
      push(AgentEvent(scheduler::WorkerSpawnFailed{hello.spawn_token, error}));
      pump();
    }
    return;
  }
  Client& client = **admitted;
  trace_.instant("clients", "joined", client.id);
  auto* pins = region_->at<objstore::PinTableBlock>(clients_->block(client.id).pins);
  store_->process_joined(client.id, pins, objstore::kDefaultPinSlots);
  if (controller_)
    push(ControllerEvent(scheduler::ClientJoined{client.id, client.kind, job}));
  else
    tell_node(kHeadNumber, NodeMessageType::kClientJoined,
              wire::encode(ClientCame{client.id, client.kind, job, client.pid}));
  if (client.kind == ClientKind::kWorker) {
    push(AgentEvent(scheduler::WorkerRegistered{hello.spawn_token, client.id}));
  }
  pump();
}

void Service::on_dead(Client& client, const ErrorRecord& cause) {
  SHEAF_LOG(log_, kDebug, "process {} (pid {}) is gone: {}", client.id, client.pid, cause.message);
  trace_.instant("clients", "dead", client.id);
  bool left = client.wait_status == 0 || stopping_;  // by itself, or because it was asked to
  if (client.kind == ClientKind::kWorker && !left) note_event("WARNING", "WORKERS", cause.message);
  for (ProcessId peer : broker_->peers_of(client.id)) {
    if (Client* p = clients_->alive(peer)) tell_peer_down(*p, client.id, cause);
  }
  client.memory_told = client.reaped;
  store_->process_died(client.id, client.reaped);
  adopter_died(client.id);
  push(AgentEvent(scheduler::ProcessDied{client.id, cause, client.reaped}));
  if (controller_) push(ControllerEvent(scheduler::ClientLeft{client.id, cause}));
  announce_death(client, cause);
  if (client.kind == ClientKind::kWorker) tasks_.worker_died(client.id, cause.message);
  pushed_metrics_.process_died(client.id);
  std::erase_if(slab_requests_, [&](const auto& r) { return r.first == client.id; });
  std::vector<uint64_t> waiting;
  for (const auto& [ticket, flush] : flushes_) {
    if (flush.awaited.contains(client.id)) waiting.push_back(ticket);
  }
  for (uint64_t ticket : waiting) flush_done(client, ticket);
  pump();
  if (options_.owner_pid > 0 && client.kind == ClientKind::kDriver &&
      client.pid == options_.owner_pid) {
    begin_shutdown("its driver has disconnected", std::chrono::milliseconds(200));
  }
}

void Service::on_reaped(Client& client) {
  if (!client.memory_told) {  // else on_dead has said so already
    store_->process_died(client.id, true);
    push(AgentEvent(scheduler::ProcessReaped{client.id}));
    pump();
  }
  broker_->reaped(client.id);
  if (relays_) relays_->reaped(client.id);
  // Of an async actor's event loop; one that was killed could not remove it.
  unlink((options_.session->bell_directory() + "/" + std::to_string(client.id)).c_str());
  unfenced_.erase(client.id);
  std::erase_if(fences_, [&](const auto& f) { return f.second.client == client.id; });
}

void Service::tell_peer_down(Client& peer, ProcessId gone, const ErrorRecord& cause) {
  send(peer, MessageType::kPeerDown, protocol::PeerDown{gone, cause});
  std::vector<ProcessId>& waiting = unfenced_[peer.id];
  waiting.push_back(gone);
  if (waiting.size() >= kDeadPeersBeforeFence) fence(peer);
}

// Its answer comes after it has handled every PeerDown sent before: from then on it does not touch
// those lanes.
void Service::fence(Client& client) {
  uint64_t ticket = next_ticket_++;
  fences_[ticket] = {client.id, std::move(unfenced_[client.id])};
  unfenced_.erase(client.id);
  send(client, MessageType::kFlushRequest, protocol::FlushRequest{ticket});
}

void Service::reply(ProcessId process, uint64_t request, const Status& status,
                    const std::string& payload) {
  if (request == 0) return;
  std::string head;
  wire::Writer w(head);
  w(protocol::Envelope{request}, protocol::ReplyHead{status.code(), std::string(status.message())});
  if (!is_here(process)) {
    return tell_node(node_of(process), NodeMessageType::kToProcess,
                     wire::encode(ForProcess{process, static_cast<uint16_t>(MessageType::kReply),
                                             head + payload}));
  }
  Client* client = clients_->alive(process);
  if (client == nullptr || client->broken) return;
  client->lane->send(static_cast<uint16_t>(MessageType::kReply), wire::as_bytes(head),
                     wire::as_bytes(payload));
}

// The far side hears of the lane first. Nothing when there is no memory or number left for it.
std::optional<transport::LaneInfo> Service::connect(Client& from, Client& to) {
  auto link = broker_->connect(from, to);
  if (!link) {
    log_.error("no lane: " + link.status().to_string());
    return std::nullopt;
  }
  if (link->fresh)
    send(to, MessageType::kLaneOpen, protocol::LaneOpen{from.id, from.kind, link->far});
  return link->near;
}

}  // namespace sheaf::launchers
