// Service: the head as its members see it. A member without a head, the way back to the next life
// of it, and what the head's daemon does when it is started again.
//
// The rules that make this safe are in docs/many-nodes.md: a refused connection proves that there
// is no controller, so it renews a member's lease like an answered heartbeat; nothing else does.
#include <fmt/format.h>

#include "launchers/service.h"
#include "launchers/service_send.h"

namespace sheaf::launchers {

using protocol::ErrorKind;
using protocol::ErrorRecord;
using protocol::MessageType;
using scheduler::AgentEvent;
using scheduler::ControllerEvent;

namespace {
constexpr auto kFirstPause = std::chrono::milliseconds(20);
constexpr auto kLongestPause = std::chrono::milliseconds(300);
}  // namespace

// ---- Member

// Says what this node offers, and to a controller that has restarted what lives here.
void Service::join_cluster() {
  scheduler::NodeJoin join;
  join.node = node_id_;
  join.number = static_cast<uint16_t>(self_.node);
  join.incarnation = static_cast<uint16_t>(self_.incarnation);
  join.hostname = offer_.hostname;
  join.address = to_string(mesh_->address());
  join.total = offer_.resources;
  join.labels = offer_.labels;
  join.actors = agent_->live_actors();
  for (scheduler::LiveActor& live : join.actors)
    live.running = live.running || ledger_.has_started(live.process);
  join.groups = agent_->live_groups();
  for (const auto& [id, client] : clients_->all()) {
    if (!client->alive()) continue;
    scheduler::LiveClient live;
    live.process = id;
    live.kind = client->kind;
    live.job = client->job;
    live.pid = client->pid;
    ledger_.describe(live);
    join.clients.push_back(std::move(live));
  }
  for (const auto& [id, job] : jobs_) join.jobs.push_back({id, job.spec, job.driver});
  join.exited = ledger_.exited();
  joined_at_ = now();
  tell_node(kHeadNumber, NodeMessageType::kJoin, wire::encode(join));
}

void Service::on_silence(const PeerId& peer, bool refused, const Status& why) {
  if (controller_) {
    const NodeId* node = refused ? member(peer) : nullptr;
    if (node == nullptr) return;
    std::string text = "the node's daemon has died: " + why.to_string();
    ErrorRecord cause{ErrorKind::kNodeDied, text, {}, {}};
    push(ControllerEvent(scheduler::NodeLost{*node, std::move(cause)}));
    return pump();
  }
  if (peer != options_.cluster->head) {
    silent_since_.try_emplace(peer, now());
    return;
  }
  if (refused) return lose_head(why);
  if (why.code() == StatusCode::kPermissionDenied)
    end_node("the head refuses it: " + std::string(why.message()));
}

// The head's daemon is dead, which is proved. Its processes are, too; its objects have no owner
// until there is a controller that names one.
void Service::lose_head(const Status& why) {
  if (away_ || stopping_) return;
  scheduler::Time patience = options_.config->get_duration("cluster.head_timeout");
  if (patience == scheduler::Time{0})
    return end_node("the head of the cluster is gone: " + why.to_string());
  PeerId head = options_.cluster->head;
  away_.emplace(Away{loop_.now(), kFirstPause, 0});
  std::string text = fmt::format(
      "the head of the cluster ({}) is gone: {}. Tasks and actor calls between the other nodes go "
      "on; what needs the head waits for it, for {} s at most",
      to_string(options_.cluster->head_address), why.message(),
      std::chrono::duration_cast<std::chrono::seconds>(patience).count());
  log_.warning(text);
  tell_drivers(text);
  mesh_->forget(head, why);
  uint16_t incarnation = static_cast<uint16_t>(head.incarnation);
  ErrorRecord cause{ErrorKind::kNodeDied, "the head's daemon has died", {}, {}};
  for (ProcessId remote : relays_->remotes_on(kHeadNumber, incarnation))
    process_gone(remote, cause);
  peers_up_.erase(head);
  for (auto& [process, nodes] : reached_) nodes.erase(kHeadNumber);
  queries_lost(head);
  store_->peer_away(daemon_of(head));
  push(AgentEvent(scheduler::FromController{
      scheduler::NodeGone{{}, kHeadNumber, incarnation, std::move(cause), 0}}));
  pump();
  seek_head();
}

void Service::seek_head() {
  scheduler::Time sent_at = now();
  mesh_->seek(kHeadNumber, options_.cluster->head_address,
              [this, sent_at](const Result<PeerId>& found) { head_sought(sent_at, found); });
}

void Service::head_sought(scheduler::Time sent_at, const Result<PeerId>& found) {
  if (!away_ || stopping_) return;
  if (found) return rejoin(*found);
  StatusCode code = found.status().code();
  if (code == StatusCode::kPermissionDenied || code == StatusCode::kUnsupported)
    return end_node("the head refuses it: " + std::string(found.status().message()));
  // Nobody listens there: whoever begins to later counts this node's lease from then.
  if (code == StatusCode::kDisconnected && lease_) lease_->renewed(sent_at);
  scheduler::Time patience = options_.config->get_duration("cluster.head_timeout");
  if (loop_.now() >= away_->since + patience) {
    return end_node(fmt::format(
        "the head of the cluster has not come back within {} s (cluster.head_timeout)",
        std::chrono::duration_cast<std::chrono::seconds>(patience).count()));
  }
  give_up_requests();
  away_->timer = loop_.call_after(away_->pause, [this] {
    if (!away_) return;
    away_->timer = 0;
    seek_head();
  });
  away_->pause = std::min<std::chrono::milliseconds>(2 * away_->pause, kLongestPause);
  arm_timer();
}

// The lease goes on as it is until the new life has accepted this node.
void Service::rejoin(const PeerId& head) {
  SHEAF_LOG(log_, kInfo, "the head is back as {}: registering again", to_string(head));
  away_.reset();
  rejoining_ = true;
  options_.cluster->head = head;
  mesh_->know(head, options_.cluster->head_address);
  join_cluster();
  Status unsure(StatusCode::kDisconnected,
                "the head of the cluster was started again before it had answered: this may or may "
                "not have been done");
  auto refuse = [&](ProcessId process, uint64_t request) { reply(process, request, unsure); };
  for (const ForwardedRequest& request : ledger_.to_repeat(refuse)) forward_control(request);
}

void Service::on_accepted(scheduler::Time lease) {
  lease_.emplace(scheduler::NodeLeaseConfig{lease, lease / 10}, joined_at_);
  patience_ = lease / 2;
  tend_lease();
  if (!std::exchange(rejoining_, false)) return;
  push(AgentEvent(scheduler::ControllerBack{}));
  log_.info("the head has this node again");
  tell_drivers("The head of the cluster is back.");
}

void Service::tend_lease() {
  if (!lease_) return;
  if (lease_->expired(now())) return end_node("its lease has run out: the head was not heard");
  if (auto sent_at = lease_->heartbeat(now())) {
    tell_node(kHeadNumber, NodeMessageType::kHeartbeat, wire::encode(Heartbeat{sent_at->count()}));
    complain();
  }
}

// Nothing of this life counts any more: no process of it may go on.
void Service::end_node(const std::string& why) {
  if (stopping_) return;
  log_.error("this node leaves the cluster: " + why);
  tell_drivers("This node leaves the cluster: " + why);
  begin_shutdown(why, std::chrono::milliseconds(0));
}

void Service::tell_drivers(const std::string& text) {
  for (const auto& [id, client] : clients_->all()) {
    if (client->alive() && client->kind == protocol::ClientKind::kDriver)
      send(*client, MessageType::kWarning, protocol::Warning{text});
  }
}

// To the controller; kept until it is answered, as that one may die first.
void Service::to_head(const ControllerEvent& event, ForwardedRequest request) {
  if (const auto* create = std::get_if<scheduler::From<protocol::ActorCreate>>(&event))
    store_->hold(kDaemonProcess, 0, create->message.spec.holds, {});
  const auto* get = std::get_if<scheduler::From<protocol::KvGet>>(&event);
  const auto* put = std::get_if<scheduler::From<protocol::KvPut>>(&event);
  const std::string* code = nullptr;
  if (get != nullptr && get->message.space == kFunctionSpace)
    code = ledger_.function(get->message.key);
  if (code != nullptr) {
    return reply(request.process, request.request, Status(),
                 wire::encode(protocol::KvGetReply{*code}));
  }
  ledger_.said(event, request, now());
  if (!away_) return forward_control(request);
  // A function: this node has it, and the next life of the head will.
  if (put != nullptr && put->message.space == kFunctionSpace)
    reply(request.process, request.request, Status(), wire::encode(protocol::KvPutReply{true}));
}

void Service::forward_control(const ForwardedRequest& request) {
  if (static_cast<MessageType>(request.type) == MessageType::kActorCreate) {
    auto create = wire::decode<protocol::ActorCreate>(wire::as_bytes(request.body));
    // The head's store is to hold them before anything can let go of them here.
    if (create) store_->hold(request.process, head_daemon(), create->spec.holds, {});
  }
  tell_node(kHeadNumber, NodeMessageType::kControl, wire::encode(request));
}

// Who waits for an answer is told that there is none: nobody waits for a head without an end.
void Service::give_up_requests() {
  scheduler::Time patience = options_.config->get_duration("cluster.request_timeout");
  if (loop_.now() < away_->since + patience) return;
  Status late(StatusCode::kTimeout,
              fmt::format("the head of the cluster has been away for {} ms "
                          "(cluster.request_timeout): this may or may not have been done",
                          std::chrono::duration_cast<std::chrono::milliseconds>(
                              loop_.now() - away_->since).count()));
  for (const HeadLedger::GivenUp& gone : ledger_.give_up(now() - patience)) {
    reply(gone.process, gone.request, late);
    store_->hold(kDaemonProcess, 0, {}, gone.held);
  }
}

// ---- Head

// A later life of the head is where the earlier one was, as its members look for it there.
Status Service::create_head_mesh() {
  transport::FabricAddress& listen = options_.cluster->listen;
  const transport::FabricAddress asked = listen;
  bool awaited = !controller_->expected().empty();
  auto last = transport::parse_fabric_address(controller_->head_address());
  if (last) {
    bool same_host = options_.cluster->any_host || asked.host == last->host;
    bool same_port = asked.port == 0 || asked.port == last->port;
    if (same_host && same_port) {
      listen = *last;
    } else if (awaited) {
      return {StatusCode::kInvalidArgument,
              fmt::format("the nodes of this cluster know its head as {}: listen there, or start "
                          "a new cluster in another session directory",
                          to_string(*last))};
    }
  }
  Status made = create_mesh();
  if (made.is_ok() || awaited || listen == asked) return made;
  listen = asked;   // somebody else has the port, and nobody looks for us there
  return create_mesh();
}

// Members of the last life may speak; those that were declared dead may not.
void Service::expect_members() {
  const auto& expected = controller_->expected();
  store_->expect_peers(controller_->restoring());
  for (const auto& [number, node] : expected) {
    PeerId peer{number, node.incarnation};
    members_[peer] = node.node;
    auto address = transport::parse_fabric_address(node.address);
    mesh_->know(peer, address ? *address : FabricAddress{});
    if (address) mesh_->contact(peer);  // a port that refuses is not waited for
  }
  for (uint32_t number = kHeadNumber + 1; number <= controller_->last_number(); ++number) {
    if (!expected.contains(static_cast<uint16_t>(number))) mesh_->ban(number);
  }
  if (!expected.empty()) {
    SHEAF_LOG(log_, kInfo, "life {} of this cluster: {} nodes of the last one may come back",
              controller_->boot(), expected.size());
  }
}

}  // namespace sheaf::launchers
