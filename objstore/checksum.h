// CRC-32C (Castagnoli), with the processor's instruction where there is one. Thread-safe, no state.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sheaf::objstore {

// Of `size` bytes; `seed` = the result for the bytes before them. crc32c("123456789") = 0xe3069283.
uint32_t crc32c(const void* data, size_t size, uint32_t seed = 0);

namespace internal {
uint32_t crc32c_table(const void* data, size_t size, uint32_t seed);  // the fallback, for tests
}

}  // namespace sheaf::objstore
