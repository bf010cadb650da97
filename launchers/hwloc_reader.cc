#include "launchers/hwloc_reader.h"

#include <fmt/format.h>
#include <hwloc.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <set>

namespace sheaf::launchers {

using scheduler::CpuList;
using scheduler::DevicePlace;
using scheduler::NumaNode;
using scheduler::Topology;
using scheduler::to_text;

namespace {

constexpr std::string_view kSynthetic = "synthetic:";
constexpr unsigned kNvidia = 0x10de, kAmd = 0x1002;
constexpr unsigned kDisplayClass = 0x03, kAcceleratorClass = 0x12;

struct Destroy {
  void operator()(hwloc_topology* t) const { hwloc_topology_destroy(t); }
};
using Handle = std::unique_ptr<hwloc_topology, Destroy>;

// hwloc looks for plugins when the first topology is made. They would come with threads, X and
// OpenCL; what they add here, hwloc's Linux part finds too.
class WithoutPlugins {
 public:
  WithoutPlugins() {
    if (const char* before = getenv(kVariable)) before_ = before;
    setenv(kVariable, "/dev/null", 1);
  }
  ~WithoutPlugins() {
    if (before_) setenv(kVariable, before_->c_str(), 1);
    else unsetenv(kVariable);
  }

 private:
  static constexpr const char* kVariable = "HWLOC_PLUGINS_PATH";
  std::optional<std::string> before_;
};

Result<Handle> load(const std::string& description, bool pci) {
  WithoutPlugins guard;
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return Status::from_errno("hwloc", errno);
  Handle handle(raw);
  const auto unreadable = [&] {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("node.topology: hwloc cannot read '{}'", description));
  };
  if (description.starts_with(kSynthetic)) {
    const std::string text = description.substr(kSynthetic.size());
    if (hwloc_topology_set_synthetic(raw, text.c_str()) != 0) return unreadable();
  } else if (!description.empty()) {
    if (hwloc_topology_set_xml(raw, description.c_str()) != 0) return unreadable();
  }
  if (description.empty()) {
    // The kernel tells all that is wanted: asking each CPU itself would move this thread over every
    // one of them, and caches are thousands of files. (A file's NUMA nodes may hang off a cache.)
    hwloc_topology_set_components(raw, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "x86");
    hwloc_topology_set_cache_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_NONE);
  }
  hwloc_topology_set_type_filter(raw, HWLOC_OBJ_OS_DEVICE, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
  if (pci) hwloc_topology_set_io_types_filter(raw, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
  if (hwloc_topology_load(raw) == 0) return handle;
  return description.empty() ? Status::from_errno("hwloc cannot read this machine", errno)
                             : unreadable();
}

bool is_os_device(hwloc_obj_t object, hwloc_obj_osdev_type_t type) {
#if HWLOC_API_VERSION >= 0x00030000
  return (object->attr->osdev.types & type) != 0;
#else
  return object->attr->osdev.type == type;
#endif
}

std::string pci_address(hwloc_obj_t object) {
  if (object == nullptr || object->type != HWLOC_OBJ_PCI_DEVICE) return {};
  const auto& at = object->attr->pcidev;
  return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", static_cast<unsigned>(at.domain),
                     static_cast<unsigned>(at.bus), static_cast<unsigned>(at.dev),
                     static_cast<unsigned>(at.func));
}

class Reader {
 public:
  Reader(hwloc_topology_t topology, const CpuList& allowed)
      : topology_(topology), allowed_(allowed.begin(), allowed.end()) {}

  Topology read(const std::vector<GpuAddress>& gpus) {
    read_numa();
    read_numa_distances();
    read_gpus(gpus);
    read_nics();
    read_device_distances();
    return std::move(out_);
  }

 private:
  void read_numa();
  void add_cpus(NumaNode& node, hwloc_obj_t object);
  void read_numa_distances();
  void read_gpus(const std::vector<GpuAddress>& gpus);
  void add_gpu(hwloc_obj_t object, const GpuAddress& address);
  void read_nics();
  void read_device_distances();
  std::vector<uint32_t> numa_of(hwloc_obj_t device) const;
  uint32_t between(hwloc_obj_t a, hwloc_obj_t b) const;
  bool is_gpu(hwloc_obj_t pci) const;

