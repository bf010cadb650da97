// Which byte ranges of the arena are free. Offsets only: it never touches memory, so nothing a
// client writes can corrupt it.
//
// Best fit, lowest offset among equals; neighbours are joined at once. Freed (warm) ranges are
// smaller than the untouched rest and lie below it, so they are used first. Ranges are multiples of
// 64 bytes; from 1 MB on they start on a 4 KB boundary, from 32 MB on a 2 MB boundary. O(log n).
// Owned by the daemon's control loop.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace sheaf::objstore {

class ExtentAllocator {
 public:
  explicit ExtentAllocator(uint64_t capacity_bytes);

  // `alignment` 0 = the rule above. Nothing when no free range fits. `size` > 0.
  std::optional<uint64_t> allocate(uint64_t size, uint64_t alignment = 0);
  // The very range that allocate() returned.
  void release(uint64_t offset, uint64_t size);

  // What a request for `size` bytes takes.
  static uint64_t rounded_size(uint64_t size);
  uint64_t capacity_bytes() const { return capacity_; }
  uint64_t used_bytes() const { return used_; }
  uint64_t largest_free_bytes() const;

 private:
  void insert_free(uint64_t offset, uint64_t size);
  void erase_free(std::map<uint64_t, uint64_t>::iterator range);

  uint64_t capacity_;
  uint64_t used_ = 0;
  std::map<uint64_t, uint64_t> by_offset_;               // free: offset -> size
  std::set<std::pair<uint64_t, uint64_t>> by_size_;      // free: {size, offset}
};

}  // namespace sheaf::objstore
