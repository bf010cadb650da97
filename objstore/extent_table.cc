#include "objstore/extent_table.h"

#include <iterator>

#include <fmt/format.h>

namespace sheaf::objstore {

std::optional<Locator> ExtentTable::allocate(ProcessId owner, uint64_t payload_bytes) {
  if (payload_bytes > allocator_.capacity_bytes()) return std::nullopt;
  uint64_t size = ExtentAllocator::rounded_size(kHeaderBytes + payload_bytes);
  std::optional<uint64_t> offset = allocator_.allocate(size);
  if (!offset) return std::nullopt;
  extents_.emplace(*offset, Extent{size, ++last_generation_, owner, false});
  return Locator{node_, 0, MemoryKind::kHost, last_generation_, *offset, payload_bytes};
}

std::optional<Locator> ExtentTable::allocate_slab(ProcessId owner) {
  std::optional<uint64_t> offset = allocator_.allocate(kSlabBytes, kSlabBytes);
  if (!offset) return std::nullopt;
  slabs_.emplace(*offset, Slab{++last_generation_, owner, 0, {}});
  return Locator{node_, 0, MemoryKind::kHost, last_generation_, *offset, kSlabBytes};
}

void ExtentTable::cancel(const Locator& locator) {
  if (auto it = extents_.find(locator.offset); it != extents_.end()) {
    allocator_.release(it->first, it->second.size);
    extents_.erase(it);
  } else if (auto slab = slabs_.find(locator.offset); slab != slabs_.end()) {
    free_slab(slab);
  }
}

Status ExtentTable::seal(ProcessId sender, const Locator& locator) {
  auto refuse = [&](const char* why) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("process {} seals at offset {}: {}", sender, locator.offset, why));
  };
  if (auto it = extents_.find(locator.offset); it != extents_.end()) {
    Extent& extent = it->second;
    if (extent.generation != locator.generation) return refuse("stale generation");
    if (extent.owner != sender) return refuse("another process's extent");
    if (ExtentAllocator::rounded_size(kHeaderBytes + locator.length) > extent.size)
      return refuse("too long");
    if (extent.sealed) return Status(StatusCode::kAlreadyExists, "the extent is sealed already");
    extent.sealed = true;
    return {};
  }
  SlabIt slab = slab_of(locator.offset);
  if (slab == slabs_.end()) return refuse("nothing is allocated there");
  uint64_t inside = locator.offset - slab->first;
  if (slab->second.generation != locator.generation) return refuse("stale generation");
  if (slab->second.owner != sender) return refuse("another process's slab");
  if (inside < sizeof(SlabHeader) || inside % kObjectAlignment != 0 ||
      locator.length > kSlabBytes - kHeaderBytes - inside) {
    return refuse("outside the slab's object area");
  }
  if (!slab->second.seen.insert(static_cast<uint32_t>(inside)).second) {
    return Status(StatusCode::kAlreadyExists, "the slab object is sealed already");
  }
  ++slab->second.live;
  return {};
}

Status ExtentTable::abort(ProcessId sender, const Locator& locator) {
  auto it = extents_.find(locator.offset);
  if (it == extents_.end() || it->second.generation != locator.generation ||
      it->second.owner != sender || it->second.sealed) {
    return Status(StatusCode::kInvalidArgument, "no unsealed extent of that process is there");
  }
  cancel(locator);
  return {};
}

void ExtentTable::release(const Locator& locator) {
  if (auto it = extents_.find(locator.offset); it != extents_.end()) {
    SHEAF_CHECK(it->second.generation == locator.generation && it->second.sealed);
    cancel(locator);
    return;
  }
  SlabIt slab = slab_of(locator.offset);
  SHEAF_CHECK(slab != slabs_.end() && slab->second.generation == locator.generation &&
              slab->second.live > 0);
  if (--slab->second.live == 0 && slab->second.owner == kNoProcess) free_slab(slab);
}

std::vector<ExtentTable::LostRecord> ExtentTable::recover_sealed(ProcessId process,
                                                                 const std::byte* base) {
  std::vector<LostRecord> lost;
  for (auto& [offset, slab] : slabs_) {
    if (slab.owner != process) continue;
    for (const SealedRecord& record : read_sealed(base + offset, kSlabBytes, slab.generation)) {
      if (!slab.seen.insert(record.offset).second) continue;
      ++slab.live;
      lost.push_back(
          {{node_, 0, MemoryKind::kHost, slab.generation, offset + record.offset, record.length},
           record});
    }
  }
  return lost;
}

void ExtentTable::process_gone(ProcessId process) {
  for (auto it = extents_.begin(); it != extents_.end();) {
    auto here = it++;
    if (here->second.owner != process) continue;
    here->second.owner = kNoProcess;
    if (!here->second.sealed) cancel({.offset = here->first});
  }
  for (auto it = slabs_.begin(); it != slabs_.end();) {
    auto here = it++;
    if (here->second.owner != process) continue;
    here->second.owner = kNoProcess;
    if (here->second.live == 0) free_slab(here);
  }
}

size_t ExtentTable::reap_slabs(const std::byte* base) {
  size_t freed = 0;
  for (auto it = slabs_.begin(); it != slabs_.end();) {
    auto here = it++;
    if (!reapable(here->first, here->second, base)) continue;
    free_slab(here);
    ++freed;
  }
  return freed;
}

bool ExtentTable::reapable(uint64_t offset, const Slab& slab, const std::byte* base) const {
  if (slab.live > 0) return false;
  if (slab.owner == kNoProcess) return true;
  // A message about a sealed object may still be on its way: its record says so.
  return slab_is_retired(base + offset) &&
         count_sealed(base + offset, slab.generation) == slab.seen.size();
}

bool ExtentTable::in_slab(uint64_t offset) const {
  return const_cast<ExtentTable*>(this)->slab_of(offset) !=
         const_cast<ExtentTable*>(this)->slabs_.end();
}

Result<uint64_t> ExtentTable::object_at(uint64_t offset, uint64_t length,
                                        uint32_t generation) const {
  const Status gone(StatusCode::kNotFound, "no object of that generation is there");
  if (offset < kHeaderBytes) return gone;
  auto it = extents_.upper_bound(offset - kHeaderBytes);
  if (it != extents_.begin()) {
    --it;
    const auto& [start, extent] = *it;
    uint64_t inside = offset - start;
    if (inside < extent.size) {
      if (extent.generation != generation || !extent.sealed || length > extent.size - inside)
        return gone;
      return start;
    }
  }
  auto slab = const_cast<ExtentTable*>(this)->slab_of(offset - kHeaderBytes);
  if (slab == const_cast<ExtentTable*>(this)->slabs_.end() ||
      slab->second.generation != generation) {
    return gone;
  }
  uint64_t inside = offset - kHeaderBytes - slab->first;
  if (!slab->second.seen.contains(static_cast<uint32_t>(inside)) ||
      length > kSlabBytes - kHeaderBytes - inside) {
    return gone;
  }
  return offset - kHeaderBytes;
}

ExtentTable::SlabIt ExtentTable::slab_of(uint64_t offset) {
  auto it = slabs_.upper_bound(offset);
  if (it == slabs_.begin()) return slabs_.end();
  --it;
  return offset - it->first < kSlabBytes ? it : slabs_.end();
}

void ExtentTable::free_slab(SlabIt slab) {
  allocator_.release(slab->first, kSlabBytes);
  slabs_.erase(slab);
}

}  // namespace sheaf::objstore
