#include "launchers/discover_topology.h"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <sstream>

#include "core/json.h"
#include "core/read_file.h"
#include "launchers/hwloc_reader.h"

namespace sheaf::launchers {

using scheduler::DevicePlace;
using scheduler::Topology;
using scheduler::to_text;

namespace {

// "Device Minor: \t 3" of the driver's file about a GPU.
std::string field_of(const std::string& text, std::string_view name) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name)) continue;
    const size_t from = line.find_first_not_of(" \t", name.size());
    return from == std::string::npos ? std::string() : line.substr(from);
  }
  return {};
}

std::vector<std::string> entries_of(const std::string& directory) {
  std::vector<std::string> names;
  DIR* dir = opendir(directory.c_str());
  if (dir == nullptr) return names;
  while (dirent* entry = readdir(dir)) {
    if (entry->d_name[0] != '.') names.push_back(entry->d_name);
  }
  closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

void write_numbers(JsonWriter& w, std::string_view key, const std::vector<uint32_t>& numbers) {
  w.key(key).begin_array();
  for (uint32_t number : numbers) w.value(number);
  w.end_array();
}

void write_device(JsonWriter& w, size_t index, const DevicePlace& device) {
  w.begin_object().key("index").value(index).key("name").value(device.name);
  if (!device.kind.empty()) w.key("kind").value(device.kind);
  w.key("pci").value(device.pci);
  write_numbers(w, "numa_nodes", device.numa);
  if (!device.nics.empty()) write_numbers(w, "nics", device.nics);
  w.end_object();
}

}  // namespace

std::vector<GpuAddress> pick_visible(const std::vector<GpuAddress>& all, const char* visible) {
  if (visible == nullptr) return all;
  std::vector<GpuAddress> picked;
  std::istringstream entries(visible);
  for (std::string entry; std::getline(entries, entry, ',');) {
    std::erase(entry, ' ');
    GpuAddress& gpu = picked.emplace_back();
    size_t index = 0;
    auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), index);
    if (error == std::errc() && end == entry.data() + entry.size()) {
      if (index < all.size()) gpu = all[index];
      continue;
    }
    // A unique beginning is enough; a part of a GPU (MIG-GPU-...) lies where its GPU lies.
    if (entry.starts_with("MIG-GPU-")) entry.erase(0, 4);
    entry = entry.substr(0, entry.find('/'));
    const auto named = [&](const GpuAddress& g) {
      return entry.size() > 4 && g.uuid.starts_with(entry);
    };
    if (std::count_if(all.begin(), all.end(), named) == 1)
      gpu = *std::find_if(all.begin(), all.end(), named);
  }
  return picked;
}

std::vector<GpuAddress> visible_gpu_addresses(const TopologySources& sources) {
  std::vector<GpuAddress> all;
  const char* visible = getenv("CUDA_VISIBLE_DEVICES");
  for (const std::string& pci : entries_of(sources.nvidia)) {
    const std::string text = read_file(fmt::format("{}/{}/information", sources.nvidia, pci));
    const std::string minor = field_of(text, "Device Minor:");
    // A container sees all of them here, and has files for its own.
    const std::string file = fmt::format("{}/nvidia{}", sources.dev, minor);
    if (!minor.empty() && access(file.c_str(), F_OK) != 0) continue;
    all.push_back({pci, field_of(text, "GPU UUID:"), field_of(text, "Model:")});
  }
  return pick_visible(all, visible);
}

Result<Topology> discover_topology(const TopologySources& sources) {
  const std::vector<GpuAddress> gpus = visible_gpu_addresses(sources);
#ifdef SHEAF_HAVE_HWLOC
  const std::string nodes = read_file(sources.nodes_with_cpus);   // "0", "0-1", "0,2"
  const bool pci = sources.all_devices || !sources.description.empty() || !gpus.empty() ||
                   nodes.find_first_of(",-") != std::string::npos;
  auto found = read_hwloc(sources.description, sources.allowed, gpus, pci);
  if (found || !sources.description.empty()) return found;
  const std::string caution = found.status().to_string();
#else
  if (!sources.description.empty()) {
    return Status(StatusCode::kUnsupported, "node.topology: this build has no hwloc to read it");
  }
  const std::string caution = "built without hwloc: all CPUs count as one NUMA node";
#endif
  Topology flat = scheduler::flat_topology(sources.allowed, "the affinity mask");
  flat.caution = caution;
  for (const GpuAddress& gpu : gpus) flat.gpus.push_back({gpu.model, "", gpu.pci, {}, {}});
  return flat;
}

std::string topology_json(const scheduler::Binder& binder) {
  if (binder.topology() == nullptr) return "{}";
  const Topology& topology = *binder.topology();
  JsonWriter w;
  w.begin_object().key("binding").value(scheduler::to_string(binder.mode()));
  w.key("not_bound_because").value(binder.why_not()).key("source").value(topology.source);
  if (!topology.caution.empty()) w.key("caution").value(topology.caution);
  w.key("cores").value(topology.core_count()).key("cpus").value(topology.cpu_count());
  w.key("numa_nodes").begin_array();
  for (const scheduler::NumaNode& node : topology.numa) {
    w.begin_object().key("cores").value(node.cores.size()).key("cpus").value(to_text(node.cpus));
    write_numbers(w, "memories", node.memories);
    w.key("memory_bytes").value(node.memory_bytes).end_object();
  }
  w.end_array().key("gpus").begin_array();
  for (size_t i = 0; i < topology.gpus.size(); ++i) write_device(w, i, topology.gpus[i]);
  w.end_array().key("nics").begin_array();
  for (size_t i = 0; i < topology.nics.size(); ++i) write_device(w, i, topology.nics[i]);
  w.end_array().end_object();
  return std::move(w).take();
}

}  // namespace sheaf::launchers
