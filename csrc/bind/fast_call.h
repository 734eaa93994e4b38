// SPDX-License-Identifier: Apache-2.0
// Two calls without argument conversion, which costs more than a small network's hundred steps: one decision for a
// numpy observation, and one batch for a torch tensor. What is not the plain case goes the general way, in Python.
#pragma once

#include <Python.h>
#include <pybind11/numpy.h>

#include <cmath>
#include <cstdint>

#include "bind/dlpack.h"
#include "bind/run_plan.h"
#include "cpu/plan.h"

namespace snnfast {

// A decision takes one observation; outputs up to this many stay on the stack.
constexpr int64_t kMaxActions = 256;

struct FastCall {
  const Plan* plan;
  PyObject* owner;                   // keeps the plan alive
  PyObject* type;                    // numpy.ndarray or torch.Tensor: exactly this type is the plain case
  PyObject* float32;                 // of a decision: numpy's own description of that type
  PyObject* fallback;                // of a decision: Python function for every observation that is not the plain case
  const dlpack::Exchange* exchange;  // of a batch
};

constexpr const char* kFastCall = "snnfast.fast_call";

inline void free_fast_call(PyObject* capsule) {
  FastCall* call = static_cast<FastCall*>(PyCapsule_GetPointer(capsule, kFastCall));
  if (!call) return;
  Py_XDECREF(call->owner);
  Py_XDECREF(call->type);
  Py_XDECREF(call->float32);
  Py_XDECREF(call->fallback);
  delete call;
}

inline const FastCall* fast_call_of(PyObject* self) {
  return static_cast<FastCall*>(PyCapsule_GetPointer(self, kFastCall));
}

// A callable, or null with a Python error set.
inline PyObject* make_fast_call(PyMethodDef* method, const FastCall& call) {
  FastCall* state = new FastCall(call);
  Py_INCREF(state->owner);
  Py_INCREF(state->type);
  Py_XINCREF(state->float32);
  Py_XINCREF(state->fallback);
  PyObject* capsule = PyCapsule_New(state, kFastCall, free_fast_call);
  if (!capsule) return nullptr;
  PyObject* function = PyCFunction_NewEx(method, capsule, nullptr);
  Py_DECREF(capsule);  // the function holds it now
  return function;
}

enum class Outcome { done, not_plain, error };

// Run the plan on finite numbers; others are for the general way to refuse.
inline Outcome run_plain(const Plan& plan, const Request& request) {
  try {
    if (first_not_finite(request.observations, request.batch * plan.n_in()) >= 0) return Outcome::not_plain;
    const bool finished = run_interruptible(plan.work(request.batch),
                                            [&](const Interrupt& interrupt) { return plan.run(request, interrupt); });
    return finished ? Outcome::done : Outcome::error;
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
    return Outcome::error;
  }
}

// The largest output's index, the first one at a tie; -1 if one is not a number, which has no order here.
inline int64_t largest(const float* output, int64_t n) {
  int64_t best = 0;
  for (int64_t j = 0; j < n; ++j) {
    if (output[j] != output[j]) return -1;
    if (output[j] > output[best]) best = j;
  }
  return best;
}

inline Outcome decide(const Plan& plan, const float* observation, float* output) {
  Request request{};
  request.observations = observation;
  request.batch = 1;
  request.output = output;
  return run_plain(plan, request);
}

// By the buffer protocol: arrays with a description of their own, such as those that another process has sent.
inline Outcome decide_from_buffer(const Plan& plan, PyObject* array, float* output) {
  Py_buffer view;
  if (PyObject_GetBuffer(array, &view, PyBUF_ND | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    return Outcome::not_plain;
  }
  Outcome outcome = Outcome::not_plain;
  if (view.ndim == 1 && view.shape[0] == plan.n_in() && view.itemsize == sizeof(float) && view.format &&
      view.format[0] == 'f' && view.format[1] == 0) {
    outcome = decide(plan, static_cast<const float*>(view.buf), output);
  }
  PyBuffer_Release(&view);
  return outcome;
}

// The plain case of a decision: a contiguous float32 array of n_in finite numbers. The buffer protocol takes as long as
// a sixth of a tiny network's hundred steps, so most arrays are looked into.
inline PyObject* act(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
  namespace py = pybind11;
  const FastCall* call = fast_call_of(self);
  if (count == 1 && !names && reinterpret_cast<PyObject*>(Py_TYPE(arguments[0])) == call->type) {
    const Plan& plan = *call->plan;
    const auto array = py::reinterpret_borrow<py::array>(arguments[0]);
    Outcome outcome = Outcome::not_plain;
    float output[kMaxActions];
    if (array.dtype().ptr() != call->float32) {
      outcome = decide_from_buffer(plan, array.ptr(), output);
    } else if (constexpr int kPlain = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
               array.ndim() == 1 && array.shape(0) == plan.n_in() && (array.flags() & kPlain) == kPlain) {
      outcome = decide(plan, static_cast<const float*>(array.data()), output);
    }
    if (outcome == Outcome::error) return nullptr;
    const int64_t best = outcome == Outcome::done ? largest(output, plan.n_out()) : -1;
    if (best >= 0) return PyLong_FromLongLong(best);
  }
  return PyObject_Vectorcall(call->fallback, arguments, static_cast<size_t>(count), names);
}

inline PyObject* make_act(const Plan& plan, PyObject* owner, PyObject* fallback) {
  static PyMethodDef method = {
      "act", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(act)), METH_FASTCALL | METH_KEYWORDS,
      "act(observation, *, seed=0)\n--\n\nThe decision for one observation (n_in,): the index of the largest output, "
      "the first one at a tie."};
  const pybind11::object array = pybind11::module_::import("numpy").attr("ndarray");
  return make_fast_call(&method, {&plan, owner, array.ptr(), pybind11::dtype::of<float>().ptr(), fallback, nullptr});
}

inline bool says(PyObject* object, PyObject* name, PyObject* expected) {
  PyObject* answer = PyObject_GetAttr(object, name);
  Py_XDECREF(answer);
  return answer == expected;
}

// The plain case of a batch: a contiguous float32 tensor (B, n_in) of finite numbers on the CPU that needs no gradient
// and is not the negative view of another. Returns the output, or None if it is not the plain case.
inline PyObject* run_tensor(PyObject* self, PyObject* observations) {
  static PyObject* const requires_grad = PyUnicode_InternFromString("requires_grad");
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  const FastCall* call = fast_call_of(self);
  const Plan& plan = *call->plan;
  dlpack::Tensor x{};
  if (reinterpret_cast<PyObject*>(Py_TYPE(observations)) != call->type) Py_RETURN_NONE;
  if (!says(observations, requires_grad, Py_False) || call->exchange->view(observations, &x) != 0) {
    PyErr_Clear();
    Py_RETURN_NONE;
  }
  const bool plain =
      x.device.type == dlpack::kCpu && x.ndim == 2 && x.shape[1] == plan.n_in() && x.data &&
      x.dtype.code == dlpack::kFloat32.code && x.dtype.bits == dlpack::kFloat32.bits && x.dtype.lanes == 1 &&
      x.shape[0] > 0 &&
      (!x.strides || ((x.strides[1] == 1 || plan.n_in() == 1) && (x.strides[0] == plan.n_in() || x.shape[0] == 1)));
  if (!plain) Py_RETURN_NONE;
  PyObject* negative = PyObject_CallMethodNoArgs(observations, is_neg);
  Py_XDECREF(negative);
  if (negative != Py_False) {
    PyErr_Clear();
    Py_RETURN_NONE;
  }
  int64_t shape[2] = {x.shape[0], plan.n_out()};
  dlpack::Tensor prototype{nullptr, {dlpack::kCpu, 0}, 2, dlpack::kFloat32, shape, nullptr, 0};
  dlpack::ManagedTensor* output = nullptr;
  const auto set_error = [](void*, const char*, const char* message) { PyErr_SetString(PyExc_RuntimeError, message); };
  if (call->exchange->allocate(&prototype, &output, nullptr, set_error) != 0) return nullptr;
  Request request{};
  request.observations = reinterpret_cast<const float*>(static_cast<const char*>(x.data) + x.byte_offset);
  request.batch = shape[0];
  request.output = reinterpret_cast<float*>(static_cast<char*>(output->tensor.data) + output->tensor.byte_offset);
  const Outcome outcome = run_plain(plan, request);
  if (outcome != Outcome::done) {
    output->deleter(output);
    if (outcome == Outcome::error) return nullptr;
    Py_RETURN_NONE;
  }
  void* object = nullptr;
  if (call->exchange->to_object(output, &object) != 0) return nullptr;
  return static_cast<PyObject*>(object);
}

// Null without a Python error: the tensor type has no exchange interface.
inline PyObject* make_run_tensor(const Plan& plan, PyObject* owner, PyObject* tensor_type) {
  static PyMethodDef method = {"run", run_tensor, METH_O, "run(observations)\n--\n\nThe output, or None."};
  const dlpack::Exchange* exchange = dlpack::exchange_of(tensor_type);
  if (!exchange) return nullptr;
  return make_fast_call(&method, {&plan, owner, tensor_type, nullptr, nullptr, exchange});
}

}  // namespace snnfast
