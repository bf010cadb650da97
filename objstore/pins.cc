#include "objstore/pins.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>

#include "core/cpu_pause.h"

namespace sheaf::objstore {
namespace {

// What stands in for the magic while the daemon decides, and afterwards if the object goes.
constexpr uint64_t kInvalidMagic = 0;

std::atomic_ref<uint64_t> magic_at(const std::byte* base, uint64_t offset) {
  auto* header = const_cast<ObjectHeader*>(reinterpret_cast<const ObjectHeader*>(base + offset));
  return std::atomic_ref<uint64_t>(header->magic);
}

// The header without its magic: still right while the daemon tries to evict an object that is
// pinned.
bool identity_matches(const std::byte* base, const Locator& locator, const ObjectId& id) {
  auto* header = reinterpret_cast<const ObjectHeader*>(base + locator.offset);
  return header->id == id && header->generation == locator.generation &&
         header->length == locator.length;
}

uint64_t hash_key(uint64_t key) {
  key *= 0x9e3779b97f4a7c15ull;
  return key ^ key >> 32;
}

}  // namespace

void seal_header(std::byte* write_base, const Locator& locator, const ObjectId& id) {
  auto* header = reinterpret_cast<ObjectHeader*>(write_base + locator.offset);
  header->id = id;
  header->length = locator.length;
  header->generation = locator.generation;
  header->reserved = 0;
  std::memset(header->padding, 0, sizeof header->padding);
  magic_at(write_base, locator.offset).store(kObjectMagic, std::memory_order_release);
}

bool header_matches(const std::byte* base, const Locator& locator, const ObjectId& id) {
  return magic_at(base, locator.offset).load(std::memory_order_seq_cst) == kObjectMagic &&
         identity_matches(base, locator, id);
}

// ---- Client -------------------------------------------------------------------------------------

class PinTable::SpinGuard {
 public:
  explicit SpinGuard(std::atomic_flag& flag) : flag_(flag) {
    while (flag_.test_and_set(std::memory_order_acquire)) {
      while (flag_.test(std::memory_order_relaxed)) cpu_pause();
    }
  }
  ~SpinGuard() { flag_.clear(std::memory_order_release); }
  SpinGuard(const SpinGuard&) = delete;
  SpinGuard& operator=(const SpinGuard&) = delete;

