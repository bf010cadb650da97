// Members that reach the head and not each other: one of the two has to go, or what they wait for
// of each other would be waited for for ever.
//
// Each member says whom it cannot reach. What stays so for the length of a lease is not a short cut
// of the network, nor a death that the lease is about to show. The one to go is told so and gets no
// lease any more: it stops at once, or when its lease runs out, and is declared dead only then. Its
// host comes back as a new node; while the link is cut the newcomer is the one to go again.
#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "scheduler/controller.h"
#include "scheduler/own_pause.h"

namespace sheaf::scheduler {

using protocol::ErrorKind;
using protocol::ErrorRecord;

namespace {
Time patience(const ControllerConfig& config) { return config.lease_time; }

}  // namespace

// The head's own link to a node is what that node's lease is about.
void Controller::on_report(const NodeId& node, const PeersSilent& report) {
  const NodeInfo& from = nodes_.at(node);
  if (from.local) return;
  std::set<uint16_t> silent;
  for (uint16_t number : report.numbers) {
    const NodeInfo* other = member(number);
    if (other && !other->local && number != from.number) silent.insert(number);
  }
  std::erase_if(quarrels_, [&](const auto& entry) {
    return entry.first.first == from.number && !silent.contains(entry.first.second);
  });
  for (uint16_t number : silent) {
    if (!quarrels_.try_emplace({from.number, number}, now_).second) continue;
    set_timer(now_ + patience(config_), Timer::Kind::kQuarrel, 0, 0);
  }
}

void Controller::forget_quarrels_of(uint16_t number) {
  std::erase_if(quarrels_, [&](const auto& entry) {
    return entry.first.first == number || entry.first.second == number;
  });
}

// Of all that are in a quarrel that has lasted long enough, the one with the most goes first, then
// the one with the fewest actors, then the youngest: until none is left between those who stay. Who
// has not been heard lately may be the one that is cut off: its lease decides about it first.
void Controller::review_quarrels(Time due) {
  if (now_ > due + kOwnPause) {
    if (!quarrels_.empty()) set_timer(now_ + kHearFirst, Timer::Kind::kQuarrel, 0, 0);
    return;
  }
  const Time heard_lately = now_ - config_.lease_time / 3;
  bool look_again = false;
  for (;;) {
    std::map<uint16_t, std::set<uint16_t>> out_of_reach;
    for (const auto& [pair, since] : quarrels_) {
      const NodeInfo &one = *member(pair.first), &other = *member(pair.second);
      if (one.condemned || other.condemned || now_ < since + patience(config_)) continue;
      if (one.heard < heard_lately || other.heard < heard_lately) {
        look_again = true;
        continue;
      }
      out_of_reach[pair.first].insert(pair.second);
      out_of_reach[pair.second].insert(pair.first);
    }
    if (out_of_reach.empty()) break;
    const auto rank = [&](const auto& entry) {
      return std::tuple(entry.second.size(), -int64_t{member(entry.first)->actors}, entry.first);
    };
    const auto worst =
        std::max_element(out_of_reach.begin(), out_of_reach.end(),
                         [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
    NodeInfo& node = *member(worst->first);
    condemn(node, {ErrorKind::kNodeDied,
                   fmt::format("node {} ({}) and {} of the others could not reach each other for "
                               "{} ms, node {} first: it had to go",
                               node.number, node.hostname, worst->second.size(),
                               config_.lease_time / std::chrono::milliseconds(1),
                               *worst->second.begin()),
                   "", {}});
  }
  if (look_again) set_timer(now_ + config_.lease_time / 3, Timer::Kind::kQuarrel, 0, 0);
}

void Controller::condemn(NodeInfo& node, ErrorRecord cause) {
  node.condemned = cause;
  node.draining = true;
  send(node.node, NodeGone{node.node, node.number, node.incarnation, std::move(cause), 0});
  changed(node, false);
}

}  // namespace sheaf::scheduler
