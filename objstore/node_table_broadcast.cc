// The part of NodeTable that decides who reads a large object from whom.
#include <algorithm>
#include <utility>

#include "objstore/node_table.h"

namespace sheaf::objstore {
namespace {

// An object has about so many chunks, of whole MiB.
constexpr uint64_t kChunksOfAnObject = 256;
constexpr uint64_t kChunkBytesUnit = 1 << 20;
constexpr uint64_t kChunkUnitsMax = 8;

}  // namespace

uint64_t NodeTable::chunk_bytes(uint64_t size) const {
  if (chunk_bytes_ != 0) return chunk_bytes_;
  if (size < broadcast_bytes_) return std::max<uint64_t>(size, 1);
  uint64_t units = size / kChunksOfAnObject / kChunkBytesUnit;
  return std::clamp<uint64_t>(units, 1, kChunkUnitsMax) * kChunkBytesUnit;
}

// ---- A reader -----------------------------------------------------------------------------------

void NodeTable::pull_started(const ObjectId& id, const Locator& local, Actions& out) {
  auto it = fetches_.find(id);
  if (it != fetches_.end() && it->second.granted) tell(owner_of(id), CopyStarted{id, local}, out);
}

// ---- The owner ----------------------------------------------------------------------------------

void NodeTable::on(ProcessId from, CopyStarted& m, Actions& out) {
  auto it = broadcasts_.find(m.id);
  if (it == broadcasts_.end() || !it->second.readers.contains(from)) return;
  m.locator.node = node_of(from);
  it->second.started[from] = m.locator;
  serve_readers(m.id, out);
}

// Asked anew by one whose source has failed: it keeps what it has, and those who read from it wait.
void NodeTable::direct(const ObjectId& id, ProcessId reader, ProcessId tried, Actions& out) {
  Broadcast& b = broadcasts_[id];
  b.readers.erase(reader);
  std::erase_if(b.waiting, [&](const auto& w) { return w.reader == reader; });
  b.waiting.push_back({reader, tried});
  serve_readers(id, out);
}

void NodeTable::reader_done(const ObjectId& id, ProcessId reader, Actions& out) {
  auto it = broadcasts_.find(id);
  if (it == broadcasts_.end()) return;
  it->second.readers.erase(reader);
  it->second.started.erase(reader);
  std::erase_if(it->second.waiting, [&](const auto& w) { return w.reader == reader; });
  serve_readers(id, out);
}

// How many nodes pass the bytes on before `daemon` has them. None: it gets them from `reader`, or
// from somebody who waits for a source.
std::optional<size_t> NodeTable::hops(const Broadcast& b, ProcessId daemon, ProcessId reader) {
  size_t n = 0;
  for (auto it = b.readers.find(daemon); it != b.readers.end(); it = b.readers.find(daemon)) {
    if (daemon == reader || ++n > b.readers.size()) return std::nullopt;
    daemon = it->second;
  }
  bool waits = std::any_of(b.waiting.begin(), b.waiting.end(),
                           [&](const auto& w) { return w.reader == daemon; });
  if (waits || daemon == reader) return std::nullopt;
  return n;
}

// The least busy node that has the bytes or gets them, of those the nearest to whole ones; where
// the reader has failed is the last resort.
const Locator* NodeTable::best_source(const ObjectId& id, const ObjectTable::Entry& e,
                                      const Broadcast& b, const Broadcast::Waiting& w,
                                      ProcessId* source) const {
  const Locator* best = nullptr;
  std::pair<size_t, size_t> best_cost{SIZE_MAX, 0};
  auto offer = [&](ProcessId daemon, const Locator& locator, size_t distance) {
    if (daemon == w.reader) return;
    if (locator.generation == 0) distance = SIZE_MAX;   // on its disk
    size_t load = 0;
    for (const auto& [reader, from] : b.readers) load += from == daemon && reader != w.reader;
    if (load >= broadcast_readers_) return;
    if (daemon == w.tried) load = SIZE_MAX - 1;
    if (std::pair(load, distance) >= best_cost) return;
    best_cost = {load, distance};
    best = &locator;
    *source = daemon;
  };
  if (e.in_arena()) offer(self_, e.locator, 0);
  if (auto rows = copies_.find(id); rows != copies_.end()) {
    for (const Copy& copy : rows->second) offer(copy.daemon, copy.locator, 0);
  }
  // A chain adds the time of a chunk per node.
  size_t hops_max = std::max<size_t>(e.size / chunk_bytes(e.size) / 2, 1);
  for (const auto& [daemon, locator] : b.started) {
    if (!b.readers.contains(daemon)) continue;
    if (auto n = hops(b, daemon, w.reader); n && *n <= hops_max) offer(daemon, locator, *n);
  }
  return best;
}

void NodeTable::serve_readers(const ObjectId& id, Actions& out) {
  auto it = broadcasts_.find(id);
  if (it == broadcasts_.end()) return;
  Broadcast& b = it->second;
  const ObjectTable::Entry* e = table_.find(id);
  if (e == nullptr || e->state != ValueState::kArena) {   // lost, or on disk: whatever comes of it
    std::deque<Broadcast::Waiting> waiting = std::move(b.waiting);
    b.waiting.clear();
    if (b.readers.empty()) broadcasts_.erase(it);
    for (const auto& w : waiting) table_.subscribe(w.reader, {&id, 1}, true, out);
    return;
  }
  for (size_t i = 0; i < b.waiting.size();) {
    Broadcast::Waiting w = b.waiting[i];
    ProcessId source = kNoProcess;
    const Locator* from = best_source(id, *e, b, w, &source);
    if (from == nullptr && b.readers.empty()) {
      from = &e->locator;   // it says that it has no copy, and there is no other: let it see
      source = e->elsewhere ? daemon_of(e->locator.node) : self_;
    }
    if (from == nullptr) {
      ++i;
      continue;
    }
    b.waiting.erase(b.waiting.begin() + static_cast<ptrdiff_t>(i));
    b.readers[w.reader] = source;
    tell(w.reader, Here{id, ValueState::kArena, {}, *from}, out);
    i = 0;   // who waited for this one has a source now
  }
  if (b.readers.empty()) broadcasts_.erase(it);
}

}  // namespace sheaf::objstore
