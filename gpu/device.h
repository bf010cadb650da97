// Device memory behind one interface: which devices there are, their memory, and copies to, from
// and between them.
//
// Backends: `hostdev`, fake devices in host memory, which every machine has and every test runs on;
// `cuda` comes later, by dlopen, behind the same interface. Memory is addressed by {device,
// offset}, never by a raw pointer: the bytes need not be reachable by the CPU. Calls are
// synchronous. Owned by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/fd.h"
#include "core/status.h"

namespace sheaf::gpu {

struct DeviceInfo {
  uint32_t index = 0;
  std::string name;
  uint64_t memory_bytes = 0;
  int numa_node = -1;  // -1: unknown
};

// A range of one device's memory. A value: freeing it is the holder's duty.
struct DeviceMemory {
  uint32_t device = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  bool operator==(const DeviceMemory&) const = default;
};

inline constexpr uint64_t kDeviceAlignment = 256;

class DeviceBackend {
 public:
  virtual ~DeviceBackend() = default;
  virtual std::string_view name() const = 0;
  virtual const std::vector<DeviceInfo>& devices() const = 0;

  // Aligned to kDeviceAlignment, contents undefined. kOutOfMemory when no range is large enough.
  virtual Result<DeviceMemory> allocate(uint32_t device, uint64_t bytes) = 0;
  // kInvalidArgument for a range that allocate() did not return, or twice.
  virtual Status free(const DeviceMemory& memory) = 0;
  virtual uint64_t free_bytes(uint32_t device) const = 0;

  // `at` is relative to the range; kInvalidArgument when the copy leaves it.
  virtual Status copy_in(const DeviceMemory& to, uint64_t at, std::span<const std::byte> from) = 0;
  virtual Status copy_out(std::span<std::byte> to, const DeviceMemory& from, uint64_t at) = 0;
  // Between ranges of equal size, which may be on different devices.
  virtual Status copy(const DeviceMemory& to, const DeviceMemory& from) = 0;

  // A descriptor by which another process, or a network card, reaches all of the device's memory.
  virtual Result<Fd> export_memory(uint32_t device) = 0;
};

// Fake devices. `topology` lists them: "<count>x<bytes>[@<numa node>],...", as "2x1GiB@0,1x512MiB".
// Memory is a sparse memfd per device: it costs what is written. kInvalidArgument names the part
// that cannot be read.
Result<std::unique_ptr<DeviceBackend>> make_hostdev(std::string_view topology);

}  // namespace sheaf::gpu
