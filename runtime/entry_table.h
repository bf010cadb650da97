// The process's table of objects: one entry for every object that a live reference, task or value here names.
//
// Own objects (created here) are found by index: the low half of their id is generation << 32 | slot. Foreign ones go
// through a hash table. An entry lives while its count is positive. Guarded by the runtime's lock throughout; nothing
// here sends messages: what follows from a change is the caller's business (see objects.h).
#pragma once

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/ids.h"
#include "objstore/locator.h"
#include "runtime/runtime.h"

namespace sheaf::runtime {

struct Task;
struct Stream;

enum EntryFlags : uint8_t {
  kOwn = 1 << 0,          // created by this process
  kPublished = 1 << 1,    // the daemon knows it, because a reference has left
  kSubscribed = 1 << 2,   // the daemon will tell us when it is ready
  kNotify = 1 << 3,       // an event loop waits for it
  kLost = 1 << 4,         // it was ready once; its bytes have to be fetched or made again
  kRebuilding = 1 << 5,   // asked for, lost, and its maker knows: the answer may take a task's run
  kAnnounced = 1 << 6,    // published by message: the daemon counted us once for that
  kAdopted = 1 << 7,      // not ours, but our task makes it: its owner is told the value
};

// What few entries need.
struct EntryExtra {
  std::vector<Task*> dependents;     // tasks that wait for this value
  std::vector<Slot> contained;       // references inside the value; one count each
  std::vector<ObjectId> contained_ids;
  objstore::Locator elsewhere;       // where its bytes are on another node, as far as we know; length 0 = nothing known
  std::unique_ptr<Stream> stream;    // first return of a streaming generator
  std::unique_ptr<char, decltype(&free)> freed{nullptr, &free};   // see Entry::set_freed()
};

// What readers of an object that was freed explicitly get: an encoded protocol::ErrorRecord.
Bytes freed_error();

struct Entry {
  ObjectId id;
  uint32_t generation = 1;
  uint32_t refs = 0;
  uint32_t length = 0;               // of inline or error bytes
  uint16_t held = 0;                 // how often the daemon counts us as a holder
  ValueState state = ValueState::kPending;
  uint8_t flags = 0;
  union {
    char small[32];
    char* heap;
    objstore::Locator locator;
  };
  Task* task = nullptr;              // its producer, while running or kept as lineage
  std::unique_ptr<EntryExtra> extra;

  Entry() : heap(nullptr) {}
  ~Entry() { clear_value(); }
  bool has(EntryFlags f) const { return flags & f; }
  bool ready() const { return state != ValueState::kPending; }
  bool has_bytes() const { return state == ValueState::kInline || state == ValueState::kError; }
  Bytes bytes() const {   // of a value
    const char* p = length <= sizeof small ? small : heap;
    return std::as_bytes(std::span(p, length));
  }
  Bytes value_or_error() const {
    return length == 0 && state == ValueState::kError ? freed_error() : bytes();
  }
  EntryExtra& more() {
    if (!extra) extra = std::make_unique<EntryExtra>();
    return *extra;
  }
  void set_bytes(ValueState s, Bytes value) {
    clear_value();
    length = static_cast<uint32_t>(value.size());
    char* p = small;
    if (length > sizeof small) p = heap = static_cast<char*>(malloc(length));
    std::memcpy(p, value.data(), length);
    state = s;
  }
  void set_locator(const objstore::Locator& l) {
    clear_value();
    locator = l;
    state = ValueState::kArena;
  }
  // An error from now on. Threads may be reading the bytes outside of the lock, by the count that they have: these stay
  // where they are until the entry goes.
  void set_freed() {
    if (has_bytes() && length > sizeof small) more().freed.reset(heap);
    length = 0;
    state = ValueState::kError;
  }
  void clear_value() {
    if (has_bytes() && length > sizeof small) free(heap);
    length = 0;
    state = ValueState::kPending;
  }
};

class EntryTable {
 public:
  explicit EntryTable(ProcessId process) : hi_(process) {}

  Entry& at(Slot slot) { return chunks_[slot >> kChunkBits][slot & (kChunk - 1)]; }
  const Entry& at(Slot slot) const { return chunks_[slot >> kChunkBits][slot & (kChunk - 1)]; }
  // A new entry with one count.
  Slot create_own();
  // The entry of `id`, kNoSlot when there is none. No count is added.
  Slot find(const ObjectId& id) const;
  // A new entry for an object that is not in the table, with one count.
  Slot create_foreign(const ObjectId& id);
  // The slot of an own object's id low half, kNoSlot when that entry is gone.
  Slot find_own(uint64_t lo) const;
  // The count has dropped to zero and everything the entry owned is released: recycle.
  void erase(Slot slot);
  size_t live() const { return live_; }

 private:
  static constexpr uint32_t kChunkBits = 7;   // three pages: a new worker needs a few entries only
  static constexpr uint32_t kChunk = 1u << kChunkBits;
  Slot allocate();

  ProcessId hi_;   // of the ids made here
  std::vector<std::unique_ptr<Entry[]>> chunks_;
  std::vector<Slot> free_;
  uint32_t fresh_ = 0;
  size_t live_ = 0;
  std::unordered_map<ObjectId, Slot> foreign_;
};

}  // namespace sheaf::runtime
