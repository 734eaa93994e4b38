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

}  // namespace snnfast
