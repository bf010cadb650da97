// Service: the other nodes of the cluster, and what their daemons say.
#include <fmt/format.h>

#include <algorithm>

#include "launchers/control_events.h"
#include "launchers/service.h"
#include "launchers/service_send.h"

namespace sheaf::launchers {

using protocol::ErrorKind;
using protocol::ErrorRecord;
using protocol::MessageType;
using scheduler::AgentEvent;
using scheduler::ControllerEvent;

namespace {

constexpr size_t kEagerPeers = 32;
constexpr std::chrono::milliseconds kPeerTimeoutLeast{1000};

PeerId peer_of(uint16_t number, uint16_t incarnation) { return {number, incarnation}; }

}  // namespace

Status Service::create_mesh() {
  if (!options_.cluster) return {};
  MeshOptions mesh;
  mesh.self = self_;
  mesh.secret = options_.cluster->secret;
  mesh.cluster = controller_ ? controller_->cluster() : options_.cluster->cluster;
  mesh.listen = options_.cluster->listen;
  mesh.log = log_;
  mesh.events.on_message = [this](const PeerId& from, uint16_t type, wire::Bytes payload) {
    on_node_message(from, type, payload);
  };
  mesh.events.on_silence = [this](const PeerId& peer, bool refused, const Status& why) {
    on_silence(peer, refused, why);
  };
  mesh.events.on_contact = [this](const PeerId& peer) { silent_since_.erase(peer); };
  mesh.events.on_room = [this](const PeerId& peer) { relays_->resume(peer.node); };
  // Whoever is silent for longer than its lease is dead, or will be.
  auto lease = std::chrono::duration_cast<std::chrono::milliseconds>(
      options_.config->get_duration("cluster.lease"));
  mesh.peer_timeout = std::clamp(lease, kPeerTimeoutLeast, mesh.peer_timeout);
  SHEAF_ASSIGN(mesh_, Mesh::create(loop_, std::move(mesh)));
  if (!options_.head) mesh_->know(options_.cluster->head, options_.cluster->head_address);
  return {};
}

void Service::create_relays() {
  RelayHooks hooks;
  hooks.drain = [this](Client& client) { drain_lane(client, SIZE_MAX); };
  hooks.forward = [this](uint32_t node, wire::Bytes record) {
    mesh_->send(node, static_cast<uint16_t>(NodeMessageType::kRecords), record);
  };
  hooks.congested = [this](uint32_t node, uint64_t& gate) {
    return mesh_->congested(node) || !store_->may_forward(daemon_of(mesh_->peer(node)), gate);
  };
  relays_ = std::make_unique<Relays>(*region_, *clients_, std::move(hooks));
}

void Service::connect_store(objstore::StoreOptions& store) {
  store.daemon = daemon_of(self_);
  store.tell = [this](ProcessId to, const objstore::ObjectMessage& message) {
    // Not what is meant for an earlier life of it.
    if (daemon_of(mesh_->peer(node_of(to))) != to) return;
    tell_node(node_of(to), NodeMessageType::kObjects, objstore::encode(message));
  };
  store.pull = [this](ProcessId from, const transport::RemoteRange& range,
                      std::span<std::byte> into, transport::PullPriority priority,
                      transport::Fabric::OnPulled done) {
    transport::PullOptions options;
    options.priority = priority;
    PeerId peer = peer_of(node_of(from), incarnation_of(from));
    mesh_->contact(peer);  // the store tries again when it is not up yet
    return mesh_->fabric().pull(peer, range, into, options, std::move(done));
  };
  store.cancel_pull = [this](transport::PullId id) { mesh_->fabric().cancel(id); };
  store.barrier_reached = [this](uint64_t barrier) {
    scheduler::ToController report{scheduler::BarrierReached{barrier}};
    act(report);
  };
  store.forward_ready = [this](ProcessId to) { relays_->resume(node_of(to)); };
}

const NodeId* Service::member(const PeerId& peer) const {
  auto it = members_.find(peer);
  return it == members_.end() ? nullptr : &it->second;
}

void Service::on_node_message(const PeerId& from, uint16_t type, wire::Bytes payload) {
  auto kind = static_cast<NodeMessageType>(type);
  if (from.node == transport::kNoNode) {
    if (controller_ && kind == NodeMessageType::kAskNumber) on_newcomer(from, payload);
    return;
  }
  bool known = controller_ && on_member_message(from, kind, payload);
  known = known || on_scheduler_message(from, kind, payload) ||
          on_process_message(from, kind, payload);
  if (!known) {
    SHEAF_LOG(log_, kError, "node {} sent what this daemon cannot read (type {})", to_string(from),
              type);
  }
  pump();
  arm_timer();
}

// ---- Head

void Service::on_newcomer(const PeerId& from, wire::Bytes payload) {
  auto ask = wire::decode<AskNumber>(payload);
  if (!ask) return;
  if (ask->version != kNodeWireVersion) {
    NumberGiven no;
    no.code = StatusCode::kUnsupported;
    no.message = fmt::format("the head runs another version ({}, this node {})",
                             kNodeWireVersion, ask->version);
    std::string text = wire::encode(no);
    return mesh_->answer_newcomer(from, static_cast<uint16_t>(NodeMessageType::kNumberGiven),
                                  wire::as_bytes(text));
  }
  newcomers_[ask->node] = from;
  scheduler::NodeJoin join;
  join.node = ask->node;
  join.hostname = ask->hostname;
  push(ControllerEvent(scheduler::NodeAsks{std::move(join)}));
  pump();
}

void Service::act(scheduler::NodeAccepted& a) {
  PeerId peer = peer_of(a.number, a.incarnation);
  if (a.member) {
    note_event("INFO", "NODES", fmt::format("node {} has joined", a.number));
    scheduler::Time lease = options_.config->get_duration("cluster.lease");
    return tell_node(a.number, NodeMessageType::kAccepted, wire::encode(Accepted{lease.count()}));
  }
  members_[peer] = a.node;
  if (!mesh_->knows(peer)) mesh_->know(peer, {});
  answer_newcomer(a.node, Status(), peer);
}

void Service::act(scheduler::NodeRefused& a) {
  log_.warning("a node was refused: " + a.status.to_string());
  if (a.number == 0) return answer_newcomer(a.node, a.status, {});
  NumberGiven no;
  no.code = a.status.code();
  no.message = a.status.message();
  tell_node(a.number, NodeMessageType::kRefused, wire::encode(no));
}

void Service::answer_newcomer(const NodeId& node, const Status& status, const PeerId& given) {
  auto newcomer = newcomers_.extract(node);
  if (newcomer.empty()) return;
  NumberGiven answer;
  answer.code = status.code();
  answer.message = status.message();
  answer.number = static_cast<uint16_t>(given.node);
  answer.incarnation = static_cast<uint16_t>(given.incarnation);
  answer.head = static_cast<uint16_t>(self_.node);
  answer.head_incarnation = static_cast<uint16_t>(self_.incarnation);
  answer.cluster = controller_->cluster();
  std::string text = wire::encode(answer);
  mesh_->answer_newcomer(newcomer.mapped(), static_cast<uint16_t>(NodeMessageType::kNumberGiven),
                         wire::as_bytes(text));
}

void Service::act(scheduler::RenewLease& a) {
  tell_node(a.number, NodeMessageType::kRenewed, wire::encode(Heartbeat{a.sent_at.count()}));
}

void Service::act(scheduler::FenceNode& a) {
  std::string text = fmt::format("node {} is dead: {}", a.number, a.cause.message);
  log_.warning(text);
  note_event("ERROR", "NODES", std::move(text));
  PeerId peer = peer_of(a.number, a.incarnation);
  members_.erase(peer);
  mesh_->forget(peer, Status(StatusCode::kDisconnected, a.cause.message));
}

void Service::act(scheduler::ToNode& a) {
  if (a.node == node_id_) return on_agent_message(std::move(a.message));
  tell_node(a.number, NodeMessageType::kToAgent, scheduler::encode(a.message));
}

bool Service::on_member_message(const PeerId& from, NodeMessageType type, wire::Bytes payload) {
  const NodeId* node = member(from);
  if (node == nullptr) return true;  // dead for us
  switch (type) {
    case NodeMessageType::kJoin:
      if (auto m = wire::decode<scheduler::NodeJoin>(payload)) {
        node_joins(from, std::move(*m));
        return true;
      }
      return false;
    case NodeMessageType::kHeartbeat:
      if (auto m = wire::decode<Heartbeat>(payload)) {
        push(ControllerEvent(scheduler::NodeHeartbeat{static_cast<uint16_t>(from.node),
                                                      static_cast<uint16_t>(from.incarnation),
                                                      scheduler::Time(m->sent_at)}));
        return true;
      }
      return false;
    case NodeMessageType::kReport:
      if (auto m = scheduler::decode_agent_report(payload)) {
        push(ControllerEvent(scheduler::FromNode{*node, std::move(*m)}));
        return true;
      }
      return false;
    case NodeMessageType::kClientJoined:
      if (auto m = wire::decode<ClientCame>(payload)) {
        remote_pids_[m->process] = m->pid;
        push(ControllerEvent(scheduler::ClientJoined{m->process, m->kind, m->job}));
        return true;
      }
      return false;
    case NodeMessageType::kClientLeft:
      if (auto m = wire::decode<ClientWent>(payload)) {
        remote_pids_.erase(m->process);
        push(ControllerEvent(scheduler::ClientLeft{m->process, m->cause}));
        return true;
      }
      return false;
    case NodeMessageType::kDrain:
      if (auto m = wire::decode<scheduler::DrainRequest>(payload)) {
        drain_node(*m);
        return true;
      }
      return false;
    case NodeMessageType::kControl:
      if (auto m = wire::decode<ForwardedRequest>(payload)) return control_request(*m);
      return false;
    default: return false;
  }
}

void Service::node_joins(const PeerId& from, scheduler::NodeJoin join) {
  if (auto address = transport::parse_fabric_address(join.address)) mesh_->know(from, *address);
  for (const scheduler::LiveClient& live : join.clients) remote_pids_[live.process] = live.pid;
  push(ControllerEvent(scheduler::NodeAsks{std::move(join)}));
}

bool Service::control_request(const ForwardedRequest& m) {
  auto event = control_event(static_cast<MessageType>(m.type), m.process, m.request,
                             wire::as_bytes(m.body));
  if (!event) return false;
  std::vector<ObjectId> handed;
  if (auto* create = std::get_if<scheduler::From<protocol::ActorCreate>>(&*event))
    handed = create->message.spec.holds;
  push(std::move(*event));
  if (handed.empty()) return true;
  pump();  // the controller holds them now, if it took the actor: the hand-off's own hold goes
  store_->hold(kDaemonProcess, 0, {}, handed);
  return true;
}

void Service::drain_node(const scheduler::DrainRequest& request) {
  if (!controller_)
    return tell_node(kHeadNumber, NodeMessageType::kDrain, wire::encode(request));
  push(ControllerEvent(scheduler::DrainAsked{request.number, request.drain}));
}

// ---- Every node

// From the controller, here or on the head.
void Service::on_agent_message(scheduler::NodeMessage message) {
  if (auto* job = std::get_if<scheduler::JobStarted>(&message)) {
    jobs_[job->job] = {job->spec, job->driver};
    if (controller_) {
      note_event("INFO", "JOBS",
                 fmt::format("job {} has started: {}", job->job, job->spec.entrypoint));
    }
  } else if (auto* ended = std::get_if<scheduler::ForgetJob>(&message)) {
    jobs_.erase(ended->job);
  } else if (auto* view = std::get_if<scheduler::ClusterView>(&message)) {
    for (const scheduler::NodeView& node : view->nodes) node_seen(node);
  } else if (auto* gone = std::get_if<scheduler::NodeGone>(&message)) {
    node_gone(*gone);
  } else if (auto* barrier = std::get_if<scheduler::BarrierClosed>(&message)) {
    store_->barrier_closed(barrier->barrier);
  }
  push(AgentEvent(scheduler::FromController{std::move(message)}));
}

void Service::node_seen(const scheduler::NodeView& node) {
  PeerId peer = peer_of(node.number, node.incarnation);
  if (!mesh_ || peer == self_) return;
  auto address = transport::parse_fabric_address(node.address);
  if (!address) return;
  bool fresh = !mesh_->knows(peer) || !peers_up_.contains(peer);
  mesh_->know(peer, *address);
  if (!fresh) return;
  peers_up_.insert(peer);
  store_->peer_up(daemon_of(peer));
  // In a small cluster everybody is soon somebody's source; in a large one sessions come with need.
  if (peers_up_.size() <= kEagerPeers && self_ > peer) mesh_->contact(peer);
}

// Of members that this one has not reached for a while, all of them each time: the head decides who
// has to go. A node that does not reach the head has no need to: its lease runs out.
void Service::complain() {
  scheduler::PeersSilent silent;
  // Its own connection came first: ours failed for that.
  std::erase_if(silent_since_,
                [this](const auto& entry) { return mesh_->fabric().is_up(entry.first); });
  for (const auto& [peer, since] : silent_since_) {
    if (now() >= since + patience_) silent.numbers.push_back(static_cast<uint16_t>(peer.node));
  }
  bool again = std::exchange(complained_, !silent.numbers.empty());
  if (!complained_ && !again) return;
  scheduler::ToController report{std::move(silent)};
  act(report);
}

void Service::node_gone(const scheduler::NodeGone& gone) {
  PeerId peer = peer_of(gone.number, gone.incarnation);
  if (peer == self_) return end_node("the head has declared it dead: " + gone.cause.message);
  if (!mesh_) return;
  mesh_->forget(peer, Status(StatusCode::kDisconnected, gone.cause.message));
  silent_since_.erase(peer);
  bool succeeded = mesh_->knows(peer);  // a later life of it, which may know processes of ours
  for (ProcessId remote : relays_->remotes_on(gone.number, gone.incarnation))
    process_gone(remote, gone.cause);
  peers_up_.erase(peer);
  if (!succeeded) {
    for (auto& [process, nodes] : reached_) nodes.erase(gone.number);
  }
  remote_pids_.erase(
      remote_pids_.lower_bound(make_process(gone.number, gone.incarnation, 0)),
      remote_pids_.upper_bound(make_process(gone.number, gone.incarnation, UINT32_MAX)));
  queries_lost(peer);
  store_->peer_down(daemon_of(peer), gone.barrier, loop_.now());  // says when it is through
}

bool Service::on_scheduler_message(const PeerId& from, NodeMessageType type,
                                   wire::Bytes payload) {
  auto number = static_cast<uint16_t>(from.node);
  switch (type) {
    case NodeMessageType::kAccepted: {
      auto m = wire::decode<Accepted>(payload);
      if (!m) return false;
      on_accepted(scheduler::Time(m->lease_ns));
      return true;
    }
    case NodeMessageType::kRefused: {
      auto m = wire::decode<NumberGiven>(payload);
      end_node("the head refuses it: " + (m ? m->message : std::string("no reason given")));
      return true;
    }
    case NodeMessageType::kRenewed: {
      auto m = wire::decode<Heartbeat>(payload);
      if (m && lease_) lease_->renewed(scheduler::Time(m->sent_at));
      return static_cast<bool>(m);
    }
    case NodeMessageType::kToAgent: {
      auto m = scheduler::decode_node_message(payload);
      if (m) on_agent_message(std::move(*m));
      return static_cast<bool>(m);
    }
    case NodeMessageType::kLeaseAsk: {
      auto m = wire::decode<scheduler::LeaseRequested>(payload);
      if (m) push(AgentEvent(std::move(*m)));
      return static_cast<bool>(m);
    }
    case NodeMessageType::kLeaseReturn: {
      auto m = wire::decode<scheduler::LeaseReturned>(payload);
      if (m) push(AgentEvent(std::move(*m)));
      return static_cast<bool>(m);
    }
    case NodeMessageType::kLeaseGrant: {
      auto m = wire::decode<ForwardedGrant>(payload);
      if (m) remote_grant(number, *m);
      return static_cast<bool>(m);
    }
    case NodeMessageType::kLeaseRefused: {
      auto m = wire::decode<ForwardedRefusal>(payload);
      if (m) push(AgentEvent(scheduler::RemoteRefused{m->client, m->class_id, number, m->error}));
      return static_cast<bool>(m);
    }
    case NodeMessageType::kShutdown: {
      auto m = wire::decode<protocol::ShutdownCluster>(payload);
      begin_shutdown(m ? m->reason : "the cluster ends", kShutdownGrace);
      return true;
    }
    default: return false;
  }
}

bool Service::on_process_message(const PeerId& from, NodeMessageType type, wire::Bytes payload) {
  switch (type) {
    case NodeMessageType::kRecords: {
      wire::Reader reader(payload);
      RecordHead head;
      reader(head);
      if (!reader.ok()) return false;
      on_record(head, reader.take(reader.remaining()));
      return true;
    }
    case NodeMessageType::kObjects: {
      auto m = objstore::decode_object_message(payload);
      return m && store_->on_peer(daemon_of(from), std::move(*m), loop_.now()).is_ok();
    }
    case NodeMessageType::kToProcess: {
      auto m = wire::decode<ForProcess>(payload);
      if (m) deliver(*m);
      return static_cast<bool>(m);
    }
    case NodeMessageType::kActorUpdate: {
      auto m = wire::decode<ForwardedUpdate>(payload);
      if (!m) return false;
      scheduler::PushActorUpdate update{m->process, std::move(m->update)};
      act(update);
      return true;
    }
    case NodeMessageType::kProcessGone: {
      auto m = wire::decode<ClientWent>(payload);
      if (m) process_gone(m->process, m->cause);
      return static_cast<bool>(m);
    }
    case NodeMessageType::kHandTask: {
      auto m = wire::decode<HandedTask>(payload);
      if (m) task_handed(from, *m);
      return static_cast<bool>(m);
    }
    case NodeMessageType::kMakerGone: {
      auto m = wire::decode<ClientWent>(payload);
      if (m) store_->maker_gone(m->process);
      return static_cast<bool>(m);
    }
    case NodeMessageType::kKill: {
      auto m = wire::decode<KillRemote>(payload);
      if (m) kill_worker(m->asker, m->request, m->job, m->target);
      return static_cast<bool>(m);
    }
    case NodeMessageType::kQuery: {
      auto m = wire::decode<ForwardedQuery>(payload);
      if (m) remote_query(from, std::move(*m));
      return static_cast<bool>(m);
    }
    case NodeMessageType::kAnswer: {
      auto m = wire::decode<QueryAnswer>(payload);
      if (m) remote_answer(from, std::move(*m));
      return static_cast<bool>(m);
    }
    default: return false;
  }
}

// ---- Processes of other nodes

void Service::on_record(const RecordHead& head, wire::Bytes bytes) {
  Client* to = clients_->alive(head.to);
  if (to == nullptr) {
    // It died before the other side could hear of it, or while the record was on its way.
    ErrorRecord cause{ErrorKind::kWorkerCrashed, "the process has ended", {}, {}};
    if (Client* dying = clients_->find(head.to); dying != nullptr && !dying->dead) return;
    return tell_node(node_of(head.from), NodeMessageType::kProcessGone,
                     wire::encode(ClientWent{head.to, cause}));
  }
  auto link = relays_->open(*to, head.from);
  if (!link) return log_.error("no lane: " + link.status().to_string());
  reached_[to->id].insert(node_of(head.from));
  if (link->fresh) {
    send(*to, MessageType::kLaneOpen,
         protocol::LaneOpen{head.from, protocol::ClientKind::kWorker, link->near});
  }
  relays_->deliver(head, bytes);
}

void Service::process_gone(ProcessId remote, const ErrorRecord& cause) {
  for (ProcessId local : relays_->locals_of(remote)) {
    if (Client* client = clients_->alive(local)) tell_peer_down(*client, remote, cause);
  }
  relays_->remote_gone(remote);
  push(AgentEvent(scheduler::ProcessDied{remote, cause, true}));
}

void Service::remote_grant(uint16_t number, const ForwardedGrant& grant) {
  push(AgentEvent(scheduler::RemoteGrant{grant.client, grant.class_id, grant.lease, number,
                                         grant.worker}));
  pump();
  Client* client = clients_->alive(grant.client);
  if (client == nullptr) return;  // its node was told, or is about to be
  reached_[client->id].insert(number);
  auto lane = connect(*client, grant.worker);
  if (!lane) {
    push(AgentEvent(scheduler::LeaseReturned{grant.client, grant.lease, false}));
    return;
  }
  send(*client, MessageType::kLeaseGrant,
       protocol::LeaseGrant{grant.class_id, grant.lease, grant.worker, *lane, grant.devices});
}

std::optional<transport::LaneInfo> Service::connect(Client& from, ProcessId remote) {
  auto link = relays_->open(from, remote);
  if (!link) {
    log_.error("no lane to another node: " + link.status().to_string());
    return std::nullopt;
  }
  reached_[from.id].insert(node_of(remote));
  return link->near;
}

void Service::act(scheduler::AskNode& a) {
  reached_[a.request.client].insert(a.number);
  tell_node(a.number, NodeMessageType::kLeaseAsk, wire::encode(a.request));
}

void Service::act(scheduler::ReturnToNode& a) {
  tell_node(a.number, NodeMessageType::kLeaseReturn, wire::encode(a.lease));
}

// What a daemon has for a client of this one.
void Service::deliver(const ForProcess& message) {
  bool is_reply = static_cast<MessageType>(message.type) == MessageType::kReply;
  if (is_reply && !controller_) {
    auto held = ledger_.answered(message.process, wire::as_bytes(message.payload));
    store_->hold(kDaemonProcess, 0, {}, held);
  }
  Client* client = clients_->alive(message.process);
  if (client == nullptr || client->broken) return;
  if (is_reply && client->job == 0) {
    wire::Reader reader(wire::as_bytes(message.payload));
    protocol::Envelope envelope;
    protocol::ReplyHead head;
    protocol::RegisterJobReply reply;
    reader(envelope, head);
    if (envelope.request == client->job_request && head.code == StatusCode::kOk) {
      reader(reply);
      if (reader.ok()) job_registered(*client, reply.job);
    }
  }
  client->lane->send(message.type, wire::as_bytes(message.payload));
}

// The last thing that others hear of a process of this node.
void Service::announce_death(Client& client, const ErrorRecord& cause) {
  if (!mesh_) return;
  if (!controller_) store_->hold(kDaemonProcess, 0, {}, ledger_.client_left(client.id));
  relays_->drain_last_words(client.id);
  auto reached = reached_.extract(client.id);
  std::string text = wire::encode(ClientWent{client.id, cause});
  if (!controller_) tell_node(kHeadNumber, NodeMessageType::kClientLeft, text);
  if (reached.empty()) return;
  for (uint16_t node : reached.mapped()) tell_node(node, NodeMessageType::kProcessGone, text);
}

}  // namespace sheaf::launchers
