#include "objstore/store.h"

#include <algorithm>

#include <fmt/format.h>

namespace sheaf::objstore {
namespace {

// A dead creator cannot announce the object any more; only messages that are already on their way
// count.
constexpr std::chrono::milliseconds kDeadCreatorGrace{200};
// Pins go without a message, so those who wait for one look again this often.
constexpr std::chrono::milliseconds kPinPollWaiting{5};
constexpr std::chrono::milliseconds kPinPollIdle{200};
// What came of an object whose source has failed goes when nobody waits for it any more.
constexpr std::chrono::milliseconds kSourcePoll{100};

}  // namespace

Store::Store(StoreOptions options)
    : options_(std::move(options)), base_(options_.arena->write_base()),
      extents_(options_.arena->bytes(), options_.node),
      nodes_(options_.encode_error, options_.daemon), table_(nodes_.table()) {
  nodes_.set_broadcast(options_.broadcast_bytes, options_.broadcast_readers,
                       options_.chunk_bytes);
}

Result<std::unique_ptr<Store>> Store::create(StoreOptions options) {
  if (options.arena == nullptr || !options.notify || !options.space_ready ||
      !options.encode_error) {
    return Status(StatusCode::kInvalidArgument, "the store needs an arena and its callbacks");
  }
  if (options.daemon != kNoProcess && (node_of(options.daemon) != options.node ||
                                       !options.tell || !options.pull)) {
    return Status(StatusCode::kInvalidArgument, "a store among others must be able to reach them");
  }
  std::unique_ptr<Store> store(new Store(std::move(options)));
  if (!store->options_.spill_directory.empty()) {
    SpillOptions spill;
    spill.directory = store->options_.spill_directory;
    spill.file_bytes = store->options_.spill_file_bytes;
    spill.max_bytes = store->options_.spill_max_bytes;
    spill.wake = store->options_.wake;
    SHEAF_ASSIGN(store->spill_, SpillFiles::create(std::move(spill)));
  }
  return store;
}

Store::~Store() { (void)close().is_ok(); }

Status Store::close() {
  for (const Waiting& w : std::exchange(waiting_, {})) {
    if (w.kind == WaitKind::kExtent || w.kind == WaitKind::kSlab)
      fail_waiting(w, StatusCode::kCancelled, "the object store closes");
  }
  for (auto& [ticket, pull] : std::exchange(pulls_, {})) {
    if (options_.cancel_pull) options_.cancel_pull(pull);
  }
  return spill_ ? spill_->close() : Status::ok();
}

// ---- Processes ----------------------------------------------------------------------------------

void Store::process_joined(ProcessId process, PinTableBlock* pins, uint32_t pin_slots) {
  table_.process_joined(process);
  if (pins != nullptr) pins_.attach(process, pins, pin_slots);
}

void Store::process_died(ProcessId process, bool memory_gone) {
  Actions actions;
  for (const ExtentTable::LostRecord& lost : extents_.recover_sealed(process, base_)) {
    // Whoever named it holds it first: the writer itself, or the caller of the task that it ran.
    table_.seal(process, lost.record.id, lost.locator, lost.record.id.process(), {}, actions);
  }
  table_.process_died(process, actions);
  nodes_.maker_gone(process, actions);
  std::erase_if(waiting_, [&](const Waiting& w) { return w.process == process; });
  if (memory_gone) {
    extents_.process_gone(process);
    pins_.detach(process);
    poll_soon_ = true;
  }
  perform(actions);
}

// ---- Objects ------------------------------------------------------------------------------------

Status Store::seal(ProcessId process, const ObjectId& id, const Locator& locator, ProcessId holder,
                   std::span<const ObjectId> contained) {
  SHEAF_TRY(extents_.seal(process, locator));
  Actions actions;
  table_.seal(process, id, locator, holder, contained, actions);
  if (nodes_.is_remote(holder) && !table_.is_foreign(id))
    nodes_.hold(process, holder, {&id, 1}, {}, actions);
  perform(actions);
  return {};
}

Status Store::publish(ProcessId process, const ObjectId& id, ValueState state, std::string bytes,
                      std::span<const ObjectId> contained) {
  if (state != ValueState::kPending && state != ValueState::kInline &&
      state != ValueState::kError) {
    return Status(StatusCode::kInvalidArgument,
                  "an object is published as pending, inline or error");
  }
  Actions actions;
  nodes_.publish(process, id, state, std::move(bytes), contained, actions);
  perform(actions);
  return {};
}

void Store::hold(ProcessId process, ProcessId on_behalf_of, std::span<const ObjectId> add,
                 std::span<const ObjectId> drop) {
  Actions actions;
  nodes_.hold(process, on_behalf_of, add, drop, actions);
  if (!actions.empty()) perform(actions);
}

void Store::subscribe(ProcessId process, std::span<const ObjectId> ids, bool restore,
                      TimePoint now, std::span<const Locator> where) {
  now_ = now;
  Actions actions;
  for (size_t i = 0; i < std::min(ids.size(), where.size()); ++i) nodes_.hint(ids[i], where[i]);
  table_.subscribe(process, ids, restore, actions);
  for (const ObjectId& id : ids) note_unknown(id);
  perform(actions);
}

void Store::note_unknown(const ObjectId& id) {
  if (!table_.is_unknown(id)) return;
  bool creator_lives = table_.is_live(id.process());
  unknown_.emplace(now_ + (creator_lives ? options_.unknown_grace : kDeadCreatorGrace), id);
}

void Store::free(std::span<const ObjectId> ids) {
  Actions actions;
  nodes_.free(ids, actions);
  perform(actions);
}

bool Store::quiesce() {
  Actions actions;
  bool more = table_.quiesce(actions);
  perform(actions);
  if (!more && std::exchange(settling_, false)) serve_waiting();
  return more;
}

void Store::expire_unknown() {
  Actions actions;
  while (!unknown_.empty() && unknown_.begin()->first <= now_) {
    ObjectId id = unknown_.extract(unknown_.begin()).mapped();
    LossCause cause = table_.is_live(id.process())   ? LossCause::kUnknown
                      : table_.is_adopted(id) ? LossCause::kNodeDied
                                              : LossCause::kOwnerDied;
    table_.fail_unknown(id, cause, actions);
  }
  perform(actions);
}

// ---- The loop -----------------------------------------------------------------------------------

void Store::perform(Actions& actions) {
  nodes_.digest(actions);
  for (Action& action : actions) {
    if (auto* ready = std::get_if<NotifyReady>(&action)) {
      options_.notify(ready->process, ready->event);
    } else if (auto* extent = std::get_if<FreeExtent>(&action)) {
      if (!try_release(extent->locator)) doomed_.push_back(extent->locator);
    } else if (auto* spill = std::get_if<StartSpill>(&action)) {
      start_spill(*spill);
    } else if (auto* evict = std::get_if<TryEvict>(&action)) {
      try_evict(evict->id, evict->locator);
    } else if (auto* restore = std::get_if<StartRestore>(&action)) {
      start_restore(*restore);
    } else if (auto* gone = std::get_if<DeleteSpill>(&action)) {
      spill_->remove(gone->place);
    } else {
      perform_remote(action);
    }
  }
  actions.clear();
  if (!finds_.empty()) find_makers();
}

void Store::poll(TimePoint now) {
  now_ = now;
  poll_soon_ = false;
  if (spill_) spill_->poll();
  sweep();
  expire_unknown();
  poll_nodes();
  serve_waiting();
}

std::optional<TimePoint> Store::next_wakeup(TimePoint now) const {
  std::optional<TimePoint> due;
  auto no_later_than = [&](TimePoint t) { due = due ? std::min(*due, t) : t; };
  if (!waiting_.empty()) no_later_than(poll_soon_ ? now : now + kPinPollWaiting);
  for (const Waiting& w : waiting_) no_later_than(w.deadline);
  if (!doomed_.empty()) no_later_than(now + kPinPollIdle);
  if (!unknown_.empty()) no_later_than(unknown_.begin()->first);
  for (const auto& [offset, in] : incoming_) {
    if (in.again_at) no_later_than(*in.again_at);
    if (!in.has_source && !in.given_up) no_later_than(now + kSourcePoll);
  }
  if (!retries_.empty()) no_later_than(retries_.begin()->first);
  if (!awaited_.empty()) no_later_than(awaited_.begin()->first);
  return due;
}

// ---- Observation --------------------------------------------------------------------------------

std::unordered_set<uint64_t> Store::pinned_offsets() const {
  std::unordered_set<uint64_t> offsets;
  for (const auto& [offset, process] : pins_.pins()) offsets.insert(offset);
  return offsets;
}

std::vector<Store::ObjectInfo> Store::list_objects(size_t limit) const {
  std::unordered_set<uint64_t> pinned = pinned_offsets();
  std::vector<ObjectInfo> list;
  for (const auto& [id, e] : table_.entries()) {
    if (list.size() == limit) break;
    if (!e.known) continue;
    bool in_arena = e.in_arena();
    list.push_back({id, e.state, e.size, in_arena && pinned.contains(e.locator.offset),
                    e.spill.file != 0, e.containers, e.holds});
  }
  return list;
}

std::vector<Store::PinInfo> Store::list_pins() const {
  std::map<ProcessId, PinInfo> by_process;
  for (const auto& [offset, process] : pins_.pins()) {
    if (!options_.arena->contains(offset, kHeaderBytes)) continue;
    PinInfo& info = by_process.try_emplace(process, PinInfo{process, 0, 0}).first->second;
    ++info.objects;
    uint64_t length = reinterpret_cast<const ObjectHeader*>(base_ + offset)->length;
    info.bytes += std::min(length, options_.arena->bytes());
  }
  std::vector<PinInfo> list;
  for (const auto& [process, info] : by_process) list.push_back(info);
  std::sort(list.begin(), list.end(),
            [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  return list;
}

Store::Metrics Store::metrics() const {
  Metrics m;
  m.arena_bytes = options_.arena->bytes();
  m.committed_bytes = options_.arena->committed_bytes();
  m.used_bytes = extents_.allocator().used_bytes();
  m.largest_free_bytes = extents_.allocator().largest_free_bytes();
  for (const auto& [id, e] : table_.entries()) {
    m.objects += e.known;
    m.objects_in_arena += e.in_arena();
    m.copies += e.foreign && e.kept == 0 && e.in_arena();
    m.objects_spilled += e.state == ValueState::kSpilled;
  }
  m.lineage_records = nodes_.lineage().size();
  m.lineage_values = nodes_.values_kept_elsewhere();
  m.lineage_kept = nodes_.lineage().kept_for_others();
  m.slabs = extents_.slab_count();
  m.waiting_allocations = waiting_.size();
  m.awaiting_unpin = doomed_.size();
  m.spilled_bytes_total = spilled_bytes_total_;
  m.restored_bytes_total = restored_bytes_total_;
  m.spill_failures_total = spill_failures_total_;
  m.pulls_total = pulls_total_;
  m.pulled_bytes_total = pulled_bytes_total_;
  m.pull_failures_total = pull_failures_total_;
  if (spill_) {
    m.spill_files = spill_->file_count();
    m.disk_bytes = spill_->bytes_on_disk();
  }
  return m;
}

std::string Store::describe_usage(uint64_t needed_bytes) const {
  auto mib = [](uint64_t bytes) {
    return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
  };
  std::string text = fmt::format("need {}, used {} of {}", mib(needed_bytes),
                                 mib(extents_.allocator().used_bytes()),
                                 mib(extents_.allocator().capacity_bytes()));
  std::vector<PinInfo> pins = list_pins();
  constexpr size_t kNamed = 5;
  for (size_t i = 0; i < std::min(pins.size(), kNamed); ++i) {
    text += fmt::format("{} process {} ({} objects, {})", i == 0 ? "; pinned by" : ",",
                        pins[i].process, pins[i].objects, mib(pins[i].bytes));
  }
  if (pins.size() > kNamed) text += fmt::format(" and {} more", pins.size() - kNamed);
  if (!spill_) text += "; spilling is off";
  if (!trouble_.empty()) text += "; " + trouble_;
  return text;
}

}  // namespace sheaf::objstore
