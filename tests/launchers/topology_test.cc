// What is found of a machine's hardware, on machines that hwloc describes and on this one.
#include "launchers/discover_topology.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>
#include <thread>

#include "core/json.h"
#include "launchers/cpu_affinity.h"
#include "machine_xml.h"
#include "objstore/arena.h"

namespace sheaf::launchers {
namespace {

using scheduler::CpuList;
using scheduler::Topology;
using testing::machine_xml;
using testing::MachineShape;

CpuList first_cpus(uint32_t count) {
  CpuList cpus(count);
  std::iota(cpus.begin(), cpus.end(), 0u);
  return cpus;
}

class TopologyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sheaf-topology-XXXXXX";
    root_ = mkdtemp(name);
    unsetenv("CUDA_VISIBLE_DEVICES");
    sources_.nvidia = root_ + "/nvidia";
    sources_.dev = root_ + "/dev";
  }
  void TearDown() override {
    unsetenv("CUDA_VISIBLE_DEVICES");
    std::filesystem::remove_all(root_);
  }
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + "/" + path).parent_path());
    std::ofstream(root_ + "/" + path) << text;
  }
  void add_gpu(const std::string& pci, int minor, const std::string& uuid) {
    write("nvidia/" + pci + "/information",
          fmt::format("Model: \t\t NVIDIA Test\nGPU UUID: \t {}\nDevice Minor: \t {}\n", uuid,
                      minor));
    write(fmt::format("dev/nvidia{}", minor), "");
  }
  Topology read(const std::string& description, uint32_t cpus) {
    sources_.description = description;
    sources_.allowed = first_cpus(cpus);
    auto found = discover_topology(sources_);
    EXPECT_TRUE(found) << found.status().to_string();
    return found ? *found : Topology{};
  }
  Topology read(const MachineShape& shape, uint32_t cpus) {
    write("machine.xml", machine_xml(shape));
    return read(root_ + "/machine.xml", cpus);
  }

  std::string root_;
  TopologySources sources_;
};

#ifdef SHEAF_HAVE_HWLOC

TEST_F(TopologyTest, NumaNodesHaveTheirCores) {
  for (uint32_t nodes : {2u, 3u, 5u, 8u}) {
    Topology t = read(fmt::format("synthetic:numa:{} core:3 pu:2", nodes), 6 * nodes);
    ASSERT_EQ(t.numa.size(), nodes);
    EXPECT_EQ(t.core_count(), 3 * nodes);
    EXPECT_EQ(t.cpu_count(), 6 * nodes);
    for (uint32_t n = 0; n < nodes; ++n) {
      EXPECT_EQ(t.numa[n].memories, std::vector<uint32_t>{n});
      EXPECT_EQ(t.numa[n].cores[0], (CpuList{6 * n, 6 * n + 1}));
      EXPECT_GT(t.numa[n].memory_bytes, 0u);
      for (uint32_t m = 0; m < nodes; ++m) EXPECT_EQ(t.numa_distance[n][m] == 10, n == m);
    }
    EXPECT_TRUE(t.caution.empty());
  }
}

