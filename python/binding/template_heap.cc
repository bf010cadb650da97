#include "python/binding/template_heap.h"

#include <malloc.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

namespace sheaf::python {

namespace {

// Of the interpreter's allocator of small blocks, 3.10 on: pools of one size class each, which begin with their head.
constexpr size_t kPoolBytes = 16 * 1024;
constexpr size_t kPoolHeadBytes = 48;
constexpr size_t kClassBytes = 16;
constexpr size_t kClassBytesMax = 512;
constexpr size_t kGapsBytesMax = 1 << 20;   // of a class; more means that another allocator is at work

// Until the next block of this size is the second one of a new pool; false if that never comes.
bool fill_pools(size_t size) {
  std::vector<void*> taken;
  while (taken.size() * size < kGapsBytesMax) {
    void* block = PyObject_Malloc(size);
    if (!block) break;
    if ((reinterpret_cast<uintptr_t>(block) & (kPoolBytes - 1)) == kPoolHeadBytes) return true;
    taken.push_back(block);
  }
  for (void* block : taken) PyObject_Free(block);
  return false;
}

#ifdef __GLIBC__

constexpr size_t kChunkBytesMax = 64 * 1024;   // larger ones may get a mapping of their own
constexpr size_t kSmallChunkBytesMax = 1024;

uintptr_t top_of_heap() {
#if __GLIBC_PREREQ(2, 33)
  const size_t top_bytes = mallinfo2().keepcost;
#else
  const size_t top_bytes = static_cast<unsigned>(mallinfo().keepcost);
#endif
  return reinterpret_cast<uintptr_t>(sbrk(0)) - top_bytes;
}

// Until a chunk of this size comes from the end of the heap.
void fill_chunks(size_t size, uintptr_t top) {
  for (size_t taken = 0; taken < kGapsBytesMax * 16; taken += size) {
    auto* chunk = static_cast<volatile char*>(std::malloc(size));   // volatile: an unused malloc() may be left out
    const auto place = reinterpret_cast<uintptr_t>(chunk);
    if (chunk && place < top) continue;
    std::free(const_cast<char*>(chunk));
    return;
  }
}

void fill_malloc_gaps() {
  malloc_trim(0);
  const uintptr_t top = top_of_heap();
  size_t size = kChunkBytesMax;
  for (; size > kSmallChunkBytesMax; size /= 2) fill_chunks(size, top);
  for (; size > 0; size -= 16) fill_chunks(size - 8, top);
}

#else

void fill_malloc_gaps() {}

#endif

}  // namespace

PyObject* py_fill_heap_gaps(PyObject*, PyObject*) {
  for (size_t size = kClassBytes; size <= kClassBytesMax; size += kClassBytes) {
    if (!fill_pools(size)) break;
  }
  fill_malloc_gaps();
  Py_RETURN_NONE;
}

}  // namespace sheaf::python
