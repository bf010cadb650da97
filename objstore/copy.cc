#include "objstore/copy.h"

#include <cstdint>
#include <cstring>

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

}  // namespace

void copy_to_arena(void* dst, const void* src, size_t size) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (size >= kStreamingCopyBytes && has_avx2) {
    stream_avx2(static_cast<std::byte*>(dst), static_cast<const std::byte*>(src), size);
    return;
  }
#endif
  std::memcpy(dst, src, size);
}

}  // namespace sheaf::objstore
