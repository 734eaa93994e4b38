// SPDX-License-Identifier: Apache-2.0
// Running a plan from Python: long work runs without the interpreter's lock and looks for Ctrl-C on the way.
#pragma once

#include <Python.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>

#include "bind/take_lock.h"
#include "core/float_mode.h"
#include "cpu/plan.h"

namespace snnfast {

// Work (see Plan::work) from which on other Python threads may run meanwhile, and signals are looked at: some 15 to 50
// us. To give the lock away and take it again costs half a microsecond and more.
constexpr double kReleaseWork = 4e5;
constexpr auto kSignalInterval = std::chrono::milliseconds(20);

constexpr Interrupt kNoInterrupt{[](void*) { return false; }, nullptr};

// Releases the interpreter's lock as long as it lives, and looks for signals, every 20 ms if it is asked so often, on
// the thread that called.
class ReleasedLock : Unlocked {
 public:
  Interrupt interrupt() { return {poll, this}; }
  bool raised() const { return raised_; }

 private:
  static bool poll(void* context) {
    ReleasedLock& lock = *static_cast<ReleasedLock*>(context);
    if (lock.raised_) return true;
    const auto now = std::chrono::steady_clock::now();
    if (now < lock.next_) return false;
    if (lock.next_ != Time()) {
      const KeptFloatMode kept;
      take_lock(lock.state_);
      lock.raised_ = PyErr_CheckSignals() != 0;
      lock.state_ = PyEval_SaveThread();
    }
    lock.next_ = std::chrono::steady_clock::now() + kSignalInterval;
    return lock.raised_;
  }

  using Time = std::chrono::steady_clock::time_point;
  Time next_;  // begins to count when first asked: most calls are over before
  bool raised_ = false;
};

// Call `f(interrupt)`, which returns false if it was interrupted. False: it was, and the Python error is set. What `f`
// throws goes through, with the lock held again.
template <class F>
bool run_interruptible(double work, F&& f) {
  if (work < kReleaseWork) {
    f(kNoInterrupt);
    return true;
  }
  ReleasedLock lock;
  const bool finished = f(lock.interrupt());
  return finished && !lock.raised();
}

// Where `x` first is not finite, or -1. On the bits, without branches, so that the compiler can vectorise it.
inline int64_t first_not_finite(const float* x, int64_t n) {
  constexpr uint32_t kExponent = 0x7F800000;
  uint32_t found = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    found |= static_cast<uint32_t>((bits & kExponent) == kExponent);
  }
  for (int64_t i = 0; found && i < n; ++i) {
    if (!std::isfinite(x[i])) return i;
  }
  return -1;  // or another thread has written over it meanwhile
}

}  // namespace snnfast