 private:
  std::atomic_flag& flag_;
};

void PinTable::FreeDeleter::operator()(void* p) const { std::free(p); }

PinTable::PinTable(PinTableBlock* block, uint32_t slots, const std::byte* read_base,
                   uint64_t arena_bytes)
    : block_(block), slots_(slots), read_base_(read_base), arena_bytes_(arena_bytes) {
  uint32_t index_size = std::bit_ceil(slots * 2 + 2);
  index_mask_ = index_size - 1;
  // calloc: pages that are never used are never touched.
  local_.reset(static_cast<Local*>(std::calloc(slots + 1, sizeof(Local))));
  index_.reset(static_cast<uint32_t*>(std::calloc(index_size, sizeof(uint32_t))));
  SHEAF_CHECK(local_ != nullptr && index_ != nullptr);
}

// Where `key` is in the index, or the empty place where it would go.
uint32_t PinTable::probe(uint64_t key) const {
  uint32_t at = static_cast<uint32_t>(hash_key(key)) & index_mask_;
  while (index_[at] != 0 && block_->slots[index_[at] - 1].load(std::memory_order_relaxed) != key) {
    at = (at + 1) & index_mask_;
  }
  return at;
}

// Keeps every probe sequence free of holes by moving later entries back.
void PinTable::index_erase(uint64_t key) {
  uint32_t hole = probe(key);
  index_[hole] = 0;
  for (uint32_t at = (hole + 1) & index_mask_; index_[at] != 0; at = (at + 1) & index_mask_) {
    uint64_t moved = block_->slots[index_[at] - 1].load(std::memory_order_relaxed);
    uint32_t home = static_cast<uint32_t>(hash_key(moved)) & index_mask_;
    if (((at - home) & index_mask_) < ((at - hole) & index_mask_)) continue;  // not past its home
    index_[hole] = index_[at];
    index_[at] = 0;
    hole = at;
  }
}

Result<size_t> PinTable::pin(const Locator& locator, const ObjectId& id) {
  bool inside = locator.offset % kObjectAlignment == 0 && locator.offset <= arena_bytes_ &&
                arena_bytes_ - locator.offset >= kHeaderBytes &&
                locator.length <= arena_bytes_ - locator.offset - kHeaderBytes;
  if (!inside || locator.kind != MemoryKind::kHost) {
    return Status(StatusCode::kInvalidArgument, "the locator lies outside the arena");
  }
  uint64_t key = locator.offset + 1;
  SpinGuard guard(lock_);
  uint32_t at = probe(key);
  if (index_[at] != 0) {
    uint32_t slot = index_[at] - 1;
    if (!identity_matches(read_base_, locator, id))
      return Status(StatusCode::kNotFound, "another object is there");
    ++local_[slot].count;
    return slot;
  }
  uint32_t slot;
  if (free_head_ != 0) {
    slot = free_head_ - 1;
  } else if (fresh_ < slots_) {
    slot = fresh_;
    block_->used_slots.store(fresh_ + 1,
                             std::memory_order_relaxed);  // before the slot; see is_pinned()
  } else {
    return Status(StatusCode::kOverloaded, fmt::format("{} objects are pinned at once", slots_));
  }
  block_->slots[slot].store(key, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!header_matches(read_base_, locator, id)) {
    block_->slots[slot].store(0, std::memory_order_release);
    return Status(StatusCode::kNotFound, "the object has moved");
  }
  if (slot == fresh_) ++fresh_; else free_head_ = local_[slot].next_free;
  local_[slot].count = 1;
  index_[at] = slot + 1;
  ++pinned_;
  return slot;
}

void PinTable::unpin(size_t slot) {
  SpinGuard guard(lock_);
  SHEAF_CHECK(slot < fresh_ && local_[slot].count > 0);
  if (--local_[slot].count > 0) return;
  index_erase(block_->slots[slot].load(std::memory_order_relaxed));
  block_->slots[slot].store(0, std::memory_order_release);  // after the last read of the payload
  local_[slot].next_free = free_head_;
  free_head_ = static_cast<uint32_t>(slot) + 1;
  --pinned_;
}

size_t PinTable::pinned_objects() const {
  SpinGuard guard(lock_);
  return pinned_;
}

// ---- Daemon -------------------------------------------------------------------------------------

void PinRegistry::attach(ProcessId process, PinTableBlock* block, uint32_t slots) {
  tables_[process] = {block, slots};
}

void PinRegistry::detach(ProcessId process) { tables_.erase(process); }

bool PinRegistry::is_pinned(uint64_t offset) const {
  for (const auto& [process, table] : tables_) {
    uint64_t used =
        std::min<uint64_t>(table.block->used_slots.load(std::memory_order_acquire), table.slots);
    for (uint64_t i = 0; i < used; ++i) {
      if (table.block->slots[i].load(std::memory_order_acquire) == offset + 1) return true;
    }
  }
  return false;
}

bool PinRegistry::try_invalidate(std::byte* write_base, uint64_t offset) const {
  auto magic = magic_at(write_base, offset);
  uint64_t before = magic.exchange(kInvalidMagic, std::memory_order_seq_cst);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!is_pinned(offset)) return true;
  magic.store(before, std::memory_order_release);
  return false;
}

std::vector<std::pair<uint64_t, ProcessId>> PinRegistry::pins() const {
  std::vector<std::pair<uint64_t, ProcessId>> found;
  for (const auto& [process, table] : tables_) {
    uint64_t used =
        std::min<uint64_t>(table.block->used_slots.load(std::memory_order_acquire), table.slots);
    for (uint64_t i = 0; i < used; ++i) {
      uint64_t key = table.block->slots[i].load(std::memory_order_acquire);
      if (key != 0) found.emplace_back(key - 1, process);
    }
  }
  return found;
}

}  // namespace sheaf::objstore
