// libFuzzer target: the first byte picks a decoder (a wire struct, messages between stores, or the
// JSON parser), the rest is its input.
#include <cstddef>
#include <cstdint>

#include "core/json.h"
#include "wire_archives.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sheaf;
  if (size == 0) return 0;
  wire::Bytes input(reinterpret_cast<const std::byte*>(data + 1), size - 1);
  unsigned choice = data[0], index = 0;
  if (choice == 255) {
    (void)parse_json(wire::as_text(input));
    return 0;
  }
  if (choice == 254) {
    auto message = objstore::decode_object_message(input);
    if (!message) return 0;
    std::string once = objstore::encode(*message);
    auto back = objstore::decode_object_message(wire::as_bytes(once));
    SHEAF_CHECK(back.has_value());
    SHEAF_CHECK(objstore::encode(*back) == once);
    return 0;
  }
  fuzz::for_each_wire_struct([&]<class T>(const char*) {
    if (index++ != choice) return;
    Result<T> value = wire::decode<T>(input);
    if (!value) return;
    std::string once = wire::encode(*value);
    Result<T> back = wire::decode<T>(once);
    SHEAF_CHECK(back.has_value());
    SHEAF_CHECK(wire::encode(*back) == once);
  });
  return 0;
}
