// Sizes of pages that the arena is laid out by, in bytes.
#pragma once

#include <cstdint>

namespace sheaf::objstore {

constexpr uint64_t kSmallPage = 4096;
constexpr uint64_t kHugePage = 2ull << 20;

constexpr uint64_t round_up(uint64_t value, uint64_t step) {
  return (value + step - 1) / step * step;
}

}  // namespace sheaf::objstore
