#include "tests/runtime/garbage_library.h"

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/runtime/lane_access.h"

namespace testgarbage {

namespace {
void note(const std::string& file) { std::ofstream(file) << getpid() << '\n'; }
}  // namespace

int break_lane(const std::string& marker) {
  if (std::filesystem::exists(marker)) return getpid();
  note(marker);
  auto& rt = sheaf::runtime::Runtime::current()->impl();
  {
    sheaf::runtime::Locked guard(rt);
    rt.peers.for_each([&](sheaf::runtime::Peer& peer) { spoil_ring(rt, peer); });
  }
  // It goes on as if nothing were wrong: it is for others to notice.
  for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
}

int hold(const std::string& started, const std::string& go) {
  note(started);
  // The test's folder may be gone before a look finds `go` in it.
  while (std::filesystem::exists(started) && !std::filesystem::exists(go)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return 7;
}

int pid_of(int) { return getpid(); }

SHEAF_REMOTE(break_lane);
SHEAF_REMOTE(hold);
SHEAF_REMOTE(pid_of);

}  // namespace testgarbage
