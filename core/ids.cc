#include "core/ids.h"

namespace sheaf {

std::string id_to_hex(uint64_t hi, uint64_t lo) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out(32, '0');
  for (int i = 0; i < 16; ++i) {
    out[15 - i] = kDigits[hi >> (4 * i) & 15];
    out[31 - i] = kDigits[lo >> (4 * i) & 15];
  }
  return out;
}

std::optional<std::array<uint64_t, 2>> id_from_hex(std::string_view text) {
  if (text.size() != 32) return std::nullopt;
  std::array<uint64_t, 2> halves{};
  for (size_t i = 0; i < 32; ++i) {
    char c = text[i];
    uint64_t digit = 0;
    if (c >= '0' && c <= '9')
      digit = static_cast<uint64_t>(c - '0');
    else if (c >= 'a' && c <= 'f')
      digit = static_cast<uint64_t>(c - 'a' + 10);
    else if (c >= 'A' && c <= 'F')
      digit = static_cast<uint64_t>(c - 'A' + 10);
    else
      return std::nullopt;
    halves[i / 16] = halves[i / 16] << 4 | digit;
  }
  return halves;
}

}  // namespace sheaf
