// Machines for tests, as hwloc writes them: packages with NUMA nodes, cores, and on each NUMA node
// PCI switches with GPUs and a network card.
#pragma once

#include <fmt/format.h>

#include <string>

namespace sheaf::launchers::testing {

struct MachineShape {
  unsigned packages = 2, numa_per_package = 1, cores_per_numa = 2, threads = 1;
  unsigned switches_per_numa = 1, gpus_per_switch = 2;
};

class MachineXml {
 public:
  explicit MachineXml(const MachineShape& shape) : s_(shape) {}

  std::string text() {
    const unsigned numa = s_.packages * s_.numa_per_package;
    out_ = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n"
           "<topology version=\"2.0\">\n";
    open("Machine", 0, 0, numa, "");
    for (unsigned p = 0; p < s_.packages; ++p) {
      open("Package", p, p * s_.numa_per_package, s_.numa_per_package, "");
      for (unsigned n = 0; n < s_.numa_per_package; ++n) add_numa(p * s_.numa_per_package + n);
      close();
    }
    close();
    return out_ + "</topology>\n";
  }

 private:
  unsigned cpus_per_numa() const { return s_.cores_per_numa * s_.threads; }

  void open(const char* type, unsigned index, unsigned first_numa, unsigned numa,
            const std::string& more) {
    const unsigned cpus = numa * cpus_per_numa();
    open_with(type, index, bits(first_numa * cpus_per_numa(), cpus), bits(first_numa, numa), more);
  }

  void open_with(const char* type, unsigned index, uint64_t cpus, uint64_t nodes,
                 const std::string& more) {
    out_ += fmt::format(
        "<object type=\"{}\" os_index=\"{}\" cpuset=\"{c}\" complete_cpuset=\"{c}\" "
        "allowed_cpuset=\"{c}\" nodeset=\"{n}\" complete_nodeset=\"{n}\" allowed_nodeset=\"{n}\" "
        "gp_index=\"{}\"{}>\n",
        type, index, ++id_, more, fmt::arg("c", mask(cpus)), fmt::arg("n", mask(nodes)));
  }

  void close() { out_ += "</object>\n"; }

  void add_numa(unsigned numa) {
    open("L3Cache", numa, numa, 1,
         " cache_size=\"1048576\" depth=\"3\" cache_linesize=\"64\" cache_associativity=\"0\" "
         "cache_type=\"0\"");
    open("NUMANode", numa, numa, 1, " local_memory=\"1073741824\"");
    out_ += "<page_type size=\"4096\" count=\"262144\"/>\n";
    close();
    for (unsigned c = 0; c < s_.cores_per_numa; ++c) {
      const unsigned first = numa * cpus_per_numa() + c * s_.threads;
      const unsigned core = numa * s_.cores_per_numa + c;
      open_with("Core", core, bits(first, s_.threads), bits(numa, 1), "");
      for (unsigned t = 0; t < s_.threads; ++t) {
        open_with("PU", first + t, bits(first + t, 1), bits(numa, 1), "");
        close();
      }
      close();
    }
    if (s_.switches_per_numa > 0) add_devices(numa);
    close();
  }

  void add_devices(unsigned numa) {
    const unsigned root = numa * 16;
    out_ += fmt::format("<object type=\"Bridge\" gp_index=\"{}\" bridge_type=\"0-1\" depth=\"0\" "
                        "bridge_pci=\"0000:[{:02x}-{:02x}]\">\n",
                        ++id_, root, root + 15);
    for (unsigned s = 0; s < s_.switches_per_numa; ++s) {
      const unsigned bus = root + 1 + s;
      out_ += fmt::format(
          "<object type=\"Bridge\" gp_index=\"{}\" bridge_type=\"1-1\" depth=\"1\" "
          "bridge_pci=\"0000:[{b:02x}-{b:02x}]\" pci_busid=\"0000:{:02x}:{:02x}.0\" "
          "pci_type=\"0604 [8086:1234] [0000:0000] 00\" pci_link_speed=\"0.000000\">\n",
          ++id_, root, s + 1, fmt::arg("b", bus));
      for (unsigned g = 0; g < s_.gpus_per_switch; ++g) {
        add_pci(bus, g, "0302 [10de:2330] [10de:16c1] a1", "", 0);
      }
      add_pci(bus, s_.gpus_per_switch, "0200 [15b3:1021] [15b3:0001] 00",
              fmt::format("eth{}", numa * s_.switches_per_numa + s), 2);
      close();
    }
    close();
  }

  void add_pci(unsigned bus, unsigned device, const char* type, const std::string& os_device,
               int os_type) {
    out_ += fmt::format(
        "<object type=\"PCIDev\" gp_index=\"{}\" pci_busid=\"0000:{:02x}:{:02x}.0\" "
        "pci_type=\"{}\" pci_link_speed=\"0.000000\">\n",
        ++id_, bus, device, type);
    if (!os_device.empty()) {
      out_ += fmt::format(
          "<object type=\"OSDev\" gp_index=\"{}\" name=\"{}\" osdev_type=\"{}\"/>\n", ++id_,
          os_device, os_type);
    }
    close();
  }

  static uint64_t bits(unsigned first, unsigned count) {
    return ((uint64_t{1} << count) - 1) << first;
  }
  static std::string mask(uint64_t bits) {   // as hwloc has it: words of 32 bits, highest first
    return fmt::format("0x{:08x},0x{:08x}", bits >> 32, bits & 0xffffffff);
  }

  MachineShape s_;
  std::string out_;
  unsigned id_ = 0;
};

inline std::string machine_xml(const MachineShape& shape) { return MachineXml(shape).text(); }

}  // namespace sheaf::launchers::testing
