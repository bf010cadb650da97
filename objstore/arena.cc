#include "objstore/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <utility>
#include <mutex>
#include <thread>

#include <fmt/format.h>

#include "objstore/arena_backing.h"
#include "objstore/pages.h"

namespace sheaf::objstore {
namespace {

// A shared mapping that starts on a 2 MB boundary, so that huge pages can be mapped as such.
std::byte* map_aligned(int fd, uint64_t bytes, int protection) {
  void* room = mmap(nullptr, bytes + kHugePage, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return nullptr;
  auto* start = static_cast<std::byte*>(room);
  auto* aligned =
      reinterpret_cast<std::byte*>(round_up(reinterpret_cast<uint64_t>(start), kHugePage));
  if (aligned > start) munmap(start, static_cast<size_t>(aligned - start));
  if (size_t tail = static_cast<size_t>(start + kHugePage - aligned)) munmap(aligned + bytes, tail);
  if (mmap(aligned, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
    int error = errno;
    munmap(aligned, bytes);
    errno = error;
    return nullptr;
  }
  madvise(aligned, bytes, MADV_HUGEPAGE);
  madvise(aligned, bytes, MADV_DONTDUMP);
  return aligned;
}

// Maps pages for writing without changing them, whoever else writes there.
void touch(std::byte* from, uint64_t bytes) {
#ifdef MADV_POPULATE_WRITE
  if (madvise(from, bytes, MADV_POPULATE_WRITE) == 0 || errno != EINVAL) return;
#endif
  for (uint64_t at = 0; at < bytes; at += kSmallPage) {
    __atomic_fetch_or(reinterpret_cast<unsigned char*>(from + at), 0, __ATOMIC_RELAXED);
  }
}

}  // namespace

std::string_view to_string(ArenaBacking backing) {
  switch (backing) {
    case ArenaBacking::kHugeTmpfs: return "huge-tmpfs";
    case ArenaBacking::kMemfdThp: return "memfd-thp";
    case ArenaBacking::kHugetlb: return "hugetlb";
    case ArenaBacking::kMemfd: return "memfd";
  }
  return "unknown";
}

struct Arena::Prefault {
  int fd = -1;
  std::byte* base = nullptr;
  uint64_t bytes = 0;
  ArenaOptions options;
  std::mutex commit_mutex;  // held during fallocate: the loop and the thread both commit
  std::atomic<uint64_t> committed{0};
  std::atomic<uint64_t> touched{0};
  std::atomic<uint64_t> target{0};
  std::atomic<bool> stop{false};
  std::mutex sleep_mutex;                  // only for the condition variable
  std::condition_variable work;
  std::thread thread;

  Status commit(uint64_t end) {
    if (committed.load(std::memory_order_acquire) >= end) return {};
    std::lock_guard lock(commit_mutex);
    uint64_t from = committed.load(std::memory_order_relaxed);
    if (from >= end) return {};
    int rc;
    do rc = fallocate(fd, 0, static_cast<off_t>(from), static_cast<off_t>(end - from));
    while (rc != 0 && errno == EINTR);
    if (rc != 0 && errno != EOPNOTSUPP) {
      return Status::from_errno(
          fmt::format("the object store's memory cannot grow beyond {} MiB", from >> 20), errno);
    }
    committed.store(end, std::memory_order_release);
    return {};
  }

  void run() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    while (!stop.load(std::memory_order_relaxed)) {
      uint64_t done = touched.load(std::memory_order_relaxed);
      if (done < target.load(std::memory_order_acquire)) {
        uint64_t next = std::min(done + kHugePage, bytes);
        if (!commit(next)) {  // full: leave the decision to those who need the memory
          target.store(done, std::memory_order_relaxed);
          continue;
        }
        touch(base + done, next - done);
        touched.store(next, std::memory_order_relaxed);
        continue;
      }
      std::unique_lock lock(sleep_mutex);
      work.wait(lock, [&] { return stop.load() || touched.load() < target.load(); });
    }
  }

  void aim(uint64_t end) {
    end = std::min(end, bytes);
    if (end <= target.load(std::memory_order_relaxed)) return;
    {
      std::lock_guard lock(sleep_mutex);
      target.store(end, std::memory_order_release);
    }
    if (!thread.joinable()) thread = std::thread([this] { run(); });
    work.notify_one();
  }
};

Result<Arena> Arena::create(uint64_t bytes, const ArenaOptions& options) {
  bytes = round_up(std::max<uint64_t>(bytes, 1), kHugePage);
  SHEAF_ASSIGN(internal::BackingFile file, internal::open_backing(options.first_backing, bytes));
  return create_on(file.fd, file.backing, bytes, options);
}

Result<Arena> Arena::create_on(int fd, ArenaBacking backing, uint64_t bytes,
                               const ArenaOptions& options) {
  Arena arena;
  arena.fd_ = fd;
  arena.bytes_ = round_up(bytes, kHugePage);
  arena.backing_ = to_string(backing);
  if (ftruncate(fd, static_cast<off_t>(arena.bytes_)) != 0)
    return Status::from_errno("sizing the arena", errno);
  SHEAF_TRY(arena.map_both());
  arena.prefault_ = new Prefault;
  arena.prefault_->fd = arena.fd_;
  arena.prefault_->base = arena.write_base_;
  arena.prefault_->bytes = arena.bytes_;
  arena.prefault_->options = options;
  return arena;
}

Result<Arena> Arena::map(int fd, uint64_t bytes) {
  Arena arena;
  arena.fd_ = fd;
  arena.bytes_ = bytes;
  struct stat st;
  if (fstat(fd, &st) != 0) return Status::from_errno("the arena's descriptor", errno);
  if (bytes == 0 || static_cast<uint64_t>(st.st_size) < bytes) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("the arena has {} bytes, {} were announced", st.st_size, bytes));
  }
  SHEAF_TRY(arena.map_both());
  close(std::exchange(arena.fd_, -1));   // the mappings do without
  return arena;
}

