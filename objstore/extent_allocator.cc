#include "objstore/extent_allocator.h"

#include <algorithm>
#include <iterator>

#include "core/status.h"
#include "objstore/locator.h"
#include "objstore/pages.h"

namespace sheaf::objstore {
namespace {

// Free ranges tried as they are before one surely large enough is taken.
constexpr int kCandidates = 8;

uint64_t natural_alignment(uint64_t size) {
  if (size >= 16 * kHugePage) return kHugePage;
  return size >= 1024 * 1024 ? kSmallPage : kObjectAlignment;
}

}  // namespace

ExtentAllocator::ExtentAllocator(uint64_t capacity_bytes)
    : capacity_(capacity_bytes / kObjectAlignment * kObjectAlignment) {
  if (capacity_ > 0) insert_free(0, capacity_);
}

uint64_t ExtentAllocator::rounded_size(uint64_t size) { return round_up(size, kObjectAlignment); }

std::optional<uint64_t> ExtentAllocator::allocate(uint64_t size, uint64_t alignment) {
  SHEAF_CHECK(size > 0);
  if (size > capacity_) return std::nullopt;
  size = rounded_size(size);
  if (alignment == 0) alignment = natural_alignment(size);

  auto fits = [&](const std::pair<uint64_t, uint64_t>& range) {
    uint64_t start = round_up(range.second, alignment);
    return start + size <= range.second + range.first;
  };
  auto it = by_size_.lower_bound({size, 0});
  for (int i = 0; i < kCandidates && it != by_size_.end() && !fits(*it); ++i) ++it;
  if (it != by_size_.end() && !fits(*it)) {
    auto resume = it;
    it = by_size_.lower_bound({size + alignment - kObjectAlignment, 0});
    // Nearly full: only now look at every range in between.
    if (it == by_size_.end()) it = std::find_if(resume, by_size_.end(), fits);
  }
  if (it == by_size_.end()) return std::nullopt;

  auto [range_size, range_offset] = *it;
  uint64_t start = round_up(range_offset, alignment);
  erase_free(by_offset_.find(range_offset));
  if (start > range_offset) insert_free(range_offset, start - range_offset);
  uint64_t end = start + size, range_end = range_offset + range_size;
  if (end < range_end) insert_free(end, range_end - end);
  used_ += size;
  return start;
}

void ExtentAllocator::release(uint64_t offset, uint64_t size) {
  size = rounded_size(size);
  SHEAF_CHECK(size > 0 && offset % kObjectAlignment == 0 && size <= capacity_ &&
              offset <= capacity_ - size);
  SHEAF_CHECK(size <= used_);
  used_ -= size;
  auto next = by_offset_.lower_bound(offset);
  SHEAF_CHECK(next == by_offset_.end() || next->first >= offset + size);
  uint64_t start = offset, end = offset + size;
  if (next != by_offset_.begin()) {
    auto before = std::prev(next);
    SHEAF_CHECK(before->first + before->second <= offset);
    if (before->first + before->second == offset) {
      start = before->first;
      erase_free(before);
    }
  }
  if (next != by_offset_.end() && next->first == end) {
    end += next->second;
    erase_free(next);
  }
  insert_free(start, end - start);
}

uint64_t ExtentAllocator::largest_free_bytes() const {
  return by_size_.empty() ? 0 : by_size_.rbegin()->first;
}

void ExtentAllocator::insert_free(uint64_t offset, uint64_t size) {
  by_offset_.emplace(offset, size);
  by_size_.emplace(size, offset);
}

void ExtentAllocator::erase_free(std::map<uint64_t, uint64_t>::iterator range) {
  by_size_.erase({range->second, range->first});
  by_offset_.erase(range);
}

}  // namespace sheaf::objstore
