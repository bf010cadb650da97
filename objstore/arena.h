// The arena: one shared file in which every object of the node lives, mapped by the daemon and all
// clients.
//
// Pages come, in order of preference, from a private tmpfs with huge pages, a memfd with huge
// pages, reserved huge pages, or a plain memfd. Memory is committed in steps before it is handed
// out (commit_to), so that a full file system is kOutOfMemory there and never SIGBUS later; an idle
// arena costs almost nothing. A background thread touches pages some way ahead of their first use.
// Creation and commit_to: the daemon's control loop. Mappings: any thread, immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/status.h"

namespace sheaf::objstore {

enum class ArenaBacking : uint8_t { kHugeTmpfs = 0, kMemfdThp = 1, kHugetlb = 2, kMemfd = 3 };
// "huge-tmpfs", "memfd-thp", "hugetlb", "memfd".
std::string_view to_string(ArenaBacking backing);

struct ArenaOptions {
  // The first backing to try; those before it in the enum are skipped.
  ArenaBacking first_backing = ArenaBacking::kHugeTmpfs;
  uint64_t commit_step_bytes = 64ull << 20;
  // Touched right after creation, and kept touched beyond the high-water mark once objects arrive.
  uint64_t initial_prefault_bytes = 32ull << 20;
  uint64_t prefault_ahead_bytes = 256ull << 20;
};

class Arena {
 public:
  // Daemon. `bytes` is rounded up to 2 MB. Does not commit memory. Forks a short-lived child.
  static Result<Arena> create(uint64_t bytes, const ArenaOptions& options = {});
  // Daemon, on a file of the caller's, e.g. on a site's own tmpfs. Takes ownership of `fd`; sets
  // the file's size.
  static Result<Arena> create_on(int fd, ArenaBacking backing, uint64_t bytes,
                                 const ArenaOptions& options = {});
  // Client: maps what the daemon handed out. Takes ownership of `fd`.
  static Result<Arena> map(int fd, uint64_t bytes);
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&&) = delete;
  ~Arena();

  int fd() const { return fd_; }
  uint64_t bytes() const { return bytes_; }
  // As in protocol.h Welcome. "" on a client.
  std::string_view backing() const { return backing_; }
  // Read-only: a stray write is a SIGSEGV.
  const std::byte* read_base() const { return read_base_; }
  std::byte* write_base() const { return write_base_; }
  // True when [offset, offset + size) lies inside: check before use of an offset that came by
  // message.
  bool contains(uint64_t offset, uint64_t size) const {
    return offset <= bytes_ && size <= bytes_ - offset;
  }

  // Daemon only, any thread. Backs [0, end) with memory; kOutOfMemory when the system has none left
  // for it.
  Status commit_to(uint64_t end);
  uint64_t committed_bytes() const;
  // Daemon only: objects now reach up to `end`; the prefault thread stays ahead of it. Starts the
  // thread when needed.
  void note_high_water(uint64_t end);
  uint64_t prefaulted_bytes() const;
  // Starts touching `initial_prefault_bytes`. Call after the last fork that must be
  // single-threaded.
  void start_prefault();
  void stop_prefault();

 private:
  struct Prefault;  // the thread and what it shares with the loop
  Arena() = default;
  Status map_both();

  int fd_ = -1;
  uint64_t bytes_ = 0;
  std::string backing_;
  std::byte* read_base_ = nullptr;
  std::byte* write_base_ = nullptr;
  Prefault* prefault_ = nullptr;  // daemon only; owned
};

}  // namespace sheaf::objstore
