#include "transport/lane_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace sheaf::transport {
namespace {

constexpr size_t kPage = 4096;

size_t round_to_page(size_t size) { return (size + kPage - 1) & ~(kPage - 1); }

Result<std::byte*> map_all(int fd, size_t size) {
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (base == MAP_FAILED) return Status::from_errno("mapping the lane region", errno);
  return static_cast<std::byte*>(base);
}

}  // namespace

Result<LaneRegion> LaneRegion::create(size_t capacity_bytes) {
  LaneRegion region;
  region.capacity_ = round_to_page(capacity_bytes);
  if (region.capacity_ < 2 * kPage) {
    return Status(StatusCode::kInvalidArgument, "a lane region needs at least two pages");
  }
  region.fd_ = memfd_create("sheaf-lanes", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (region.fd_ < 0) return Status::from_errno("memfd_create for lanes", errno);
  if (ftruncate(region.fd_, static_cast<off_t>(region.capacity_)) != 0) {
    return Status::from_errno("sizing the lane region", errno);
  }
  // A client that shrank the file would turn everybody's next access into SIGBUS.
  if (fcntl(region.fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return Status::from_errno("sealing the lane region", errno);
  }
  SHEAF_ASSIGN(region.base_, map_all(region.fd_, region.capacity_));
  region.free_.emplace(kPage,
                       region.capacity_ - kPage);  // page 0 is never given out: offset 0 means none
  return region;
}

Result<LaneRegion> LaneRegion::map(int fd) {
  LaneRegion region;
  region.fd_ = fd;
  struct stat info {};
  if (fstat(fd, &info) != 0) return Status::from_errno("fstat of the lane region", errno);
  if (!S_ISREG(info.st_mode) || info.st_size < static_cast<off_t>(2 * kPage)) {
    return Status(StatusCode::kInvalidArgument, "the descriptor is not a lane region");
  }
  region.capacity_ = static_cast<size_t>(info.st_size);
  SHEAF_ASSIGN(region.base_, map_all(fd, region.capacity_));
  close(std::exchange(region.fd_, -1));  // the mapping does without
  return region;
}

LaneRegion::LaneRegion(LaneRegion&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      base_(std::exchange(other.base_, nullptr)),
      capacity_(std::exchange(other.capacity_, 0)),
      free_(std::move(other.free_)) {}

LaneRegion::~LaneRegion() {
  if (base_ != nullptr) munmap(base_, capacity_);
  if (fd_ >= 0) close(fd_);
}

bool LaneRegion::contains(RegionOffset offset, size_t size) const {
  return offset != 0 && offset <= capacity_ && size <= capacity_ - offset;
}

Result<RegionOffset> LaneRegion::allocate(size_t size) {
  size = round_to_page(size);
  if (size == 0) return Status(StatusCode::kInvalidArgument, "an empty block");
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    auto [offset, length] = *it;
    if (length < size) continue;
    free_.erase(it);
    if (length > size) free_.emplace(offset + size, length - size);
    return offset;
  }
  return Status(StatusCode::kOutOfMemory, "the lane region is exhausted");
}

void LaneRegion::release(RegionOffset offset, size_t size) {
  size = round_to_page(size);
  SHEAF_CHECK(contains(offset, size) && offset % kPage == 0 && size != 0);
  auto next = free_.lower_bound(offset);
  SHEAF_CHECK(next == free_.end() || offset + size <= next->first);
  auto previous = next == free_.begin() ? free_.end() : std::prev(next);
  SHEAF_CHECK(previous == free_.end() || previous->first + previous->second <= offset);

  if (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(size)) != 0) {
    std::memset(base_ + offset, 0,
                size);  // keeps the promise of zeroes, if not of memory given back
  }
  if (next != free_.end() && offset + size == next->first) {
    size += next->second;
    free_.erase(next);
  }
  if (previous != free_.end() && previous->first + previous->second == offset) {
    previous->second += size;
  } else {
    free_.emplace(offset, size);
  }
}

}  // namespace sheaf::transport