  hwloc_topology_t topology_;
  std::set<uint32_t> allowed_;                 // not given to a NUMA node yet
  std::vector<hwloc_obj_t> numa_objects_, gpu_objects_, nic_objects_;
  Topology out_;
};

// The smallest sets of CPUs first: a memory behind all of a package's CPUs takes none away.
void Reader::read_numa() {
  std::vector<hwloc_obj_t> objects;
  for (hwloc_obj_t o = nullptr;
       (o = hwloc_get_next_obj_by_type(topology_, HWLOC_OBJ_NUMANODE, o)) != nullptr;) {
    objects.push_back(o);
  }
  std::stable_sort(objects.begin(), objects.end(), [](hwloc_obj_t a, hwloc_obj_t b) {
    return hwloc_bitmap_weight(a->cpuset) < hwloc_bitmap_weight(b->cpuset);
  });
  std::vector<std::pair<hwloc_obj_t, NumaNode>> found;
  for (hwloc_obj_t object : objects) {
    const auto same = std::find_if(found.begin(), found.end(), [&](const auto& entry) {
      return hwloc_bitmap_isequal(entry.first->cpuset, object->cpuset);
    });
    NumaNode fresh;
    NumaNode& node = same == found.end() ? fresh : same->second;
    node.memories.push_back(object->os_index);
    node.memory_bytes += object->attr->numanode.local_memory;
    if (same != found.end()) continue;
    add_cpus(node, object);
    if (!node.cpus.empty()) found.emplace_back(object, std::move(node));
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return a.first->os_index < b.first->os_index;
  });
  for (auto& [object, node] : found) {
    numa_objects_.push_back(object);
    out_.numa.push_back(std::move(node));
  }
  if (allowed_.empty()) return;
  // CPUs that may run but whose memory may not be used, or that the description does not know.
  CpuList rest;
  for (uint32_t cpu : allowed_) {
    if (hwloc_get_pu_obj_by_os_index(topology_, cpu) != nullptr) rest.push_back(cpu);
  }
  if (rest.empty()) return;
  NumaNode& node = out_.numa.emplace_back();
  node.cpus = rest;
  for (uint32_t cpu : rest) node.cores.push_back({cpu});
  numa_objects_.push_back(nullptr);
}

void Reader::add_cpus(NumaNode& node, hwloc_obj_t object) {
  std::map<hwloc_obj_t, CpuList> cores;
  std::vector<hwloc_obj_t> order;
  unsigned cpu = 0;
  hwloc_bitmap_foreach_begin(cpu, object->cpuset) {
    hwloc_obj_t unit = hwloc_get_pu_obj_by_os_index(topology_, cpu);
    if (unit == nullptr || allowed_.erase(cpu) == 0) continue;
    hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology_, HWLOC_OBJ_CORE, unit);
    if (core == nullptr) core = unit;
    if (cores[core].empty()) order.push_back(core);
    cores[core].push_back(cpu);
    node.cpus.push_back(cpu);
  }
  hwloc_bitmap_foreach_end();
  for (hwloc_obj_t core : order) node.cores.push_back(std::move(cores[core]));
}

// As the firmware says, else by what both are in.
void Reader::read_numa_distances() {
  const size_t n = out_.numa.size();
  out_.numa_distance.assign(n, std::vector<uint32_t>(n, 10));
  unsigned count = 1;
  hwloc_distances_s* matrix = nullptr;
  const bool told = hwloc_distances_get_by_type(topology_, HWLOC_OBJ_NUMANODE, &count, &matrix,
                                                HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0) == 0 &&
                    count > 0;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      hwloc_obj_t a = numa_objects_[i], b = numa_objects_[j];
      if (i == j || a == nullptr || b == nullptr) continue;
      hwloc_uint64_t there = 0, back = 0;
      if (told && hwloc_distances_obj_pair_values(matrix, a, b, &there, &back) == 0) {
        out_.numa_distance[i][j] = static_cast<uint32_t>(std::min<uint64_t>(there, 255));
        continue;
      }
      hwloc_obj_t both = hwloc_get_common_ancestor_obj(topology_, a->parent, b->parent);
      out_.numa_distance[i][j] = both != nullptr && both->type != HWLOC_OBJ_MACHINE ? 12 : 20;
    }
  }
  if (told) hwloc_distances_release(topology_, matrix);
}

std::vector<uint32_t> Reader::numa_of(hwloc_obj_t device) const {
  std::vector<uint32_t> near;
  hwloc_obj_t place = hwloc_get_non_io_ancestor_obj(topology_, device);
  if (place == nullptr || place->cpuset == nullptr) return near;
  for (uint32_t i = 0; i < numa_objects_.size(); ++i) {
    if (numa_objects_[i] != nullptr &&
        hwloc_bitmap_intersects(numa_objects_[i]->cpuset, place->cpuset)) {
      near.push_back(i);
    }
  }
  // Beside all of them is beside none.
  if (near.size() == numa_objects_.size() && near.size() > 1) near.clear();
  return near;
}

bool Reader::is_gpu(hwloc_obj_t pci) const {
  const auto& at = pci->attr->pcidev;
  const unsigned kind = at.class_id >> 8;
  return (at.vendor_id == kNvidia || at.vendor_id == kAmd) &&
         (kind == kDisplayClass || kind == kAcceleratorClass);
}

