// SPDX-License-Identifier: Apache-2.0
// The exact contract needs denormals and rounding to nearest, whatever mode the calling thread is in: a program may
// have asked for flush-to-zero (torch.set_flush_denormal), and threads inherit the mode of the one that started them.
#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace snnfast {

// The processor's register of that mode, and its bits: flush to zero, rounding, and where there is such a thing
// denormals are zero.
#if defined(__SSE__)
constexpr uint64_t kOtherModes = 0xE040;
inline uint64_t float_mode() { return _mm_getcsr(); }
inline void set_float_mode(uint64_t mode) { _mm_setcsr(static_cast<unsigned>(mode)); }
#elif defined(__aarch64__)
constexpr uint64_t kOtherModes = 0x1C00000;
inline uint64_t float_mode() {
  uint64_t mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
inline void set_float_mode(uint64_t mode) { asm volatile("msr fpcr, %0" ::"r"(mode) : "memory"); }
#else
constexpr uint64_t kOtherModes = 0;
inline uint64_t float_mode() { return 0; }
inline void set_float_mode(uint64_t) {}
#endif

class StandardFloatMode {
 public:
  StandardFloatMode() : before_(float_mode()) {
    if (before_ & kOtherModes) set_float_mode(before_ & ~kOtherModes);
  }
  ~StandardFloatMode() {
    if (before_ & kOtherModes) set_float_mode(before_);
  }
  StandardFloatMode(const StandardFloatMode&) = delete;
  StandardFloatMode& operator=(const StandardFloatMode&) = delete;

 private:
  const uint64_t before_;
};

// The mode as it was, once this object's life ends: around calls that may change it, such as a signal handler's.
class KeptFloatMode {
 public:
  KeptFloatMode() : before_(float_mode()) {}
  ~KeptFloatMode() { set_float_mode(before_); }
  KeptFloatMode(const KeptFloatMode&) = delete;
  KeptFloatMode& operator=(const KeptFloatMode&) = delete;

 private:
  const uint64_t before_;
};

}  // namespace snnfast
