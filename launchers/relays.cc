#include "launchers/relays.h"

#include "launchers/mesh.h"
#include "launchers/ring_pair.h"

namespace sheaf::launchers {

using transport::LaneInfo;
using transport::RingBlock;

namespace {
constexpr size_t kPartBytes = kMeshMessageBytesMax / 2;
}  // namespace

Result<Relays::Link> Relays::open(Client& local, ProcessId remote) {
  Key key{local.id, remote};
  auto it = relays_.find(key);
  bool fresh = it == relays_.end();
  if (fresh) {
    Relay relay;
    relay.local = local.id;
    relay.remote = remote;
    SHEAF_ASSIGN(relay.offset, region_.allocate(kPairBytes));
    relay.daemon_number = clients_.take_daemon_lane();
    relay.client_number = local.lane_numbers.take();
    auto give_up = [&](Status why) {
      if (relay.daemon_number != 0) clients_.give_back_daemon_lane(relay.daemon_number);
      if (relay.client_number != 0) local.lane_numbers.give_back(relay.client_number);
      region_.release(relay.offset, kPairBytes);
      return why;
    };
    if (relay.daemon_number == 0 || relay.client_number == 0)
      return give_up({StatusCode::kOverloaded, "a process has too many peers"});
    LaneInfo ours{relay.offset + sizeof(RingBlock), relay.offset, clients_.block(local.id).bell,
                  relay.client_number, relay.daemon_number};
    auto lane = transport::Lane::open(region_, ours);
    if (!lane) return give_up(lane.status());
    relay.lane = std::move(*lane);
    ++clients_.block(local.id).users;
    it = relays_.emplace(key, std::move(relay)).first;
    by_lane_[it->second.daemon_number] = &it->second;
    locals_[remote].insert(local.id);
  }
  const Relay& r = it->second;
  LaneInfo near{r.offset, r.offset + sizeof(RingBlock), clients_.bell_offset(), r.daemon_number,
                r.client_number};
  return Link{near, fresh};
}

bool Relays::drain(uint32_t daemon_lane, size_t budget) {
  auto it = by_lane_.find(daemon_lane);
  return it == by_lane_.end() || forward_some(*it->second, budget, false);
}

bool Relays::forward_some(Relay& relay, size_t budget, bool force) {
  Client* client = clients_.find(relay.local);
  transport::Lane& lane = *relay.lane;
  uint16_t node = node_of(relay.remote);
  for (size_t n = 0; n < budget; ++n) {
    auto message = lane.peek();
    if (!message) break;
    if (client != nullptr && !client->lane->rx_empty()) hooks_.drain(*client);
    if (!force && hooks_.congested(node, relay.gate)) return true;  // resume() goes on
    if (relay.remote_alive) forward(relay, *message);
    lane.pop();
  }
  if (lane.corrupt() && client != nullptr && !client->broken)
    clients_.end_session(*client, "a lane to another node holds nonsense");
  if (lane.overflow_bytes() > 0) lane.flush();
  return lane.corrupt() || lane.rx_empty();
}

void Relays::forward(const Relay& relay, const transport::Message& message) {
  wire::Bytes rest = message.payload;
  do {
    wire::Bytes part = rest.first(std::min(rest.size(), kPartBytes));
    rest = rest.subspan(part.size());
    scratch_.clear();
    wire::Writer w(scratch_);
    w(RecordHead{relay.local, relay.remote, message.type,
                 static_cast<uint8_t>(message.flags & transport::kSenderFlags), !rest.empty()});
    w.raw(part.data(), part.size());
    hooks_.forward(node_of(relay.remote), wire::as_bytes(scratch_));
  } while (!rest.empty());
}

void Relays::deliver(const RecordHead& head, wire::Bytes bytes) {
  auto it = relays_.find({head.to, head.from});
  if (it == relays_.end()) return;  // the process is dead, and its peer hears of that
  Relay& relay = it->second;
  if (!relay.client_holds) return;
  if (head.more || !relay.assembly.empty()) relay.assembly.append(wire::as_text(bytes));
  if (head.more) return;
  if (relay.assembly.empty()) return relay.lane->send(head.type, bytes, {}, head.flags);
  relay.lane->send(head.type, wire::as_bytes(relay.assembly), {}, head.flags);
  relay.assembly = {};
}

void Relays::drain_last_words(ProcessId local) {
  for (auto it = relays_.lower_bound({local, 0}); it != relays_.end() && it->first.first == local;
       ++it) {
    forward_some(it->second, SIZE_MAX, true);
  }
}

void Relays::resume(uint32_t node) {
  for (auto& [number, relay] : by_lane_) {
    if (node_of(relay->remote) == node) forward_some(*relay, SIZE_MAX, false);
  }
}

std::vector<ProcessId> Relays::locals_of(ProcessId remote) const {
  auto it = locals_.find(remote);
  if (it == locals_.end()) return {};
  return {it->second.begin(), it->second.end()};
}

std::vector<ProcessId> Relays::remotes_on(uint16_t node, uint16_t incarnation) const {
  std::vector<ProcessId> out;
  for (auto it = locals_.lower_bound(make_process(node, incarnation, 0));
       it != locals_.end() && node_of(it->first) == node &&
       incarnation_of(it->first) == incarnation;
       ++it) {
    out.push_back(it->first);
  }
  return out;
}

void Relays::let_go(ProcessId local, ProcessId remote) {
  auto it = relays_.find({local, remote});
  if (it == relays_.end()) return;
  it->second.client_holds = false;
  release_if_done(it->first);
}

void Relays::remote_gone(ProcessId remote) {
  for (ProcessId local : locals_of(remote)) {
    auto it = relays_.find({local, remote});
    it->second.remote_alive = false;
    release_if_done(it->first);
  }
}

void Relays::reaped(ProcessId local) {
  auto it = relays_.lower_bound({local, 0});
  while (it != relays_.end() && it->first.first == local) {
    Relay& relay = (it++)->second;
    relay.client_holds = relay.remote_alive = false;
    release_if_done({relay.local, relay.remote});
  }
}

void Relays::release_if_done(const Key& key) {
  auto it = relays_.find(key);
  Relay& relay = it->second;
  if (relay.client_holds || relay.remote_alive) return;
  by_lane_.erase(relay.daemon_number);
  clients_.give_back_daemon_lane(relay.daemon_number);
  if (Client* client = clients_.find(relay.local))
    client->lane_numbers.give_back(relay.client_number);
  region_.release(relay.offset, kPairBytes);
  auto locals = locals_.find(relay.remote);
  locals->second.erase(relay.local);
  if (locals->second.empty()) locals_.erase(locals);
  ProcessId local = relay.local;
  relays_.erase(it);
  clients_.release_block(local);
}

}  // namespace sheaf::launchers