void Reader::read_gpus(const std::vector<GpuAddress>& gpus) {
  for (const GpuAddress& gpu : gpus) {
    hwloc_obj_t object =
        gpu.pci.empty() ? nullptr : hwloc_get_pcidev_by_busidstring(topology_, gpu.pci.c_str());
    add_gpu(object, gpu);
  }
  if (!gpus.empty()) return;
  std::vector<hwloc_obj_t> found;
  for (hwloc_obj_t o = nullptr; (o = hwloc_get_next_pcidev(topology_, o)) != nullptr;) {
    if (is_gpu(o)) found.push_back(o);
  }
  std::sort(found.begin(), found.end(), [](hwloc_obj_t a, hwloc_obj_t b) {
    return pci_address(a) < pci_address(b);
  });
  for (hwloc_obj_t object : found) add_gpu(object, {pci_address(object), "", ""});
}

void Reader::add_gpu(hwloc_obj_t object, const GpuAddress& address) {
  DevicePlace& gpu = out_.gpus.emplace_back();
  gpu.pci = address.pci;
  gpu.name = address.model;
  gpu_objects_.push_back(object);
  if (object == nullptr) return;
  gpu.numa = numa_of(object);
  const char* model = hwloc_obj_get_info_by_name(object, "PCIDevice");
  if (gpu.name.empty() && model != nullptr) gpu.name = model;
}

void Reader::read_nics() {
  for (hwloc_obj_t o = nullptr; (o = hwloc_get_next_osdev(topology_, o)) != nullptr;) {
    const bool fabric = is_os_device(o, HWLOC_OBJ_OSDEV_OPENFABRICS);
    if (!fabric && !is_os_device(o, HWLOC_OBJ_OSDEV_NETWORK)) continue;
    DevicePlace& nic = out_.nics.emplace_back();
    nic.name = o->name == nullptr ? "" : o->name;
    nic.kind = fabric ? "openfabrics" : "network";
    nic.pci = pci_address(o->parent);
    nic.numa = numa_of(o);
    nic_objects_.push_back(o);
  }
}

// By the closest thing that both hang off.
uint32_t Reader::between(hwloc_obj_t a, hwloc_obj_t b) const {
  if (a == nullptr || b == nullptr) return scheduler::kFar;
  std::set<hwloc_obj_t> above;
  for (hwloc_obj_t o = a; o != nullptr; o = o->parent) above.insert(o);
  hwloc_obj_t both = b;
  while (both != nullptr && !above.contains(both)) both = both->parent;
  if (both == nullptr) return scheduler::kFar;
  if (both->type == HWLOC_OBJ_PCI_DEVICE || both->type == HWLOC_OBJ_OS_DEVICE) {
    return scheduler::kSameSwitch;
  }
  if (both->type == HWLOC_OBJ_BRIDGE) {
    return both->attr->bridge.upstream_type == HWLOC_OBJ_BRIDGE_PCI ? scheduler::kSameSwitch
                                                                    : scheduler::kSameRoot;
  }
  const std::vector<uint32_t> at_a = numa_of(a), at_b = numa_of(b);
  if (at_a.empty() || at_b.empty()) {
    return out_.numa.size() > 1 ? scheduler::kFar : scheduler::kSameNuma;
  }
  uint32_t least = scheduler::kFar;
  for (uint32_t i : at_a) {
    for (uint32_t j : at_b) {
      least = std::min(least, i == j ? scheduler::kSameNuma
                                     : scheduler::kOtherNuma + out_.numa_distance[i][j]);
    }
  }
  return least;
}

void Reader::read_device_distances() {
  const size_t n = gpu_objects_.size();
  out_.gpu_distance.assign(n, std::vector<uint32_t>(n, 0));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      if (i != j) out_.gpu_distance[i][j] = between(gpu_objects_[i], gpu_objects_[j]);
    }
    uint32_t least = scheduler::kFar;
    for (uint32_t nic = 0; nic < nic_objects_.size(); ++nic) {
      const uint32_t away = between(gpu_objects_[i], nic_objects_[nic]);
      if (away < least) out_.gpus[i].nics.clear();
      if (away <= least && away < scheduler::kFar) out_.gpus[i].nics.push_back(nic);
      least = std::min(least, away);
    }
  }
}

}  // namespace

Result<Topology> read_hwloc(const std::string& description, const CpuList& allowed,
                            const std::vector<GpuAddress>& gpus, bool pci) {
  SHEAF_ASSIGN(Handle handle, load(description, pci));
  Topology topology = Reader(handle.get(), allowed).read(gpus);
  if (topology.numa.empty()) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("node.topology: none of the CPUs {} is in it", to_text(allowed)));
  }
  topology.source = fmt::format("hwloc {:x}.{:x}", HWLOC_API_VERSION >> 16,
                                (HWLOC_API_VERSION >> 8) & 0xff);
  if (!description.empty()) topology.source += ", " + description;
  return topology;
}

}  // namespace sheaf::launchers