TEST_F(TopologyTest, OnlyCpusThatMayBeUsedAreThere) {
  sources_.description = "synthetic:numa:4 core:2 pu:2";
  sources_.allowed = {1, 4, 5, 6, 15, 99};
  auto t = discover_topology(sources_);
  ASSERT_TRUE(t);
  ASSERT_EQ(t->numa.size(), 3u);
  EXPECT_EQ(t->numa[0].cpus, (CpuList{1}));
  EXPECT_EQ(t->numa[1].cpus, (CpuList{4, 5, 6}));
  EXPECT_EQ(t->numa[1].cores.size(), 2u);
  EXPECT_EQ(t->numa[2].cpus, (CpuList{15}));
  EXPECT_EQ(t->numa[2].memories, std::vector<uint32_t>{3});
  sources_.allowed = {99};
  EXPECT_EQ(discover_topology(sources_).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(TopologyTest, TwoMemoriesOfTheSameCpusAreOneNode) {
  Topology t = read("synthetic:pack:2 [numa(memory=1GB)] [numa(memory=2GB)] core:2 pu:1", 4);
  ASSERT_EQ(t.numa.size(), 2u);
  EXPECT_EQ(t.numa[0].memories.size(), 2u);
  EXPECT_EQ(t.numa[0].cpus, (CpuList{0, 1}));
}

TEST_F(TopologyTest, DevicesAreWhereTheyHangOff) {
  Topology t = read({.packages = 2, .numa_per_package = 2, .switches_per_numa = 2}, 8);
  ASSERT_EQ(t.numa.size(), 4u);
  ASSERT_EQ(t.gpus.size(), 16u);
  ASSERT_EQ(t.nics.size(), 8u);
  for (uint32_t i = 0; i < 16; ++i) {
    EXPECT_EQ(t.gpus[i].numa, std::vector<uint32_t>{i / 4}) << i;
    EXPECT_EQ(t.gpus[i].nics, std::vector<uint32_t>{i / 2}) << i;
  }
  EXPECT_EQ(t.nics[3].name, "eth3");
  EXPECT_EQ(t.nics[3].numa, std::vector<uint32_t>{1});
  const auto& d = t.gpu_distance;
  EXPECT_EQ(d[0][1], scheduler::kSameSwitch);
  EXPECT_EQ(d[0][2], scheduler::kSameRoot);
  EXPECT_LT(d[0][3], d[0][4]);
  EXPECT_LT(d[0][4], d[0][8]);   // the other half of the package, the other package
  EXPECT_EQ(d[3][12], d[12][3]);
}

TEST_F(TopologyTest, TheDriversFilesSayWhichGpuIsWhich) {
  const MachineShape shape{.packages = 2};
  add_gpu("0000:11:01.0", 3, "GPU-dd");
  add_gpu("0000:11:00.0", 2, "GPU-cc");
  add_gpu("0000:01:00.0", 0, "GPU-aa");
  Topology t = read(shape, 4);
  ASSERT_EQ(t.gpus.size(), 3u);
  EXPECT_EQ(t.gpus[0].pci, "0000:01:00.0");
  EXPECT_EQ(t.gpus[0].name, "NVIDIA Test");
  EXPECT_EQ(t.gpus[2].numa, std::vector<uint32_t>{1});
  std::filesystem::remove(root_ + "/dev/nvidia2");   // another container's
  t = read(shape, 4);
  ASSERT_EQ(t.gpus.size(), 2u);
  EXPECT_EQ(t.gpus[1].pci, "0000:11:01.0");
  setenv("CUDA_VISIBLE_DEVICES", "GPU-dd,0,MIG-none", 1);
  t = read(shape, 4);
  ASSERT_EQ(t.gpus.size(), 3u);
  EXPECT_EQ(t.gpus[0].numa, std::vector<uint32_t>{1});
  EXPECT_EQ(t.gpus[1].numa, std::vector<uint32_t>{0});
  EXPECT_TRUE(t.gpus[2].numa.empty());
}

TEST_F(TopologyTest, NonsenseIsRefusedByName) {
  write("bad.xml", "<topology><object type=\"Machine\"");
  for (const std::string& bad :
       {std::string("synthetic:no such"), root_ + "/bad.xml", root_ + "/absent.xml"}) {
    sources_.description = bad;
    sources_.allowed = {0};
    auto found = discover_topology(sources_);
    ASSERT_FALSE(found) << bad;
    EXPECT_NE(found.status().to_string().find("node.topology"), std::string::npos);
  }
}

#endif

// The daemon's quick look misses no card that the long one finds.
TEST_F(TopologyTest, NetworkCardsAreFoundWithoutPci) {
  sources_.allowed = allowed_cpus();
  auto quick = discover_topology(sources_);
  sources_.all_devices = true;
  auto whole = discover_topology(sources_);
  ASSERT_TRUE(quick && whole);
  const auto names = [](const Topology& t) {
    std::set<std::string> out;
    for (const scheduler::DevicePlace& nic : t.nics) out.insert(nic.name);
    return out;
  };
  EXPECT_EQ(names(*quick), names(*whole));
  EXPECT_EQ(quick->numa.size(), whole->numa.size());
}

TEST_F(TopologyTest, ThisMachineIsKnown) {
  sources_.allowed = allowed_cpus();
  auto found = discover_topology(sources_);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->cpu_count(), allowed_cpus().size());
  scheduler::Binder binder(std::make_shared<Topology>(*found), scheduler::BindingMode::kAuto);
  auto json = parse_json(topology_json(binder));
  ASSERT_TRUE(json) << topology_json(binder);
  EXPECT_EQ(json->find("numa_nodes")->as_array()->size(), found->numa.size());
  EXPECT_EQ(binder.active(), binder.why_not().empty());
}

TEST(VisibleGpusTest, EntriesAreIndicesOrNames) {
  const std::vector<GpuAddress> all{{"a", "GPU-11-1", ""}, {"b", "GPU-12-2", ""}};
  const auto pcis = [&](const char* visible) {
    std::vector<std::string> out;
    for (const GpuAddress& gpu : pick_visible(all, visible)) out.push_back(gpu.pci);
    return out;
  };
  using Pcis = std::vector<std::string>;
  EXPECT_EQ(pcis(nullptr), (Pcis{"a", "b"}));
  EXPECT_EQ(pcis(""), Pcis{});
  EXPECT_EQ(pcis("1, 0"), (Pcis{"b", "a"}));
  EXPECT_EQ(pcis("GPU-12"), Pcis{"b"});
  EXPECT_EQ(pcis("GPU-1"), Pcis{""});          // not unique
  EXPECT_EQ(pcis("MIG-GPU-11-1/3/0,7"), (Pcis{"a", ""}));
}

CpuList cpus_of(pid_t thread) {
  cpu_set_t set;
  CpuList cpus;
  if (sched_getaffinity(thread, sizeof set, &set) != 0) return cpus;
  for (uint32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

// Threads that start others all the time: none may escape.
TEST(RunOnTest, EveryThreadOfAProcessIsBound) {
  const CpuList all = allowed_cpus();
  const CpuList one{all.back()};
  pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    for (int i = 0; i < 3; ++i) {
      std::thread([] {
        for (;;) std::thread([] { usleep(300); }).join();
      }).detach();
    }
    for (;;) pause();
  }
  const std::string tasks = fmt::format("/proc/{}/task", child);
  const auto threads = [&] {
    std::vector<pid_t> found;
    std::error_code error;
    for (const auto& e : std::filesystem::directory_iterator(tasks, error)) {
      found.push_back(atoi(e.path().filename().c_str()));
    }
    return found;
  };
  while (threads().size() < 4) usleep(1000);
  for (const CpuList& wanted : {one, all, one}) {
    ASSERT_TRUE(run_on(child, wanted)) << run_on(child, wanted).to_string();
    for (int look = 0; look < 20; ++look) {
      for (pid_t thread : threads()) {
        const CpuList now = cpus_of(thread);
        if (now.empty()) continue;   // it has ended
        EXPECT_EQ(now, wanted);
      }
      usleep(200);
    }
  }
  EXPECT_EQ(run_on(child, {65000}).code(), StatusCode::kInvalidArgument);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(run_on(child, one).code(), StatusCode::kNotFound);
}

// The policy belongs to the file: another mapping of it has it too, and what is allocated for it.
TEST(InterleaveTest, PagesOfASharedFileComeFromTheMemoriesInTurn) {
  auto arena = objstore::Arena::create(16 << 20);
  ASSERT_TRUE(arena) << arena.status().to_string();
  Status spread = interleave({arena->write_base(), arena->bytes()}, {0});
  if (spread.code() == StatusCode::kUnsupported) GTEST_SKIP() << spread.to_string();
  ASSERT_TRUE(spread) << spread.to_string();
  ASSERT_TRUE(arena->commit_to(4 << 20));
  std::memset(arena->write_base(), 1, 4 << 20);
  for (const std::byte* place : {arena->read_base(), arena->read_base() + (8 << 20)}) {
    int policy = -1;
    ASSERT_EQ(syscall(SYS_get_mempolicy, &policy, nullptr, 0, place, MPOL_F_ADDR), 0);
    EXPECT_EQ(policy, MPOL_INTERLEAVE);
  }
  EXPECT_FALSE(interleave({arena->write_base(), arena->bytes()}, {60}));
  EXPECT_FALSE(interleave({arena->write_base(), arena->bytes()}, {}));
}

TEST(RunOnTest, OurOwnCpusFollowTheAffinityMask) {
  pid_t child = fork();
  if (child == 0) {
    const CpuList last{allowed_cpus().back()};
    if (!run_on(getpid(), last)) _exit(1);
    _exit(allowed_cpus() == last ? 0 : 2);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace sheaf::launchers
