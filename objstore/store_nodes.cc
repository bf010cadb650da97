// The part of Store that deals with other nodes.
#include <algorithm>

#include "objstore/store.h"

namespace sheaf::objstore {
namespace {

constexpr std::chrono::milliseconds kRetryStep{10};      // of a fetch, per attempt
constexpr std::chrono::milliseconds kRetryMax{500};

}  // namespace

// ---- Peers --------------------------------------------------------------------------------------

void Store::peer_up(ProcessId daemon) {
  apply([&](Actions& out) { nodes_.peer_up(daemon, out); });
}

void Store::peer_down(ProcessId daemon, uint64_t barrier, TimePoint now) {
  now_ = now;
  apply([&](Actions& out) { nodes_.peer_down(daemon, barrier, out); });
}

void Store::peer_away(ProcessId daemon) {
  Actions actions;
  nodes_.peer_away(daemon, actions);
  perform(actions);
}

void Store::barrier_closed(uint64_t barrier) {
  apply([&](Actions& out) { nodes_.barrier_closed(barrier, out); });
}

Status Store::on_peer(ProcessId daemon, ObjectMessage message, TimePoint now) {
  now_ = now;
  if (number_of(daemon) != number_of(kDaemonProcess) || !nodes_.is_remote(daemon))
    return {StatusCode::kInvalidArgument, "not a daemon of another node"};
  std::optional<ObjectId> wanted;
  if (auto* want = std::get_if<Want>(&message)) wanted = want->id;
  Actions actions;
  nodes_.on_message(daemon, std::move(message), actions);
  if (wanted) note_unknown(*wanted);
  perform(actions);
  return {};
}

void Store::replicate(const ObjectId& id, uint32_t copies) {
  apply([&](Actions& out) { nodes_.replicate(id, copies, out); });
}

void Store::perform_remote(Action& action) {
  if (auto* tell = std::get_if<Tell>(&action)) {
    options_.tell(tell->to, tell->message);
  } else if (auto* pull = std::get_if<StartPull>(&action)) {
    start_pull(*pull);
  } else if (auto* later = std::get_if<RetryLater>(&action)) {
    retries_.emplace(now_ + std::min(kRetryStep * later->attempt, kRetryMax), later->id);
  } else if (auto* awaited = std::get_if<PeerAwaited>(&action)) {
    awaited_.emplace(now_ + options_.unknown_grace, awaited->daemon);
  } else if (auto* reached = std::get_if<BarrierReached>(&action)) {
    if (options_.barrier_reached) options_.barrier_reached(reached->barrier);
  } else if (auto* ready = std::get_if<ForwardReady>(&action)) {
    if (options_.forward_ready) options_.forward_ready(ready->to);
  } else {
    perform_lineage(action);
  }
}

void Store::poll_nodes() {
  Actions actions;
  while (!retries_.empty() && retries_.begin()->first <= now_) {
    nodes_.retry(retries_.extract(retries_.begin()).mapped(), actions);
  }
  while (!awaited_.empty() && awaited_.begin()->first <= now_) {
    ProcessId daemon = awaited_.extract(awaited_.begin()).mapped();
    if (expecting_ && !nodes_.is_up(daemon) && !nodes_.is_dead(daemon))
      awaited_.emplace(now_ + options_.unknown_grace, daemon);
    else
      nodes_.peer_awaited_in_vain(daemon, actions);
  }
  if (!actions.empty()) perform(actions);
  poll_pulls();
}

}  // namespace sheaf::objstore
