// Pins: how a process keeps an object's bytes in place while it reads them, without a message.
//
// Hazard pointers: a process writes the object's offset into a slot of its own pin table in shared
// memory, fences, and then checks the ObjectHeader. The daemon first overwrites the header's magic,
// fences, and then looks through the tables; one of the two always sees the other. A dead process's
// table is dropped as a whole. A pin belongs to the exported buffer, not to the reference: a view
// may outlive it. PinTable: thread-safe. PinRegistry: owned by the control loop.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "core/ids.h"
#include "core/status.h"
#include "objstore/locator.h"

namespace sheaf::objstore {

inline constexpr uint32_t kDefaultPinSlots = 32768;   // sparse: untouched slots cost nothing

// In the LaneRegion, zero-filled by the daemon. Slots follow the header.
struct PinTableBlock {
  alignas(64) std::atomic<uint64_t> used_slots;       // slots [used_slots, ...) were never used
  alignas(64) std::atomic<uint64_t> slots[];          // offset of the ObjectHeader + 1; 0 = free
};
constexpr size_t pin_table_bytes(uint32_t slots) {
  return sizeof(PinTableBlock) + slots * sizeof(uint64_t);
}

// ---- Writing and checking the header ------------------------------------------------------------

// Sealing process: the payload is written. Direct extents; slab objects go through
// SlabWriter::seal.
void seal_header(std::byte* write_base, const Locator& locator, const ObjectId& id);
// Sealed, this object, this generation.
bool header_matches(const std::byte* base, const Locator& locator, const ObjectId& id);

// ---- Client -------------------------------------------------------------------------------------

class PinTable {
 public:
  // `read_base`: the arena's. The block must outlive the table.
  PinTable(PinTableBlock* block, uint32_t slots, const std::byte* read_base, uint64_t arena_bytes);

  // From success until unpin(slot) the payload stays where it is. Pins of one object share a slot.
  // kNotFound: the object has moved or gone, ask the daemon. kOverloaded: all slots are in use,
  // copy the value out instead. kInvalidArgument: the locator lies outside the arena.
  Result<size_t> pin(const Locator& locator, const ObjectId& id);
  // No lock is held while others wait, no allocation: callable from a deallocator.
  void unpin(size_t slot);
  size_t pinned_objects() const;

 private:
  struct Local { uint32_t count; uint32_t next_free; };
  struct FreeDeleter { void operator()(void* p) const; };
  class SpinGuard;

  uint32_t probe(uint64_t key) const;
  void index_erase(uint64_t key);

  PinTableBlock* block_;
  uint32_t slots_;
  const std::byte* read_base_;
  uint64_t arena_bytes_;
  mutable std::atomic_flag lock_ = ATOMIC_FLAG_INIT;
  uint32_t index_mask_ = 0;
  uint32_t fresh_ = 0;        // slots from here on were never used
  uint32_t free_head_ = 0;    // slot + 1; 0 = none
  uint32_t pinned_ = 0;
  std::unique_ptr<Local[], FreeDeleter> local_;
  std::unique_ptr<uint32_t[], FreeDeleter>
      index_;  // open addressing over the slots' keys: slot + 1; 0 = empty
};

// ---- Daemon -------------------------------------------------------------------------------------

class PinRegistry {
 public:
  void attach(ProcessId process, PinTableBlock* block, uint32_t slots);
  // The process is gone, or its block is about to be released.
  void detach(ProcessId process);

  // Exact only after the header at `offset` was made invalid.
  bool is_pinned(uint64_t offset) const;
  // Makes the header invalid, then looks. True: nobody reads the object and nobody can pin it any
  // more. False: it is pinned, and its header is valid again.
  bool try_invalidate(std::byte* write_base, uint64_t offset) const;
  // Every pin of every process, for people and for errors: {offset, process}. A snapshot.
  std::vector<std::pair<uint64_t, ProcessId>> pins() const;

 private:
  struct Table { PinTableBlock* block; uint32_t slots; };
  std::map<ProcessId, Table> tables_;
};

}  // namespace sheaf::objstore
