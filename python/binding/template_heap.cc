#include "python/binding/template_heap.h"

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
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

constexpr size_t kPageBytes = 4096;
constexpr uintptr_t kLargePageBytes = 2 << 20;
constexpr size_t kSmallPages = kLargePageBytes / kPageBytes;
constexpr size_t kUsedPagesMin = kSmallPages * 7 / 8;   // the others come to be memory, too
constexpr int kMadviseCollapse = 25;                    // since Linux 6.1

// False where the system cannot.
bool join_pages(uintptr_t place) {
  unsigned char used[kSmallPages];
  auto* start = reinterpret_cast<void*>(place);
  if (mincore(start, kLargePageBytes, used) != 0) return true;
  auto count = std::count_if(used, used + kSmallPages, [](unsigned char u) { return (u & 1) != 0; });
  if (static_cast<size_t>(count) < kUsedPagesMin) return true;
  return madvise(start, kLargePageBytes, kMadviseCollapse) == 0 || errno != EINVAL;
}

}  // namespace

void join_heap_pages() {
  std::unique_ptr<FILE, int (*)(FILE*)> maps(std::fopen("/proc/self/maps", "re"), std::fclose);
  if (!maps || sysconf(_SC_PAGESIZE) != kPageBytes) return;
  char line[512];
  while (std::fgets(line, sizeof line, maps.get())) {
    uintptr_t begin = 0, end = 0;
    unsigned long inode = 0;
    char access[5] = "";
    if (std::sscanf(line, "%lx-%lx %4s %*s %*s %lu", &begin, &end, access, &inode) != 4) continue;
    if (inode != 0 || std::strcmp(access, "rw-p") != 0) continue;
    uintptr_t place = (begin + kLargePageBytes - 1) & ~(kLargePageBytes - 1);
    for (; place + kLargePageBytes <= end; place += kLargePageBytes) {
      if (!join_pages(place)) return;
    }
  }
}

PyObject* py_fill_heap_gaps(PyObject*, PyObject*) {
  for (size_t size = kClassBytes; size <= kClassBytesMax; size += kClassBytes) {
    if (!fill_pools(size)) break;
  }
  fill_malloc_gaps();
  Py_RETURN_NONE;
}

}  // namespace sheaf::python
