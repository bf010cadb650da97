#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>
#include <utility>

#include "gpu/device.h"

namespace sheaf::gpu {
namespace {

constexpr uint32_t kMostDevices = 64;
constexpr uint64_t kMostBytes = uint64_t{1} << 40;

class HostDevice {
 public:
  HostDevice(Fd fd, std::byte* base, uint64_t bytes)
      : fd_(std::move(fd)), base_(base), bytes_(bytes) {
    free_.emplace(0, bytes);
  }
  HostDevice(HostDevice&& other) noexcept
      : fd_(std::move(other.fd_)),
        base_(std::exchange(other.base_, nullptr)),
        bytes_(other.bytes_),
        free_(std::move(other.free_)),
        used_(std::move(other.used_)) {}
  ~HostDevice() {
    if (base_ != nullptr) ::munmap(base_, bytes_);
  }

  static Result<HostDevice> create(uint64_t bytes) {
    Fd fd(::memfd_create("sheaf-hostdev", MFD_CLOEXEC));
    if (!fd) return Status::from_errno("memfd_create", errno);
    if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0)
      return Status::from_errno("ftruncate", errno);
    void* base =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
    if (base == MAP_FAILED) return Status::from_errno("mmap of a fake device", errno);
    return HostDevice(std::move(fd), static_cast<std::byte*>(base), bytes);
  }

  // First fit.
  Result<uint64_t> allocate(uint64_t bytes) {
    uint64_t need = rounded(bytes);
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      auto [offset, length] = *it;
      if (length < need) continue;
      free_.erase(it);
      if (length > need) free_.emplace(offset + need, length - need);
      used_.emplace(offset, bytes);
      return offset;
    }
    return Status(StatusCode::kOutOfMemory,
                  "fake device has no free range of " + std::to_string(need) + " bytes");
  }

  bool free(uint64_t offset, uint64_t bytes) {
    auto used = used_.find(offset);
    if (used == used_.end() || used->second != bytes) return false;
    used_.erase(used);
    auto it = free_.emplace(offset, rounded(bytes)).first;
    auto next = std::next(it);
    if (next != free_.end() && it->first + it->second == next->first) {
      it->second += next->second;
      free_.erase(next);
    }
    if (it == free_.begin()) return true;
    auto previous = std::prev(it);
    if (previous->first + previous->second == it->first) {
      previous->second += it->second;
      free_.erase(it);
    }
    return true;
  }

  bool owns(const DeviceMemory& memory) const {
    auto used = used_.find(memory.offset);
    return used != used_.end() && used->second == memory.bytes;
  }
  uint64_t free_bytes() const {
    uint64_t sum = 0;
    for (const auto& [offset, length] : free_) sum += length;
    return sum;
  }
  std::byte* at(uint64_t offset) const { return base_ + offset; }
  int fd() const { return fd_.get(); }

 private:
  static uint64_t rounded(uint64_t bytes) {
    uint64_t whole = (bytes + kDeviceAlignment - 1) / kDeviceAlignment * kDeviceAlignment;
    return whole == 0 ? kDeviceAlignment : whole;
  }

  Fd fd_;
  std::byte* base_;
  uint64_t bytes_;
  std::map<uint64_t, uint64_t> free_;  // offset -> length, coalesced
  std::map<uint64_t, uint64_t> used_;  // offset -> bytes asked for
};

class HostDevBackend : public DeviceBackend {
 public:
  Status add(uint64_t bytes, int numa_node) {
    SHEAF_ASSIGN(HostDevice device, HostDevice::create(bytes));
    DeviceInfo info;
    info.index = static_cast<uint32_t>(devices_.size());
    info.name = "hostdev" + std::to_string(info.index);
    info.memory_bytes = bytes;
    info.numa_node = numa_node;
    devices_.push_back(std::move(device));
    infos_.push_back(std::move(info));
    return Status::ok();
  }

  std::string_view name() const override { return "hostdev"; }
  const std::vector<DeviceInfo>& devices() const override { return infos_; }

