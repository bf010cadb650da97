// What a thread does between two looks at a word that another core is about to write.
#pragma once

namespace sheaf {

inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace sheaf
