// SHA-256 (FIPS 180-4) of short texts: names of functions. Immutable, allocates only the padded copy.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace sheaf::internal {

std::array<uint8_t, 32> sha256(std::string_view text);

}  // namespace sheaf::internal
