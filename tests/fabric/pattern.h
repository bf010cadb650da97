// Bytes that say where they are from: any range of a region can be checked without a copy of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace sheaf::transport::test {

inline uint64_t pattern_word(uint64_t index) {
  uint64_t x = (index + 1) * 0x9e3779b97f4a7c15ull;
  return x ^ (x >> 29);
}

inline void fill_pattern(std::span<std::byte> out) {
  size_t whole = out.size() / 8;
  for (size_t i = 0; i < whole; ++i) {
    uint64_t word = pattern_word(i);
    std::memcpy(out.data() + 8 * i, &word, 8);
  }
  uint64_t last = pattern_word(whole);
  std::memcpy(out.data() + 8 * whole, &last, out.size() % 8);
}

// True when `got` is what a region so filled holds from `offset` on.
inline bool has_pattern(std::span<const std::byte> got, uint64_t offset) {
  auto byte_at = [](uint64_t at) {
    return static_cast<std::byte>(pattern_word(at / 8) >> (8 * (at % 8)));
  };
  size_t i = 0;
  for (; i < got.size() && (offset + i) % 8 != 0; ++i) {
    if (got[i] != byte_at(offset + i)) return false;
  }
  for (; i + 8 <= got.size(); i += 8) {
    uint64_t word = pattern_word((offset + i) / 8);
    if (std::memcmp(got.data() + i, &word, 8) != 0) return false;
  }
  for (; i < got.size(); ++i) {
    if (got[i] != byte_at(offset + i)) return false;
  }
  return true;
}

}  // namespace sheaf::transport::test
