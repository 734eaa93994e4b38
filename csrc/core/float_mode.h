// SPDX-License-Identifier: Apache-2.0
// The exact contract needs denormals and rounding to nearest, whatever mode the calling thread is in: a program may
// have asked for flush-to-zero (torch.set_flush_denormal), and threads inherit the mode of the one that started them.
#pragma once

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace snnfast {

class StandardFloatMode {
 public:
#if defined(__SSE__)
  StandardFloatMode() : before_(_mm_getcsr()) {
    if (before_ & kModes) _mm_setcsr(before_ & ~kModes);
  }
  ~StandardFloatMode() {
    if (before_ & kModes) _mm_setcsr(before_);
  }

 private:
  static constexpr unsigned kModes = 0xE040;  // flush to zero, rounding control, denormals are zero
  unsigned before_;
#else
  StandardFloatMode() {}
#endif

  StandardFloatMode(const StandardFloatMode&) = delete;
  StandardFloatMode& operator=(const StandardFloatMode&) = delete;
};

// The mode as it was, once this object's life ends: around calls that may change it, such as a signal handler's.
class KeptFloatMode {
 public:
#if defined(__SSE__)
  KeptFloatMode() : before_(_mm_getcsr()) {}
  ~KeptFloatMode() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#else
  KeptFloatMode() {}
#endif

  KeptFloatMode(const KeptFloatMode&) = delete;
  KeptFloatMode& operator=(const KeptFloatMode&) = delete;
};

}  // namespace snnfast
