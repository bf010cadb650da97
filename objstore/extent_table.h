// What every allocated byte range of the arena is: an extent of one object, or a slab of many;
// whose; sealed or not.
//
// Owned by the daemon's control loop. Reads slab headers (never trusts them beyond their own slab),
// writes them only when a slab is leased. Every extent has a generation of its own, so that a stale
// locator is recognised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_set>
#include <vector>

#include "core/ids.h"
#include "core/status.h"
#include "objstore/extent_allocator.h"
#include "objstore/locator.h"
#include "objstore/slab.h"

namespace sheaf::objstore {

class ExtentTable {
 public:
  ExtentTable(uint64_t arena_bytes, uint16_t node) : allocator_(arena_bytes), node_(node) {}

  // Nothing when no free range fits. `owner` may write there until it seals, aborts or dies.
  std::optional<Locator> allocate(ProcessId owner, uint64_t payload_bytes);
  // `offset` is the slab's start, `length` its size. The caller formats it once its memory is
  // committed.
  std::optional<Locator> allocate_slab(ProcessId owner);
  // Takes back an extent or slab that nobody has been told of.
  void cancel(const Locator& locator);

  // `sender` says that an object is sealed at `locator`. kInvalidArgument: not its extent.
  // kAlreadyExists: said before.
  Status seal(ProcessId sender, const Locator& locator);
  // The writer gives an unsealed direct extent back. kInvalidArgument when it has none there.
  Status abort(ProcessId sender, const Locator& locator);
  // The object sealed at `locator` is gone and unpinned. Frees the extent, or counts the slab down.
  void release(const Locator& locator);

  struct LostRecord { Locator locator; SealedRecord record; };
  // The process is dead. Returns the objects that its slabs record as sealed but that no message
  // announced; they count as sealed from now on.
  std::vector<LostRecord> recover_sealed(ProcessId process, const std::byte* base);
  // Its address space is gone, so it writes no more: what it has not sealed is free.
  // recover_sealed() comes first.
  void process_gone(ProcessId process);
  // Frees slabs that their writers retired and in which nothing lives. Returns how many.
  size_t reap_slabs(const std::byte* base);

  bool in_slab(uint64_t offset) const;
  // Where the header of the sealed object is in whose payload the range lies. kNotFound: there is
  // none of that generation.
  Result<uint64_t> object_at(uint64_t offset, uint64_t length, uint32_t generation) const;
  const ExtentAllocator& allocator() const { return allocator_; }
  size_t extent_count() const { return extents_.size(); }
  size_t slab_count() const { return slabs_.size(); }

 private:
  struct Extent {
    uint64_t size;
    uint32_t generation;
    ProcessId owner;
    bool sealed;
  };
  struct Slab {
    uint32_t generation;
    ProcessId owner;          // kNoProcess: the writer is gone
    uint32_t live;            // sealed objects not yet released
    std::unordered_set<uint32_t> seen;   // offsets of objects ever sealed
  };
  using SlabIt = std::map<uint64_t, Slab>::iterator;
  SlabIt slab_of(uint64_t offset);
  bool reapable(uint64_t offset, const Slab& slab, const std::byte* base) const;
  void free_slab(SlabIt slab);

  ExtentAllocator allocator_;
  uint16_t node_;
  uint32_t last_generation_ = 0;
  std::map<uint64_t, Extent> extents_;
  std::map<uint64_t, Slab> slabs_;
};

}  // namespace sheaf::objstore
