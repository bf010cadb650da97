// Where an object's bytes are, and what stands in front of them in the arena.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/ids.h"

namespace sheaf::objstore {

// How a value is at hand. kInline: its bytes travel in messages. kArena: a locator. kError: encoded
// error bytes. kSpilled: on disk, comes back on demand. Numbers travel on the wire: append only.
enum class ValueState : uint8_t { kPending = 0, kInline = 1, kArena = 2, kError = 3, kSpilled = 4 };

// 0 = host arena; other kinds are device memories (later).
enum class MemoryKind : uint8_t { kHost = 0, kDevice = 1 };

// Carried by references; enough for a reader on the node to map the object, or elsewhere to pull
// it.
struct Locator {
  uint16_t node = 0;
  uint8_t region = 0;
  MemoryKind kind = MemoryKind::kHost;
  uint32_t generation = 0;   // of the extent; compared with the object's header first
  uint64_t offset = 0;       // of the ObjectHeader in the arena
  uint64_t length = 0;       // of the payload, which starts kHeaderBytes after `offset`
  template <class A>
  void fields(A& a) { a(node, region, kind, generation, offset, length); }
  bool operator==(const Locator&) const = default;
};
static_assert(sizeof(Locator) == 24);

inline constexpr size_t kObjectAlignment = 64;
inline constexpr size_t kHeaderBytes = 64;

// First bytes of every object in the arena. Written by the sealing process before the locator
// leaves it.
struct ObjectHeader {
  uint64_t magic;  // kObjectMagic once sealed; the daemon overwrites it when the extent is freed or
                   // spilled
  ObjectId id;
  uint64_t length;
  uint32_t generation;
  uint32_t reserved;
  uint64_t padding[3];
};
static_assert(sizeof(ObjectHeader) == kHeaderBytes);
inline constexpr uint64_t kObjectMagic = 0x4a424f4641454853;  // "SHEAFOBJ"

// Objects from here on get an extent of their own; smaller ones are bump-allocated in a slab of the
// writer.
inline constexpr size_t kDirectExtentBytes = 64 * 1024;
inline constexpr size_t kSlabBytes = 2 * 1024 * 1024;
// Values up to here travel inside messages and never touch the arena.
inline constexpr size_t kInlineBytes = 8 * 1024;

}  // namespace sheaf::objstore
