#include "launchers/lane_broker.h"

#include "launchers/ring_pair.h"

namespace sheaf::launchers {

using transport::LaneInfo;
using transport::RingBlock;

LaneInfo LaneBroker::PairLane::info(int end, Clients& clients) const {
  const End& own = ends[end];
  const End& peer = ends[1 - end];
  transport::RegionOffset first = offset, second = offset + sizeof(RingBlock);
  return {end == 0 ? first : second, end == 0 ? second : first, clients.block(peer.process).bell,
          peer.number, own.number};
}

Result<LaneBroker::Link> LaneBroker::connect(Client& from, Client& to) {
  Key key = key_of(from.id, to.id);
  auto it = lanes_.find(key);
  bool fresh = it == lanes_.end();
  if (fresh) {
    PairLane lane;
    SHEAF_ASSIGN(lane.offset, region_.allocate(kPairBytes));
    lane.ends[0] = {from.id, from.lane_numbers.take(), true};
    lane.ends[1] = {to.id, to.lane_numbers.take(), true};
    if (lane.ends[0].number == 0 || lane.ends[1].number == 0) {
      if (lane.ends[0].number != 0) from.lane_numbers.give_back(lane.ends[0].number);
      if (lane.ends[1].number != 0) to.lane_numbers.give_back(lane.ends[1].number);
      region_.release(lane.offset, kPairBytes);
      return Status(StatusCode::kOverloaded, "a process has too many peers");
    }
    it = lanes_.emplace(key, lane).first;
    peers_[from.id].insert(to.id);
    peers_[to.id].insert(from.id);
    ++clients_.block(from.id).users;
    ++clients_.block(to.id).users;
  }
  int near = it->second.ends[0].process == from.id ? 0 : 1;
  return Link{it->second.info(near, clients_), it->second.info(1 - near, clients_), fresh};
}

std::vector<ProcessId> LaneBroker::peers_of(ProcessId process) const {
  std::vector<ProcessId> out;
  auto it = peers_.find(process);
  if (it == peers_.end()) return out;
  for (ProcessId peer : it->second) {
    auto lane = lanes_.find(key_of(process, peer));
    const End* ends = lane->second.ends;
    if ((ends[0].process == peer ? ends[0] : ends[1]).holds) out.push_back(peer);
  }
  return out;
}

void LaneBroker::let_go(ProcessId process, ProcessId peer) {
  auto it = lanes_.find(key_of(process, peer));
  if (it == lanes_.end()) return;
  if (process == peer) drop_end(it, 1);
  if (it = lanes_.find(key_of(process, peer)); it == lanes_.end()) return;
  drop_end(it, it->second.ends[0].process == process ? 0 : 1);
}

void LaneBroker::drop_end(std::map<Key, PairLane>::iterator it, int end) {
  PairLane& lane = it->second;
  if (!lane.ends[end].holds) return;
  lane.ends[end].holds = false;
  ProcessId peer = lane.ends[1 - end].process;
  if (!lane.ends[1 - end].holds) {
    region_.release(lane.offset, kPairBytes);
    for (const End& e : lane.ends) {
      if (Client* client = clients_.find(e.process)) client->lane_numbers.give_back(e.number);
    }
    ProcessId own = lane.ends[end].process;
    peers_[own].erase(peer);
    peers_[peer].erase(own);
    if (peers_[own].empty()) peers_.erase(own);
    if (auto p = peers_.find(peer); p != peers_.end() && p->second.empty()) peers_.erase(p);
    lanes_.erase(it);
  }
  clients_.release_block(peer);
}

void LaneBroker::reaped(ProcessId process) {
  auto it = peers_.find(process);
  if (it == peers_.end()) return;
  std::set<ProcessId> peers = it->second;
  for (ProcessId peer : peers) let_go(process, peer);
}

}  // namespace sheaf::launchers