Status Arena::map_both() {
  read_base_ = map_aligned(fd_, bytes_, PROT_READ);
  if (read_base_ != nullptr) write_base_ = map_aligned(fd_, bytes_, PROT_READ | PROT_WRITE);
  if (write_base_ == nullptr) return Status::from_errno("cannot map the object store", errno);
  return {};
}

Arena::Arena(Arena&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), bytes_(other.bytes_), backing_(std::move(other.backing_)),
      read_base_(std::exchange(other.read_base_, nullptr)),
      write_base_(std::exchange(other.write_base_, nullptr)),
      prefault_(std::exchange(other.prefault_, nullptr)) {}

Arena::~Arena() {
  stop_prefault();
  delete prefault_;
  if (write_base_ != nullptr) munmap(write_base_, bytes_);
  if (read_base_ != nullptr) munmap(const_cast<std::byte*>(read_base_), bytes_);
  if (fd_ >= 0) close(fd_);
}

Status Arena::commit_to(uint64_t end) {
  SHEAF_CHECK(prefault_ != nullptr && end <= bytes_);
  if (end <= prefault_->committed.load(std::memory_order_acquire)) return {};
  uint64_t step = prefault_->options.commit_step_bytes;
  uint64_t generous = std::min(bytes_, step > 0 ? round_up(end, step) : end);
  if (Status whole_step = prefault_->commit(generous); whole_step) return {};
  return prefault_->commit(std::min(bytes_, round_up(end, kHugePage)));
}

uint64_t Arena::committed_bytes() const { return prefault_ ? prefault_->committed.load() : 0; }
uint64_t Arena::prefaulted_bytes() const { return prefault_ ? prefault_->touched.load() : 0; }

void Arena::note_high_water(uint64_t end) {
  SHEAF_CHECK(prefault_ != nullptr);
  prefault_->aim(round_up(end + prefault_->options.prefault_ahead_bytes, kHugePage));
}

void Arena::start_prefault() {
  SHEAF_CHECK(prefault_ != nullptr);
  prefault_->aim(prefault_->options.initial_prefault_bytes);
}

void Arena::stop_prefault() {
  if (prefault_ == nullptr || !prefault_->thread.joinable()) return;
  {
    std::lock_guard lock(prefault_->sleep_mutex);
    prefault_->stop.store(true);
  }
  prefault_->work.notify_one();
  prefault_->thread.join();
}

}  // namespace sheaf::objstore
