// Slabs: blocks of the arena in which one process places its smaller objects without a message for
// each.
//
// Layout: a header area with one append-only seal record per object, then the objects
// (ObjectHeader, payload), bump allocated. A record becomes visible by one release store before the
// object's locator leaves the process, so that the daemon finds every object whose writer died at
// any instant. Nothing in a slab is ever reused before the whole slab is. The writer sets `retired`
// when it will write nothing more; no message is needed. The daemon frees a slab when it is retired
// (or its writer is gone), all its records are accounted for, and no object in it lives.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/ids.h"
#include "objstore/locator.h"

namespace sheaf::objstore {

struct SlabRecord {
  ObjectId id;
  uint32_t offset;                  // of the ObjectHeader, from the slab's start
  uint32_t length;                  // of the payload
  uint32_t reserved;
  std::atomic<uint32_t> sealed;     // the slab's generation once all of the above is written
};
static_assert(sizeof(SlabRecord) == 32);

inline constexpr size_t kSlabRecords = 510;
struct SlabHeader {
  uint32_t generation;
  std::atomic<uint32_t> retired;    // 1: the writer has left
  uint32_t padding[14];
  SlabRecord records[kSlabRecords];
};
static_assert(sizeof(SlabHeader) == 16 * 1024);
inline constexpr size_t kSlabMaxPayload = kSlabBytes - sizeof(SlabHeader) - kHeaderBytes;

// Client side. Guarded by its owner's lock; the copying between reserve() and seal() needs no lock.
// A reservation keeps its slab from being retired until it is sealed or abandoned.
class SlabWriter {
 public:
  // `base`: the arena's write_base(). `node`, for the locators.
  SlabWriter(std::byte* base, uint16_t node) : base_(base), node_(node) {}
  SlabWriter(const SlabWriter&) = delete;
  SlabWriter& operator=(const SlabWriter&) = delete;

  // A slab leased from the daemon becomes the current one; the former is retired as soon as nothing
  // in it is open.
  void adopt(uint64_t offset, uint64_t length, uint32_t generation);
  // Room for a payload, 64-byte aligned at base + locator.offset + kHeaderBytes. Nothing: lease
  // another slab first (payloads over kSlabMaxPayload never fit).
  std::optional<Locator> reserve(size_t payload_bytes);
  // The payload is written: header, record. Only now may the locator leave this process.
  void seal(const Locator& locator, const ObjectId& id);
  void abandon(const Locator& locator);
  // Gives the current slab up (an idle or leaving process).
  void retire();

 private:
  struct Open {
    uint64_t offset;
    uint64_t length;
    uint32_t generation;
    uint32_t open;        // reservations neither sealed nor abandoned
    uint32_t reserved;    // reservations ever made; each has a record in store
    uint32_t sealed;      // records written, without gaps
    uint64_t next;        // free bytes start here, from the slab's start
  };
  SlabHeader* header(const Open& slab) const {
    return reinterpret_cast<SlabHeader*>(base_ + slab.offset);
  }
  Open* find(uint64_t offset);
  void close_one(Open* slab);
  void retire_idle();

  std::byte* base_;
  uint16_t node_;
  bool has_current_ = false;   // the last element of slabs_ takes reservations
  std::vector<Open> slabs_;    // those with open reservations, and the current one
};

// Daemon side. Prepares a block before it is leased: all records unsealed.
void format_slab(std::byte* slab, uint32_t generation);
bool slab_is_retired(const std::byte* slab);

struct SealedRecord {
  ObjectId id;
  uint32_t offset;
  uint32_t length;
};
// Every sealed record whose object lies inside the slab, in record order.
std::vector<SealedRecord> read_sealed(const std::byte* slab, uint64_t length, uint32_t generation);
size_t count_sealed(const std::byte* slab, uint32_t generation);

}  // namespace sheaf::objstore
