// SPDX-License-Identifier: Apache-2.0
// Giving the interpreter's lock away and taking it again.
#pragma once

#include <Python.h>

#include <chrono>
#include <thread>

namespace snnfast {

// Takes the lock again. A thread that comes too late, as the interpreter is ending, gets none any more: before 3.14
// Python ends that thread, by unwinding it, which destructors answer by ending the whole process with an error. So it
// stays where it is, as from 3.14 on; the process ends without it. Not inlined: within a destructor, which may not be
// left by unwinding, the compiler need not stop by before it gives up.
__attribute__((noinline)) inline void take_lock(PyThreadState* state) {
  struct Stay {
    bool unwinding = true;
    ~Stay() {
      while (unwinding) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  } stay;
  PyEval_RestoreThread(state);
  stay.unwinding = false;
}

// Without the lock as long as it lives.
class Unlocked {
 public:
  Unlocked() = default;
  ~Unlocked() { take_lock(state_); }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 protected:
  PyThreadState* state_ = PyEval_SaveThread();
};

}  // namespace snnfast
