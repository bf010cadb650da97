#include "objstore/copy.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sheaf::objstore {
namespace {

#if defined(__x86_64__)
constexpr size_t kLine = 64;

// Source and destination do not overlap; the source is read once, in order, so plain loads are
// prefetched well.
__attribute__((target("avx2"))) void stream_avx2(std::byte* dst, const std::byte* src,
                                                 size_t size) {
  size_t head = (kLine - reinterpret_cast<uintptr_t>(dst) % kLine) % kLine;
  std::memcpy(dst, src, head);
  dst += head;
  src += head;
  size -= head;
  size_t body = size / kLine * kLine;
  for (size_t at = 0; at < body; at += kLine) {
    __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(src + at));
    __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(src + at + 32));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(dst + at), low);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(dst + at + 32), high);
  }
  std::memcpy(dst + body, src + body, size - body);
  _mm_sfence();  // a release store does not order non-temporal ones
}
#endif

void copy_alone(std::byte* dst, const std::byte* src, size_t size) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (size >= kStreamingCopyBytes && has_avx2) return stream_avx2(dst, src, size);
#endif
  std::memcpy(dst, src, size);
}

// ---- Several threads ----------------------------------------------------------------------------

constexpr size_t kPieceBytes = 2ull << 20;  // a huge page: two threads never wait for the same one
constexpr int kThreadsMax = 4;
constexpr size_t kHelperStackBytes = 256 * 1024;

// One copy that several threads take pieces of. A helper that comes late finds none left, so that
// nobody waits for one that has not run yet; it keeps this alive, and touches nothing else.
struct SharedCopy {
  std::byte* dst;
  const std::byte* src;
  size_t size;
  std::atomic<size_t> taken{0};   // pieces
  std::atomic<size_t> copied{0};  // bytes
  std::mutex mutex{};             // only for the condition variable
  std::condition_variable done{};

  // Pieces end where huge pages of the destination do.
  size_t piece_start(size_t piece) const {
    size_t skew = reinterpret_cast<uintptr_t>(dst) % kPieceBytes;
    return std::min(size, piece == 0 ? 0 : piece * kPieceBytes - skew);
  }
  void work() {
    for (;;) {
      size_t piece = taken.fetch_add(1, std::memory_order_relaxed);
      size_t from = piece_start(piece), to = piece_start(piece + 1);
      if (from == size) return;
      copy_alone(dst + from, src + from, to - from);
      if (copied.fetch_add(to - from, std::memory_order_acq_rel) + (to - from) < size) continue;
      std::lock_guard lock(mutex);
      done.notify_one();
    }
  }
};

void* helper_main(void* argument) {
  std::unique_ptr<std::shared_ptr<SharedCopy>> copy(
      static_cast<std::shared_ptr<SharedCopy>*>(argument));
  (*copy)->work();
  return nullptr;
}

int usable_cpus() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

// A system without room for a thread copies with those that it has.
void start_helpers(const std::shared_ptr<SharedCopy>& copy, int count) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, kHelperStackBytes);
  sigset_t all;
  sigfillset(&all);
  pthread_attr_setsigmask_np(&attributes, &all);  // signals belong to the user's threads
  for (int i = 0; i < count; ++i) {
    auto argument = std::make_unique<std::shared_ptr<SharedCopy>>(copy);
    pthread_t thread;
    if (pthread_create(&thread, &attributes, helper_main, argument.get()) != 0) break;
    argument.release();
  }
  pthread_attr_destroy(&attributes);
}

}  // namespace

void copy_to_arena(void* dst, const void* src, size_t size) {
  auto* to = static_cast<std::byte*>(dst);
  auto* from = static_cast<const std::byte*>(src);
  if (size < kParallelCopyBytes) return copy_alone(to, from, size);
  static const int threads = std::min(usable_cpus(), kThreadsMax);
  std::shared_ptr<SharedCopy> copy(new SharedCopy{to, from, size});
  start_helpers(copy, threads - 1);
  copy->work();
  std::unique_lock lock(copy->mutex);
  copy->done.wait(lock, [&] { return copy->copied.load(std::memory_order_acquire) == size; });
}

}  // namespace sheaf::objstore
