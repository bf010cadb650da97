// Copies into the arena at memory speed: from 1 MB on with non-temporal stores, which skip reading
// the destination and leave the caches alone. Thread-safe, no state; call with the interpreter lock
// released for large copies.
#pragma once

#include <cstddef>

namespace sheaf::objstore {

inline constexpr size_t kStreamingCopyBytes = 1024 * 1024;

// Like memcpy. The bytes are globally visible after a later release store by this thread (it ends
// with a store fence).
void copy_to_arena(void* dst, const void* src, size_t size);

}  // namespace sheaf::objstore
