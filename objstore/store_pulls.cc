// The part of Store that moves bytes between nodes, as reader and as source.
//
// A large object comes in chunks, some at a time, and can be read while it comes: up to the first
// gap. Who wants more of it than is here is told kOverloaded and asks again. So one object goes
// down a chain of nodes in little more than the time of one transfer.
#include <algorithm>

#include "objstore/store.h"

namespace sheaf::objstore {
namespace {

constexpr uint64_t kBytesUnderWay = 8ull << 20;   // of one object, or two chunks of it

}  // namespace

// ---- Getting bytes ------------------------------------------------------------------------------

void Store::start_pull(const StartPull& action) {
  Waiting w{WaitKind::kPull, kDaemonProcess, 0, action.locator.length, now_ + options_.space_wait};
  w.id = action.id;
  w.from = action.from;
  w.remote = action.locator;
  for (auto& [offset, in] : incoming_) {
    bool resumes = in.id == w.id && !in.given_up && in.local.length == w.remote.length;
    if (resumes) return read_from(in, w);
  }
  std::optional<Result<Locator>> answer = place_or_wait(w);
  if (!answer) return;
  if (*answer) pull_into(w, **answer);
  else fail_waiting(w, StatusCode::kOutOfMemory, std::string(answer->status().message()));
}

void Store::pull_into(const Waiting& w, const Locator& locator) {
  io_offsets_.insert(locator.offset);
  Incoming& in = incoming_[locator.offset];
  in.id = w.id;
  in.local = locator;
  in.chunk_bytes = nodes_.chunk_bytes(locator.length);
  in.chunks.resize(
      std::max<uint64_t>((locator.length + in.chunk_bytes - 1) / in.chunk_bytes, 1));
  read_from(in, w);
}

void Store::read_from(Incoming& in, const Waiting& w) {
  in.from = w.from;
  in.remote = w.remote;
  in.failed = {};
  in.again_at.reset();
  in.has_source = true;
  ask_for_chunks(in);
}

// Asks for the first that are missing, and ends the reading when nothing is under way and nothing
// can be. `in` may be gone afterwards.
void Store::ask_for_chunks(Incoming& in) {
  uint64_t at_once = std::max<uint64_t>(kBytesUnderWay / in.chunk_bytes, 2);
  size_t missing = in.front;
  while (in.failed.is_ok() && !in.again_at && in.under_way < at_once) {
    auto first = in.chunks.begin() + static_cast<ptrdiff_t>(missing);
    missing = static_cast<size_t>(
        std::find(first, in.chunks.end(), Incoming::Chunk::kMissing) - in.chunks.begin());
    if (missing == in.chunks.size()) break;
    uint64_t begin = missing * in.chunk_bytes;
    uint64_t length = std::min(in.chunk_bytes, in.local.length - begin);
    transport::RemoteRange range{in.remote.region, in.remote.generation,
                                 in.remote.offset + kHeaderBytes + begin, length};
    std::span<std::byte> into(base_ + in.local.offset + kHeaderBytes + begin, length);
    uint64_t ticket = ++last_ticket_;
    Result<transport::PullId> pull = options_.pull(
        in.from, range, into, transport::PullPriority::kTaskArgument,
        [this, offset = in.local.offset, missing, ticket](const Status& status) {
          pulls_.erase(ticket);
          chunk_done(offset, missing, status);
        });
    if (!pull) {
      in.failed = pull.status();
      break;
    }
    pulls_[ticket] = *pull;
    in.chunks[missing] = Incoming::Chunk::kAsked;
    ++in.under_way;
  }
  bool whole = in.front == in.chunks.size();
  if (in.under_way == 0 && (whole || !in.failed.is_ok())) end_reading(in);
}

void Store::chunk_done(uint64_t offset, size_t chunk, const Status& status) {
  Incoming& in = incoming_.at(offset);
  --in.under_way;
  in.chunks[chunk] = status ? Incoming::Chunk::kHere : Incoming::Chunk::kMissing;
  while (in.front < in.chunks.size() && in.chunks[in.front] == Incoming::Chunk::kHere) ++in.front;
  if (in.front > 0 && in.front < in.chunks.size() && !std::exchange(in.announced, true))
    apply([&](Actions& out) { nodes_.pull_started(in.id, in.local, out); });
  if (status.code() == StatusCode::kOverloaded) {
    in.again_at = now_ + options_.chunk_retry;
  } else if (!status && in.failed.is_ok()) {
    in.failed = status;
  }
  ask_for_chunks(in);
}

void Store::end_reading(Incoming& in) {
  Locator locator = in.local;
  ObjectId id = in.id;
  Status status = in.failed;
  in.has_source = false;
  if (status) {
    seal_header(base_, locator, id);
    SHEAF_CHECK(extents_.seal(kDaemonProcess, locator).is_ok());
    ++pulls_total_;
    pulled_bytes_total_ += locator.length;
    io_offsets_.erase(locator.offset);
    incoming_.erase(locator.offset);
  } else {
    ++pull_failures_total_;
    bool any = std::find(in.chunks.begin(), in.chunks.end(), Incoming::Chunk::kHere) !=
               in.chunks.end();
    if (!any) {
      in.given_up = true;
      forget_incoming(locator.offset);
    }
  }
  Actions actions;
  nodes_.pulled(id, status, locator, actions);
  perform(actions);
}

// Gives back the room, unless somebody still reads what had come.
void Store::forget_incoming(uint64_t offset) {
  auto it = incoming_.find(offset);
  if (it == incoming_.end() || !it->second.given_up || readers_.contains(offset)) return;
  Locator locator = it->second.local;
  incoming_.erase(it);
  io_offsets_.erase(offset);
  extents_.cancel(locator);
  poll_soon_ = true;
}

void Store::poll_pulls() {
  std::vector<uint64_t> due;
  for (auto& [offset, in] : incoming_) {
    bool abandoned = !in.has_source && !nodes_.fetches().contains(in.id);
    if (abandoned) in.given_up = true;
    bool again = in.again_at && *in.again_at <= now_;
    if (again) in.again_at.reset();
    if (in.given_up || (again && in.has_source)) due.push_back(offset);
  }
  for (uint64_t offset : due) {
    forget_incoming(offset);
    if (auto it = incoming_.find(offset); it != incoming_.end() && it->second.has_source)
      ask_for_chunks(it->second);
  }
}

// ---- Being read ---------------------------------------------------------------------------------

Store::Incoming* Store::incoming_at(const transport::RemoteRange& range) {
  auto it = incoming_.upper_bound(range.offset);
  if (it == incoming_.begin()) return nullptr;
  Incoming& in = std::prev(it)->second;
  uint64_t inside = range.offset - in.local.offset;
  bool within = inside >= kHeaderBytes && inside - kHeaderBytes <= in.local.length &&
                range.length <= in.local.length - (inside - kHeaderBytes);
  return within && in.local.generation == range.generation ? &in : nullptr;
}

Status Store::acquire(const transport::PeerId&, const transport::RemoteRange& range) {
  if (Incoming* in = incoming_at(range); in != nullptr) {
    uint64_t end = range.offset - in->local.offset - kHeaderBytes + range.length;
    if (in->given_up) return {StatusCode::kNotFound, "the object has not come here"};
    if (end > in->here_bytes()) return {StatusCode::kOverloaded, "the bytes are not here yet"};
    ++readers_[in->local.offset];
    return {};
  }
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
  uint64_t header = 0;
  if (Incoming* in = incoming_at(range); in != nullptr) {
    header = in->local.offset;
  } else {
    Result<uint64_t> object = extents_.object_at(range.offset, range.length, range.generation);
    SHEAF_CHECK(object.has_value());   // nothing that is read is freed
    header = *object;
  }
  auto it = readers_.find(header);
  SHEAF_CHECK(it != readers_.end());
  if (--it->second > 0) return;
  readers_.erase(it);
  forget_incoming(header);
  if (!doomed_.empty()) poll_soon_ = true;
}

}  // namespace sheaf::objstore
