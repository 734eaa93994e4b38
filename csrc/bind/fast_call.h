// SPDX-License-Identifier: Apache-2.0
// Two calls without pybind11's argument conversion, which costs more than a small network's hundred steps: one batch
// by addresses, and one decision for one observation.
#pragma once

#include <Python.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/plan.h"

namespace snnfast {

// Where `x` first is not finite, or -1. On the bits, without branches, so that the compiler can vectorise it.
inline int64_t first_not_finite(const float* x, int64_t n) {
  constexpr uint32_t kExponent = 0x7F800000;
  uint32_t found = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    found |= static_cast<uint32_t>((bits & kExponent) == kExponent);
  }
  if (!found) return -1;
  int64_t i = 0;
  while (std::isfinite(x[i])) ++i;
  return i;
}

// A decision takes one observation; outputs up to this many stay on the stack.
constexpr int64_t kMaxActions = 256;

struct ActState {
  const Plan* plan;
  PyObject* owner;     // keeps the plan alive
  PyObject* array;     // the type numpy.ndarray
  PyObject* fallback;  // Python function for every observation that is not the plain case
};

constexpr const char* kActCapsule = "snnfast.act";

inline void free_act_state(PyObject* capsule) {
  ActState* state = static_cast<ActState*>(PyCapsule_GetPointer(capsule, kActCapsule));
  if (!state) return;
  Py_XDECREF(state->owner);
  Py_XDECREF(state->array);
  Py_XDECREF(state->fallback);
  delete state;
}

// The plain case: a contiguous float32 array of n_in finite numbers, and a network so small that the call ends at once.
inline PyObject* act(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
  const ActState* state = static_cast<ActState*>(PyCapsule_GetPointer(self, kActCapsule));
  if (count == 1 && !names && reinterpret_cast<PyObject*>(Py_TYPE(arguments[0])) == state->array) {
    Py_buffer view;
    if (PyObject_GetBuffer(arguments[0], &view, PyBUF_ND | PyBUF_FORMAT) == 0) {
      const Plan& plan = *state->plan;
      const bool plain = view.ndim == 1 && view.shape[0] == plan.n_in() && view.itemsize == sizeof(float) &&
                         view.format && view.format[0] == 'f' && view.format[1] == 0 &&
                         first_not_finite(static_cast<const float*>(view.buf), plan.n_in()) < 0;
      if (plain) {
        float output[kMaxActions];
        Request request{};
        request.observations = static_cast<const float*>(view.buf);
        request.batch = 1;
        request.output = output;
        bool done = true;
        try {
          plan.run(request, {[](void*) { return false; }, nullptr});
        } catch (const std::bad_alloc&) {
          done = false;
        }
        PyBuffer_Release(&view);
        if (!done) return PyErr_NoMemory();
        // What is not a number has no order here; the general way decides as torch does.
        int64_t best = output[0] == output[0] ? 0 : -1;
        for (int64_t j = 1; j < plan.n_out() && best >= 0; ++j) {
          if (output[j] != output[j])
            best = -1;
          else if (output[j] > output[best])
            best = j;
        }
        if (best >= 0) return PyLong_FromLongLong(best);
      } else {
        PyBuffer_Release(&view);
      }
    } else {
      PyErr_Clear();
    }
  }
  return PyObject_Vectorcall(state->fallback, arguments, static_cast<size_t>(count), names);
}

// A callable for one plan, or null with a Python error set. `owner` is the Python object that keeps the plan alive.
inline PyObject* make_act(const Plan& plan, PyObject* owner, PyObject* array, PyObject* fallback) {
  static PyMethodDef method = {
      "act", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(act)), METH_FASTCALL | METH_KEYWORDS,
      "act(observation, *, seed=0)\n--\n\nThe decision for one observation (n_in,): the index of the largest output, "
      "the first one at a tie."};
  ActState* state = new ActState{&plan, Py_NewRef(owner), Py_NewRef(array), Py_NewRef(fallback)};
  PyObject* capsule = PyCapsule_New(state, kActCapsule, free_act_state);
  if (!capsule) return nullptr;
  PyObject* function = PyCFunction_NewEx(&method, capsule, nullptr);
  Py_DECREF(capsule);  // the function holds it now
  return function;
}

}  // namespace snnfast
