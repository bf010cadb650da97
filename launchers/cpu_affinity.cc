#include "launchers/cpu_affinity.h"

#include <dirent.h>
#include <fmt/format.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <memory>
#include <set>
#include <string>

namespace sheaf::launchers {

using scheduler::CpuList;
using scheduler::to_text;

namespace {

constexpr size_t kCpusMax = 1 << 16;
constexpr int kLooksMax = 16;

// cpu_set_t with room for `cpus` CPUs.
class CpuMask {
 public:
  explicit CpuMask(size_t cpus) : mask_(CPU_ALLOC(cpus)), bytes_(CPU_ALLOC_SIZE(cpus)) {
    SHEAF_CHECK(mask_ != nullptr);
    CPU_ZERO_S(bytes_, mask_.get());
  }
  cpu_set_t* get() { return mask_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(cpu_set_t* mask) const { CPU_FREE(mask); }
  };
  std::unique_ptr<cpu_set_t, Free> mask_;
  size_t bytes_;
};

}  // namespace

CpuList allowed_cpus() {
  CpuList cpus;
  for (size_t room = 1024; room <= kCpusMax; room *= 2) {
    CpuMask mask(room);
    if (sched_getaffinity(0, mask.bytes(), mask.get()) != 0) {
      if (errno == EINVAL) continue;   // the kernel's own mask is longer
      break;
    }
    for (size_t cpu = 0; cpu < room; ++cpu) {
      if (CPU_ISSET_S(cpu, mask.bytes(), mask.get())) cpus.push_back(static_cast<uint32_t>(cpu));
    }
    return cpus;
  }
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  for (long cpu = 0; cpu < std::max(1L, online); ++cpu) cpus.push_back(static_cast<uint32_t>(cpu));
  return cpus;
}

Status run_on(pid_t pid, const CpuList& cpus) {
  if (cpus.empty()) return Status(StatusCode::kInvalidArgument, "no CPU is named");
  CpuMask mask(std::max<size_t>(cpus.back() + 1, 64));
  for (uint32_t cpu : cpus) CPU_SET_S(cpu, mask.bytes(), mask.get());
  std::unique_ptr<DIR, int (*)(DIR*)> threads(opendir(fmt::format("/proc/{}/task", pid).c_str()),
                                              closedir);
  if (!threads) return Status(StatusCode::kNotFound, fmt::format("no process {}", pid));
  std::set<pid_t> done;
  for (int look = 0; look < kLooksMax; ++look) {
    const size_t before = done.size();
    rewinddir(threads.get());
    while (dirent* entry = readdir(threads.get())) {
      const std::string_view name = entry->d_name;
      pid_t thread = 0;
      std::from_chars(name.data(), name.data() + name.size(), thread);
      if (thread == 0 || !done.insert(thread).second) continue;
      if (sched_setaffinity(thread, mask.bytes(), mask.get()) == 0 || errno == ESRCH) continue;
      return Status::from_errno(fmt::format("binding process {} to CPUs {}", pid, to_text(cpus)),
                                errno);
    }
    if (done.size() == before) break;
  }
  if (done.empty()) return Status(StatusCode::kNotFound, fmt::format("no process {}", pid));
  return {};
}

Status interleave(std::span<std::byte> shared, const std::vector<uint32_t>& memories) {
  if (memories.empty()) return Status(StatusCode::kInvalidArgument, "no memory is named");
  constexpr size_t kBits = 8 * sizeof(unsigned long);
  std::vector<unsigned long> mask(*std::max_element(memories.begin(), memories.end()) / kBits + 1);
  for (uint32_t memory : memories) mask[memory / kBits] |= 1ul << memory % kBits;
  // The kernel reads one bit less than it is told of.
  const long rc = syscall(SYS_mbind, shared.data(), shared.size(), MPOL_INTERLEAVE, mask.data(),
                          mask.size() * kBits + 1, 0);
  return rc == 0 ? Status::ok() : Status::from_errno("spreading memory over NUMA nodes", errno);
}

}  // namespace sheaf::launchers
