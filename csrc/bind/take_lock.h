// SPDX-License-Identifier: Apache-2.0
// Giving the interpreter's lock away and taking it again.
#pragma once

#include <Python.h>

#include <chrono>
#include <thread>

namespace snnfast {

// Takes the lock again. A thread that comes too late, as the interpreter is ending, gets none any more: Python would
// unwind it, to which C++ answers by ending the whole process with an error. So it stays where it is, as from Python
// 3.14 on; the process ends without it.
inline void take_lock(PyThreadState* state) {
#if PY_VERSION_HEX >= 0x030D0000
  constexpr auto ending = Py_IsFinalizing;
#else
  constexpr auto ending = _Py_IsFinalizing;
#endif
  while (ending()) std::this_thread::sleep_for(std::chrono::hours(1));
  PyEval_RestoreThread(state);
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