  Result<DeviceMemory> allocate(uint32_t device, uint64_t bytes) override {
    if (device >= devices_.size() || bytes > kMostBytes) return bad_range();
    SHEAF_ASSIGN(uint64_t offset, devices_[device].allocate(bytes));
    return DeviceMemory{device, offset, bytes};
  }
  Status free(const DeviceMemory& memory) override {
    if (memory.device >= devices_.size() ||
        !devices_[memory.device].free(memory.offset, memory.bytes)) {
      return bad_range();
    }
    return Status::ok();
  }
  uint64_t free_bytes(uint32_t device) const override {
    return device < devices_.size() ? devices_[device].free_bytes() : 0;
  }

  Status copy_in(const DeviceMemory& to, uint64_t at, std::span<const std::byte> from) override {
    if (!inside(to, at, from.size())) return bad_range();
    if (!from.empty())
      std::memcpy(devices_[to.device].at(to.offset + at), from.data(), from.size());
    return Status::ok();
  }
  Status copy_out(std::span<std::byte> to, const DeviceMemory& from, uint64_t at) override {
    if (!inside(from, at, to.size())) return bad_range();
    if (!to.empty()) std::memcpy(to.data(), devices_[from.device].at(from.offset + at), to.size());
    return Status::ok();
  }
  Status copy(const DeviceMemory& to, const DeviceMemory& from) override {
    if (!inside(to, 0, to.bytes) || !inside(from, 0, from.bytes) || to.bytes != from.bytes)
      return bad_range();
    std::memmove(devices_[to.device].at(to.offset), devices_[from.device].at(from.offset),
                 to.bytes);
    return Status::ok();
  }

  Result<Fd> export_memory(uint32_t device) override {
    if (device >= devices_.size()) return bad_range();
    Fd copy(::dup(devices_[device].fd()));
    if (!copy) return Status::from_errno("dup", errno);
    return copy;
  }

 private:
  static Status bad_range() {
    return Status(StatusCode::kInvalidArgument, "no such device or device memory");
  }
  bool inside(const DeviceMemory& memory, uint64_t at, uint64_t bytes) const {
    return memory.device < devices_.size() && devices_[memory.device].owns(memory) &&
           at <= memory.bytes && bytes <= memory.bytes - at;
  }

  std::vector<HostDevice> devices_;
  std::vector<DeviceInfo> infos_;
};

bool take_number(std::string_view& text, uint64_t* out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

bool take_unit(std::string_view& text, uint64_t* factor) {
  static constexpr std::pair<std::string_view, int> kUnits[] = {
      {"KiB", 10}, {"MiB", 20}, {"GiB", 30}};
  for (const auto& [name, shift] : kUnits) {
    if (!text.starts_with(name)) continue;
    text.remove_prefix(name.size());
    *factor = uint64_t{1} << shift;
    return true;
  }
  *factor = 1;
  return true;
}

struct Group {
  uint64_t count = 0, bytes = 0;
  int numa_node = -1;
};

// "<count>x<bytes>[@<numa>]"
bool parse_group(std::string_view text, Group* out) {
  uint64_t factor = 1, node = 0;
  if (!take_number(text, &out->count) || !text.starts_with('x')) return false;
  text.remove_prefix(1);
  if (!take_number(text, &out->bytes) || !take_unit(text, &factor)) return false;
  if (out->bytes == 0 || out->bytes > kMostBytes / factor) return false;
  out->bytes *= factor;
  if (text.empty()) return true;
  if (!text.starts_with('@')) return false;
  text.remove_prefix(1);
  if (!take_number(text, &node) || node > 1023 || !text.empty()) return false;
  out->numa_node = static_cast<int>(node);
  return true;
}

}  // namespace

Result<std::unique_ptr<DeviceBackend>> make_hostdev(std::string_view topology) {
  auto backend = std::make_unique<HostDevBackend>();
  while (!topology.empty()) {
    std::string_view part = topology.substr(0, topology.find(','));
    topology.remove_prefix(std::min(topology.size(), part.size() + 1));
    Group group;
    if (!parse_group(part, &group) || backend->devices().size() + group.count > kMostDevices) {
      return Status(StatusCode::kInvalidArgument,
                    "fake devices '" + std::string(part) +
                        "' are not <count>x<bytes>[@<numa node>], at most 64 in all");
    }
    for (uint64_t i = 0; i < group.count; ++i)
      SHEAF_TRY(backend->add(group.bytes, group.numa_node));
  }
  return std::unique_ptr<DeviceBackend>(std::move(backend));
}

}  // namespace sheaf::gpu
