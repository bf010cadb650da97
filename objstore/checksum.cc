#include "objstore/checksum.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace sheaf::objstore {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // reflected

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ kPolynomial : crc >> 1;
    table[i] = crc;
  }
  return table;
}
constexpr auto kTable = make_table();

#if defined(__x86_64__)
// Advancing a CRC over n zero bytes is linear: 4 tables of 256 entries do it for a fixed n.
struct ZeroShift {
  std::array<std::array<uint32_t, 256>, 4> tables{};
  explicit ZeroShift(size_t zeros) {
    std::array<uint32_t, 32> images{};
    for (int bit = 0; bit < 32; ++bit) {
      uint32_t crc = 1u << bit;
      for (size_t i = 0; i < zeros; ++i) crc = crc >> 8 ^ kTable[crc & 0xff];
      images[bit] = crc;
    }
    for (int byte = 0; byte < 4; ++byte) {
      for (uint32_t value = 0; value < 256; ++value) {
        uint32_t sum = 0;
        for (int bit = 0; bit < 8; ++bit) {
          if (value >> bit & 1) sum ^= images[byte * 8 + bit];
        }
        tables[byte][value] = sum;
      }
    }
  }
  uint32_t operator()(uint32_t crc) const {
    return tables[0][crc & 0xff] ^ tables[1][crc >> 8 & 0xff] ^ tables[2][crc >> 16 & 0xff] ^
           tables[3][crc >> 24];
  }
};

// Bytes per stream; three streams hide the instruction's latency of 3 cycles.
constexpr size_t kLane = 4096;

uint64_t load64(const unsigned char* p) {
  uint64_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

__attribute__((target("sse4.2"))) uint32_t crc_sse42(const unsigned char* p, size_t size,
                                                     uint32_t crc32) {
  static const ZeroShift shift(kLane);
  uint64_t crc = crc32;
  for (; size >= 3 * kLane; p += 3 * kLane, size -= 3 * kLane) {
    uint64_t second = 0, third = 0;
    for (size_t at = 0; at < kLane; at += 8) {
      crc = _mm_crc32_u64(crc, load64(p + at));
      second = _mm_crc32_u64(second, load64(p + kLane + at));
      third = _mm_crc32_u64(third, load64(p + 2 * kLane + at));
    }
    crc = shift(static_cast<uint32_t>(crc)) ^ static_cast<uint32_t>(second);
    crc = shift(static_cast<uint32_t>(crc)) ^ static_cast<uint32_t>(third);
  }
  for (; size >= 8; p += 8, size -= 8) crc = _mm_crc32_u64(crc, load64(p));
  for (; size > 0; ++p, --size) crc = _mm_crc32_u8(static_cast<uint32_t>(crc), *p);
  return static_cast<uint32_t>(crc);
}
#endif

}  // namespace

namespace internal {
uint32_t crc32c_table(const void* data, size_t size, uint32_t seed) {
  auto* p = static_cast<const unsigned char*>(data);
  uint32_t crc = ~seed;
  for (size_t i = 0; i < size; ++i) crc = crc >> 8 ^ kTable[(crc ^ p[i]) & 0xff];
  return ~crc;
}
}  // namespace internal

uint32_t crc32c(const void* data, size_t size, uint32_t seed) {
#if defined(__x86_64__)
  static const bool has_sse42 = __builtin_cpu_supports("sse4.2");
  if (has_sse42) return ~crc_sse42(static_cast<const unsigned char*>(data), size, ~seed);
#endif
  return internal::crc32c_table(data, size, seed);
}

}  // namespace sheaf::objstore
