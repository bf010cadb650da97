// libFuzzer target: the first byte is the size of the pieces in which the stream arrives.
#include <cstddef>
#include <cstdint>

#include "tests/fabric/frame_checks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sheaf;
  if (size == 0) return 0;
  wire::Bytes input(reinterpret_cast<const std::byte*>(data + 1), size - 1);
  transport::test::check_frames(input, 1 + data[0], transport::kControlBodyMax);
  transport::test::check_frames(input, 1 + data[0], transport::kHelloBodyMax);
  transport::test::check_pull_head(input);
  return 0;
}
