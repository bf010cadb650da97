// The part of Store that finds room: placing, waiting, spilling, evicting, restoring.
#include <algorithm>

#include <fmt/format.h>

#include "objstore/store.h"

namespace sheaf::objstore {
namespace {

constexpr std::chrono::milliseconds kSpillRetry{500};   // after a disk said no
// From this size on a request waits for what was dropped just before it: memory that is new costs
// many times more than memory that was written lately.
constexpr uint64_t kSettleBytes = 8ull << 20;

}  // namespace

std::optional<Result<Locator>> Store::alloc_extent(ProcessId process, uint64_t request,
                                                   uint64_t payload_bytes,
                                                   std::chrono::milliseconds wait, TimePoint now) {
  now_ = now;
  return place_or_wait({WaitKind::kExtent, process, request, payload_bytes, now + wait});
}

std::optional<Result<Locator>> Store::lease_slab(ProcessId process, uint64_t request,
                                                 TimePoint now) {
  now_ = now;
  extents_.reap_slabs(base_);  // slabs used up a moment ago are warm
  return place_or_wait({WaitKind::kSlab, process, request, 0, now + options_.space_wait});
}

void Store::abort_extent(ProcessId process, const Locator& locator) {
  if (extents_.abort(process, locator)) poll_soon_ = true;
}

std::optional<Locator> Store::try_place(const Waiting& w) {
  bool slab = w.kind == WaitKind::kSlab;
  std::optional<Locator> locator =
      slab ? extents_.allocate_slab(w.process) : extents_.allocate(w.process, w.payload_bytes);
  if (!locator) return std::nullopt;
  uint64_t end = locator->offset + ExtentAllocator::rounded_size(w.bytes());
  if (Status grown = options_.arena->commit_to(end); !grown) {
    trouble_ = grown.message();
    extents_.cancel(*locator);
    return std::nullopt;
  }
  options_.arena->note_high_water(end);
  if (slab) format_slab(base_ + locator->offset, locator->generation);
  return locator;
}

std::optional<Result<Locator>> Store::place_or_wait(const Waiting& w) {
  uint64_t capacity = extents_.allocator().capacity_bytes();
  if (w.payload_bytes > capacity || w.bytes() > capacity) {
    return Status(StatusCode::kOutOfMemory,
                  "larger than the whole object store: " + describe_usage(w.payload_bytes));
  }
  if (w.kind == WaitKind::kExtent && w.bytes() >= kSettleBytes && waiting_.empty() &&
      table_.has_candidates()) {
    waiting_.push_back(w);  // served by quiesce(), or by poll() if that comes first
    settling_ = true;
    return std::nullopt;
  }
  // First come, first served; but a small request does not wait behind a large one.
  if (waiting_.empty() || w.bytes() < waiting_.front().bytes()) {
    if (auto locator = try_place(w)) return Result<Locator>(*locator);
    if (sweep()) {
      if (auto locator = try_place(w)) return Result<Locator>(*locator);
    }
    make_space(w.bytes());
    if (auto locator = try_place(w)) return Result<Locator>(*locator);
  }
  if (w.deadline <= now_) {
    return Status(StatusCode::kOutOfMemory, "object store is full: " + describe_usage(w.bytes()));
  }
  waiting_.push_back(w);
  return std::nullopt;
}

// Starts to spill what lies longest unused, as far as that is not under way already. Whole extents
// first: objects in slabs give their room back only together.
void Store::make_space(uint64_t bytes_needed) {
  if (spilling_bytes_ >= bytes_needed) return;
  bool only_copies = !spill_ || now_ < spill_retry_at_;   // what other nodes have, too
  if (only_copies && options_.daemon == kNoProcess) return;
  bytes_needed -= spilling_bytes_;
  std::unordered_set<uint64_t> pinned = pinned_offsets();
  Actions actions;
  auto pass = [&](bool slabs) {
    return table_.on_pressure(bytes_needed, [&](const ObjectId&, const Locator& locator) {
      return !pinned.contains(locator.offset) && !is_busy(locator.offset) &&
             extents_.in_slab(locator.offset) == slabs;
    }, only_copies, actions);
  };
  uint64_t chosen = pass(false);
  if (chosen < bytes_needed) {
    bytes_needed -= chosen;
    pass(true);
  }
  perform(actions);
}

void Store::serve_waiting() {
  std::deque<Waiting> still;
  uint64_t smallest_refused = UINT64_MAX;
  while (!waiting_.empty()) {
    Waiting w = waiting_.front();
    waiting_.pop_front();
    std::optional<Locator> locator;
    if (w.bytes() < smallest_refused) locator = try_place(w);
    if (locator) {
      if (w.kind == WaitKind::kRestore) read_back(w, *locator);
      else if (w.kind == WaitKind::kPull) pull_into(w, *locator);
      else options_.space_ready(w.process, w.request, *locator);
      continue;
    }
    smallest_refused = std::min(smallest_refused, w.bytes());
    if (w.deadline <= now_) {
      fail_waiting(w, StatusCode::kOutOfMemory,
                   "object store is full: " + describe_usage(w.bytes()));
    } else {
      still.push_back(w);
    }
  }
  waiting_.swap(still);
  uint64_t wanted = 0;
  for (const Waiting& w : waiting_) wanted += w.bytes();
  if (wanted > 0) make_space(std::min(wanted, extents_.allocator().capacity_bytes()));
}

void Store::fail_waiting(const Waiting& w, StatusCode code, const std::string& why) {
  if (w.kind == WaitKind::kExtent || w.kind == WaitKind::kSlab) {
    options_.space_ready(w.process, w.request, Status(code, why));
    return;
  }
  Actions actions;
  if (w.kind == WaitKind::kPull) {
    nodes_.pulled(w.id, Status(StatusCode::kOutOfMemory, why), {}, actions);
    return perform(actions);
  }
  table_.restore_failed(w.id, w.place, LossCause::kStoreFull, actions);
  perform(actions);
}

// ---- Giving memory back -------------------------------------------------------------------------

bool Store::try_release(const Locator& locator) {
  if (is_busy(locator.offset)) return false;
  if (!pins_.try_invalidate(base_, locator.offset)) return false;
  extents_.release(locator);
  poll_soon_ = true;
  return true;
}

// Objects that were freed while pinned, and slabs that their writers left. True: something came
// free.
bool Store::sweep() {
  bool freed = extents_.reap_slabs(base_) > 0;
  if (doomed_.empty()) return freed;
  std::unordered_set<uint64_t> pinned = pinned_offsets();
  size_t before = doomed_.size();
  std::erase_if(doomed_,
                [&](const Locator& l) { return !pinned.contains(l.offset) && try_release(l); });
  return freed || doomed_.size() < before;
}

// ---- Disk ---------------------------------------------------------------------------------------

void Store::start_spill(const StartSpill& action) {
  io_offsets_.insert(action.locator.offset);
  spilling_bytes_ += kHeaderBytes + action.locator.length;
  spill_->write(action.id, base_ + action.locator.offset + kHeaderBytes, action.locator.length,
                [this, id = action.id, locator = action.locator](const Result<SpillPlace>& place) {
                  spill_done(id, locator, place);
                });
}

void Store::spill_done(const ObjectId& id, const Locator& locator,
                       const Result<SpillPlace>& place) {
  io_offsets_.erase(locator.offset);
  spilling_bytes_ -= kHeaderBytes + locator.length;
  if (!place) {
    ++spill_failures_total_;
    trouble_ = place.status().message();
    spill_retry_at_ = now_ + kSpillRetry;
    table_.spill_failed(id, locator);
    return;
  }
  spilled_bytes_total_ += locator.length;
  trouble_.clear();
  Actions actions;
  if (table_.spill_written(id, locator, *place, actions)) try_evict(id, locator);
  perform(actions);
}

// The object stays readable until this instant; a reader who came in time keeps it in the arena.
void Store::try_evict(const ObjectId& id, const Locator& locator) {
  if (is_busy(locator.offset) || !pins_.try_invalidate(base_, locator.offset)) return;
  Actions actions;
  table_.evicted(id, actions);
  perform(actions);
}

void Store::start_restore(const StartRestore& action) {
  Waiting w{WaitKind::kRestore, kDaemonProcess, 0, action.place.length,
            now_ + options_.space_wait};
  w.id = action.id;
  w.place = action.place;
  std::optional<Result<Locator>> answer = place_or_wait(w);
  if (!answer) return;
  if (*answer) read_back(w, **answer);
  else fail_waiting(w, answer->status().code(), std::string(answer->status().message()));
}

void Store::read_back(const Waiting& w, const Locator& locator) {
  const ObjectTable::Entry* e = table_.find(w.id);
  if (e == nullptr || e->spill != w.place) {  // freed while it waited for room
    extents_.cancel(locator);
    return;
  }
  io_offsets_.insert(locator.offset);
  spill_->read(w.id, w.place, base_ + locator.offset + kHeaderBytes,
               [this, w, locator](const Status& status) {
                 io_offsets_.erase(locator.offset);
                 Actions actions;
                 if (status) {
                   seal_header(base_, locator, w.id);
                   SHEAF_CHECK(extents_.seal(kDaemonProcess, locator).is_ok());
                   restored_bytes_total_ += locator.length;
                   table_.restored(w.id, w.place, locator, actions);
                 } else {
                   extents_.cancel(locator);
                   table_.restore_failed(w.id, w.place, LossCause::kCorrupt, actions);
                 }
                 perform(actions);
               });
}

}  // namespace sheaf::objstore
