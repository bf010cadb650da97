// Copies into the arena at memory speed: from 1 MB on with non-temporal stores, which skip reading
// the destination and leave the caches alone; from 16 MB on with up to four threads: one does not
// use all of the memory's bandwidth, and new pages cost processor time. Thread-safe, no
// state; call with the interpreter lock released for large copies.
#pragma once

#include <cstddef>

namespace sheaf::objstore {

inline constexpr size_t kStreamingCopyBytes = 1024 * 1024;
inline constexpr size_t kParallelCopyBytes = 16 * 1024 * 1024;

// Like memcpy. The bytes are globally visible after a later release store by this thread: each
// thread's part ends with a store fence.
void copy_to_arena(void* dst, const void* src, size_t size);

}  // namespace sheaf::objstore
