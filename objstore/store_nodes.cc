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
  Actions actions;
  nodes_.peer_up(daemon, actions);
  perform(actions);
}

void Store::peer_down(ProcessId daemon, uint64_t barrier, TimePoint now) {
  now_ = now;
  Actions actions;
  nodes_.peer_down(daemon, barrier, actions);
  perform(actions);
}

void Store::barrier_closed(uint64_t barrier) {
  Actions actions;
  nodes_.barrier_closed(barrier, actions);
  perform(actions);
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
  Actions actions;
  nodes_.replicate(id, copies, actions);
  perform(actions);
}

bool Store::may_forward(ProcessId to) { return nodes_.may_forward(to); }

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
  }
}

void Store::poll_nodes() {
  Actions actions;
  while (!retries_.empty() && retries_.begin()->first <= now_) {
    nodes_.retry(retries_.extract(retries_.begin()).mapped(), actions);
  }
  while (!awaited_.empty() && awaited_.begin()->first <= now_) {
    nodes_.peer_awaited_in_vain(awaited_.extract(awaited_.begin()).mapped(), actions);
  }
  if (!actions.empty()) perform(actions);
}

// ---- Getting bytes ------------------------------------------------------------------------------

void Store::start_pull(const StartPull& action) {
  Waiting w{WaitKind::kPull, kDaemonProcess, 0, action.locator.length, now_ + options_.space_wait};
  w.id = action.id;
  w.from = action.from;
  w.remote = action.locator;
  std::optional<Result<Locator>> answer = place_or_wait(w);
  if (!answer) return;
  if (*answer) pull_into(w, **answer);
  else fail_waiting(w, StatusCode::kOutOfMemory, std::string(answer->status().message()));
}

void Store::pull_into(const Waiting& w, const Locator& locator) {
  io_offsets_.insert(locator.offset);
  transport::RemoteRange range{w.remote.region, w.remote.generation,
                               w.remote.offset + kHeaderBytes, w.remote.length};
  std::span<std::byte> into(base_ + locator.offset + kHeaderBytes, locator.length);
  Result<transport::PullId> pull =
      options_.pull(w.from, range, into, transport::PullPriority::kTaskArgument,
                    [this, id = w.id, locator](const Status& status) {
                      pulls_.erase(id);
                      pull_done(id, locator, status);
                    });
  if (pull) pulls_[w.id] = *pull;
  else pull_done(w.id, locator, pull.status());
}

void Store::pull_done(const ObjectId& id, const Locator& locator, const Status& status) {
  io_offsets_.erase(locator.offset);
  Actions actions;
  if (status) {
    seal_header(base_, locator, id);
    SHEAF_CHECK(extents_.seal(kDaemonProcess, locator).is_ok());
    ++pulls_total_;
    pulled_bytes_total_ += locator.length;
  } else {
    extents_.cancel(locator);
    ++pull_failures_total_;
    poll_soon_ = true;
  }
  nodes_.pulled(id, status, locator, actions);
  perform(actions);
}

// ---- Being read ---------------------------------------------------------------------------------

Status Store::acquire(const transport::PeerId&, const transport::RemoteRange& range) {
  Result<uint64_t> header = extents_.object_at(range.offset, range.length, range.generation);
  if (!header) return header.status();
  auto* h = reinterpret_cast<ObjectHeader*>(base_ + *header);
  std::atomic_ref<uint64_t> magic(h->magic);
  if (magic.load(std::memory_order_acquire) != kObjectMagic ||
      h->generation != range.generation ||
      range.offset - *header - kHeaderBytes + range.length > h->length) {
    return {StatusCode::kNotFound, "the object is not there any more"};
  }
  ++readers_[*header];
  return {};
}

void Store::release(const transport::PeerId&, const transport::RemoteRange& range) {
  Result<uint64_t> header = extents_.object_at(range.offset, range.length, range.generation);
  SHEAF_CHECK(header.has_value());   // nothing that is read is freed
  auto it = readers_.find(*header);
  SHEAF_CHECK(it != readers_.end());
  if (--it->second > 0) return;
  readers_.erase(it);
  if (!doomed_.empty()) poll_soon_ = true;
}

}  // namespace sheaf::objstore
