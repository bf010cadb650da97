#include "objstore/slab.h"

#include <algorithm>
#include <cstring>

#include "core/status.h"
#include "objstore/pins.h"

namespace sheaf::objstore {
namespace {

uint64_t object_bytes(uint64_t payload) {
  return (kHeaderBytes + payload + kObjectAlignment - 1) / kObjectAlignment * kObjectAlignment;
}

}  // namespace

// ---- Writer -------------------------------------------------------------------------------------

void SlabWriter::adopt(uint64_t offset, uint64_t length, uint32_t generation) {
  has_current_ = false;
  retire_idle();
  slabs_.push_back({offset, length, generation, 0, 0, 0, sizeof(SlabHeader)});
  has_current_ = true;
}

std::optional<Locator> SlabWriter::reserve(size_t payload_bytes) {
  if (!has_current_ || payload_bytes > kSlabMaxPayload) return std::nullopt;
  Open& slab = slabs_.back();
  uint64_t bytes = object_bytes(payload_bytes);
  if (slab.reserved == kSlabRecords || bytes > slab.length - slab.next) return std::nullopt;
  Locator locator;
  locator.node = node_;
  locator.generation = slab.generation;
  locator.offset = slab.offset + slab.next;
  locator.length = payload_bytes;
  slab.next += bytes;
  ++slab.reserved;
  ++slab.open;
  return locator;
}

void SlabWriter::seal(const Locator& locator, const ObjectId& id) {
  Open* slab = find(locator.offset);
  SHEAF_CHECK(slab != nullptr && slab->open > 0 && slab->sealed < kSlabRecords);
  seal_header(base_, locator, id);
  SlabRecord& record = header(*slab)->records[slab->sealed++];
  record.id = id;
  record.offset = static_cast<uint32_t>(locator.offset - slab->offset);
  record.length = static_cast<uint32_t>(locator.length);
  record.sealed.store(slab->generation, std::memory_order_release);
  close_one(slab);
}

void SlabWriter::abandon(const Locator& locator) {
  Open* slab = find(locator.offset);
  SHEAF_CHECK(slab != nullptr && slab->open > 0);
  close_one(slab);
}

void SlabWriter::retire() {
  has_current_ = false;
  retire_idle();
}

SlabWriter::Open* SlabWriter::find(uint64_t offset) {
  for (Open& slab : slabs_) {
    if (offset >= slab.offset && offset - slab.offset < slab.length) return &slab;
  }
  return nullptr;
}

void SlabWriter::close_one(Open* slab) {
  --slab->open;
  if (slab->open == 0 && !(has_current_ && slab == &slabs_.back())) retire_idle();
}

void SlabWriter::retire_idle() {
  size_t closed = has_current_ ? slabs_.size() - 1 : slabs_.size();
  size_t kept = 0;
  for (size_t i = 0; i < slabs_.size(); ++i) {
    if (i < closed && slabs_[i].open == 0) {
      header(slabs_[i])->retired.store(1,
                                       std::memory_order_release);  // from here on it is not ours
    } else {
      slabs_[kept++] = slabs_[i];
    }
  }
  slabs_.resize(kept);
}

// ---- Daemon -------------------------------------------------------------------------------------

void format_slab(std::byte* slab, uint32_t generation) {
  std::memset(static_cast<void*>(slab), 0, sizeof(SlabHeader));
  reinterpret_cast<SlabHeader*>(slab)->generation = generation;
}

bool slab_is_retired(const std::byte* slab) {
  return reinterpret_cast<const SlabHeader*>(slab)->retired.load(std::memory_order_acquire) != 0;
}

std::vector<SealedRecord> read_sealed(const std::byte* slab, uint64_t length, uint32_t generation) {
  std::vector<SealedRecord> sealed;
  for (const SlabRecord& record : reinterpret_cast<const SlabHeader*>(slab)->records) {
    if (record.sealed.load(std::memory_order_acquire) != generation) break;
    bool inside = record.offset >= sizeof(SlabHeader) && record.offset % kObjectAlignment == 0 &&
                  record.offset + kHeaderBytes + record.length <= length;
    if (inside) sealed.push_back({record.id, record.offset, record.length});
  }
  return sealed;
}

size_t count_sealed(const std::byte* slab, uint32_t generation) {
  const SlabRecord* records = reinterpret_cast<const SlabHeader*>(slab)->records;
  return static_cast<size_t>(
      std::partition_point(records, records + kSlabRecords,
                           [&](const SlabRecord& r) {
                             return r.sealed.load(std::memory_order_acquire) == generation;
                           }) -
      records);
}

}  // namespace sheaf::objstore
