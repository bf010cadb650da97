// The shared memory in which every bell, ring and pin table of one node's cluster lives.
//
// The node daemon creates one sparse memfd and hands it to each process in the handshake; everybody
// maps all of it, so that a lane between two processes is a pair of offsets and needs no file
// descriptor of its own. Only the daemon allocates and releases blocks; a released block is given
// back to the kernel and reads as zero. Processes of one cluster trust one another (same uid), but
// a process that dies at any instruction can break only its own lanes: no allocator metadata lives
// in the region. LaneRegion itself: owned by one thread; the mapping is shared by all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

#include "core/status.h"

namespace sheaf::transport {

using RegionOffset = uint64_t;  // from the start of the region; 0 = none

class LaneRegion {
 public:
  // Daemon: a new sparse region. Costs address space, not memory, until blocks are used.
  static Result<LaneRegion> create(size_t capacity_bytes);
  // Client: maps what the daemon handed out. Takes ownership of `fd`.
  static Result<LaneRegion> map(int fd);
  LaneRegion(LaneRegion&& other) noexcept;
  LaneRegion& operator=(LaneRegion&&) = delete;
  ~LaneRegion();

  int fd() const { return fd_; }
  size_t capacity_bytes() const { return capacity_; }
  template <class T>
  T* at(RegionOffset offset) const {
    return reinterpret_cast<T*>(base_ + offset);
  }
  // True when [offset, offset + size) lies inside: check before `at` with an offset that came by
  // message.
  bool contains(RegionOffset offset, size_t size) const;

  // Daemon only. Page-granular and zero-filled; kOutOfMemory when the region is exhausted.
  Result<RegionOffset> allocate(size_t size);
  // Takes the pair that allocate() gave and got. Nobody may write there any more: the users have
  // been reaped.
  void release(RegionOffset offset, size_t size);

 private:
  LaneRegion() = default;
  int fd_ = -1;
  std::byte* base_ = nullptr;
  size_t capacity_ = 0;
  std::map<RegionOffset, size_t> free_;  // daemon only: free blocks by offset, coalesced
};

}  // namespace sheaf::transport
