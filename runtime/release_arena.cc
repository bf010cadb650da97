#include "runtime/release_arena.h"

#include <sys/mman.h>

#include "runtime/impl.h"

namespace sheaf::runtime {

void release_arena(Runtime& past) {
  const objstore::Arena& arena = past.impl().session.arena;
  // Without room for the promise of empty pages the old ones stay.
  const auto empty = [&](const std::byte* base, int protection) {
    (void)mmap(const_cast<std::byte*>(base), arena.bytes(), protection,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  };
  empty(arena.read_base(), PROT_READ);
  empty(arena.write_base(), PROT_READ | PROT_WRITE);
}

}  // namespace sheaf::runtime
