// SPDX-License-Identifier: Apache-2.0
// Two calls without argument conversion, which costs more than a small network's hundred steps: one decision, and one
// batch, for a numpy array or a torch tensor. What is not the plain case goes the general way, in Python.
#pragma once

#include <Python.h>
#include <pybind11/numpy.h>
#include <pybind11/typing.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <tuple>
#include <vector>

#include "bind/dlpack.h"
#include "bind/run_plan.h"
#include "cpu/plan.h"

namespace snnfast {

// A decision takes one observation; outputs up to this many stay on the stack.
constexpr int64_t kMaxActions = 256;

// What says that torch looks at operations: a function, and names in namespaces, each with the value that it has while
// nobody looks.
using Namespace = pybind11::typing::Dict<pybind11::str, pybind11::object>;
struct Watch {
  pybind11::object is_tracing;
  std::vector<std::tuple<Namespace, pybind11::str, pybind11::object>> quiet;
};

struct FastCall {
  const Plan* plan;
  PyObject* owner;                   // keeps the plan alive
  PyObject* array_type;              // numpy.ndarray: exactly this type is the plain case, and
  PyObject* float32;                 // numpy's own description of that type
  PyObject* fallback;                // of a decision: Python function for every observation that is not the plain case
  PyObject* tensor_type;             // torch.Tensor, exactly
  const dlpack::Exchange* exchange;  // null: tensors go the general way
  const Watch* watch;                // of a batch; see is_watched
};

constexpr const char* kFastCall = "snnfast.fast_call";

inline void free_fast_call(PyObject* capsule) {
  FastCall* call = static_cast<FastCall*>(PyCapsule_GetPointer(capsule, kFastCall));
  if (!call) return;
  Py_XDECREF(call->owner);
  Py_XDECREF(call->array_type);
  Py_XDECREF(call->float32);
  Py_XDECREF(call->fallback);
  Py_XDECREF(call->tensor_type);
  delete call->watch;
  delete call;
}

inline const FastCall* fast_call_of(PyObject* self) {
  return static_cast<FastCall*>(PyCapsule_GetPointer(self, kFastCall));
}

// A callable, or null with a Python error set.
inline PyObject* make_fast_call(PyMethodDef* method, const FastCall& call) {
  const pybind11::object array = pybind11::module_::import("numpy").attr("ndarray");
  FastCall* state = new FastCall(call);
  state->array_type = array.ptr();
  state->exchange = dlpack::exchange_of(state->tensor_type);
  state->float32 = pybind11::dtype::of<float>().ptr();
  Py_INCREF(state->owner);
  Py_INCREF(state->array_type);
  Py_INCREF(state->float32);
  Py_XINCREF(state->fallback);
  Py_INCREF(state->tensor_type);
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

// The numbers of an array, float32 or float64, in order and in place; null for other arrays. What must be converted, as
// most physics gives it, is `converted`. An array that another process has sent has a description of its own.
inline const float* numbers_of(const FastCall& call, const pybind11::array& array,
                               std::unique_ptr<float[]>& converted) {
  using Numpy = pybind11::detail::npy_api;
  constexpr int kPlain = pybind11::array::c_style | Numpy::NPY_ARRAY_ALIGNED_;
  if ((array.flags() & kPlain) != kPlain) return nullptr;
  const pybind11::dtype type = array.dtype();
  if (type.ptr() == call.float32) return static_cast<const float*>(array.data());
  if (type.byteorder() != '=') return nullptr;
  if (type.num() == Numpy::NPY_FLOAT_) return static_cast<const float*>(array.data());
  if (type.num() != Numpy::NPY_DOUBLE_) return nullptr;
  const auto* const numbers = static_cast<const double*>(array.data());
  converted.reset(new (std::nothrow) float[static_cast<size_t>(array.size())]);
  for (pybind11::ssize_t i = 0; converted && i < array.size(); ++i) converted[i] = static_cast<float>(numbers[i]);
  return converted.get();
}

inline bool says(PyObject* object, PyObject* name, PyObject* expected) {
  PyObject* answer = PyObject_GetAttr(object, name);
  Py_XDECREF(answer);
  return answer == expected;
}

// Whether torch looks at operations, and so must meet one. What cannot be told is left to the general way to find.
inline bool is_watched(const Watch& watch) {
  for (const auto& [names, name, quiet] : watch.quiet) {
    PyObject* value = PyDict_GetItemWithError(names.ptr(), name.ptr());
    if (!value || PyObject_RichCompareBool(value, quiet.ptr(), Py_EQ) != 1) {
      PyErr_Clear();
      return true;
    }
  }
  PyObject* answer = PyObject_CallNoArgs(watch.is_tracing.ptr());
  Py_XDECREF(answer);
  PyErr_Clear();
  return answer != Py_False;
}

// The numbers of a tensor (n_in,) or (B, n_in) that is exactly torch.Tensor: float32, in order, on the CPU, not empty;
// it needs no gradient and is not the negative view of another. Null for other tensors.
inline const float* numbers_of(const FastCall& call, PyObject* tensor, dlpack::Tensor& x) {
  static PyObject* const requires_grad = PyUnicode_InternFromString("requires_grad");
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  if (!call.exchange || !says(tensor, requires_grad, Py_False) || call.exchange->view(tensor, &x) != 0) {
    PyErr_Clear();
    return nullptr;
  }
  const int64_t n_in = call.plan->n_in();
  const bool numbers = x.device.type == dlpack::kCpu && x.data && x.dtype.code == dlpack::kFloat32.code &&
                       x.dtype.bits == dlpack::kFloat32.bits && x.dtype.lanes == 1;
  if (!numbers || x.ndim < 1 || x.ndim > 2 || x.shape[x.ndim - 1] != n_in || x.shape[0] <= 0) return nullptr;
  const bool rows = x.ndim == 1 || !x.strides || x.strides[0] == n_in || x.shape[0] == 1;
  if (!rows || (x.strides && x.strides[x.ndim - 1] != 1 && n_in != 1)) return nullptr;
  PyObject* negative = PyObject_CallMethodNoArgs(tensor, is_neg);
  Py_XDECREF(negative);
  if (negative != Py_False) {
    PyErr_Clear();
    return nullptr;
  }
  return reinterpret_cast<const float*>(static_cast<const char*>(x.data) + x.byte_offset);
}

// The plain case of a decision: a contiguous array of n_in finite numbers. The buffer protocol would take as
// long as a sixth of a tiny network's hundred steps, so arrays are looked into.
inline PyObject* act(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
  namespace py = pybind11;
  const FastCall* call = fast_call_of(self);
  if (count == 1 && !names) {
    PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(arguments[0]));
    const float* numbers = nullptr;
    std::unique_ptr<float[]> converted;
    if (type == call->array_type) {
      const auto array = py::reinterpret_borrow<py::array>(arguments[0]);
      if (array.ndim() == 1 && array.shape(0) == call->plan->n_in()) numbers = numbers_of(*call, array, converted);
    } else if (dlpack::Tensor x{}; type == call->tensor_type) {
      numbers = numbers_of(*call, arguments[0], x);
      if (x.ndim != 1) numbers = nullptr;
    }
    float output[kMaxActions];
    const Outcome outcome = numbers ? decide(*call->plan, numbers, output) : Outcome::not_plain;
    if (outcome == Outcome::error) return nullptr;
    const int64_t best = outcome == Outcome::done ? largest(output, call->plan->n_out()) : -1;
    if (best >= 0) return PyLong_FromLongLong(best);
  }
  return PyObject_Vectorcall(call->fallback, arguments, static_cast<size_t>(count), names);
}

inline PyObject* make_act(const Plan& plan, PyObject* owner, PyObject* fallback, PyObject* tensor_type) {
  static PyMethodDef method = {
      "act", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(act)), METH_FASTCALL | METH_KEYWORDS,
      "act(observation, *, seed=0)\n--\n\nThe decision for one observation (n_in,): the index of the largest output, "
      "the first one at a tie."};
  return make_fast_call(&method, {&plan, owner, nullptr, nullptr, fallback, tensor_type, nullptr, nullptr});
}

// The plain case of an array: contiguous, (B, n_in) or (n_in,), finite numbers. Returns the output, or None if it is
// not the plain case.
inline PyObject* run_array(const FastCall& call, PyObject* observations) {
  namespace py = pybind11;
  const Plan& plan = *call.plan;
  const auto array = py::reinterpret_borrow<py::array>(observations);
  const auto dimensions = array.ndim();
  if (dimensions < 1 || dimensions > 2 || array.shape(dimensions - 1) != plan.n_in() || array.shape(0) == 0) {
    Py_RETURN_NONE;
  }
  std::unique_ptr<float[]> converted;
  const float* const numbers = numbers_of(call, array, converted);
  if (!numbers) Py_RETURN_NONE;
  try {
    const py::ssize_t batch = dimensions == 2 ? array.shape(0) : 1, n_out = plan.n_out();
    py::array_t<float> output =
        dimensions == 2 ? py::array_t<float>({batch, n_out}) : py::array_t<float>(py::array::ShapeContainer{n_out});
    Request request{};
    request.observations = numbers;
    request.batch = batch;
    request.output = output.mutable_data();
    const Outcome outcome = run_plain(plan, request);
    if (outcome == Outcome::error) return nullptr;
    if (outcome == Outcome::done) return output.release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
    return nullptr;
  } catch (const std::bad_alloc&) {  // not even for the output's shape
    PyErr_NoMemory();
    return nullptr;
  }
  Py_RETURN_NONE;
}

// The plain case of a batch: an array or a tensor with numbers_of. Returns the output, or None if it is not the plain
// case.
inline PyObject* run_batch(PyObject* self, PyObject* observations) {
  const FastCall* call = fast_call_of(self);
  const Plan& plan = *call->plan;
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(observations));
  if (type == call->array_type) return run_array(*call, observations);
  if (type != call->tensor_type || is_watched(*call->watch)) Py_RETURN_NONE;
  dlpack::Tensor x{};
  const float* const numbers = numbers_of(*call, observations, x);
  if (!numbers) Py_RETURN_NONE;
  const int64_t batch = x.ndim == 2 ? x.shape[0] : 1;
  int64_t shape[2] = {batch, plan.n_out()};
  int64_t* const wanted = shape + (2 - x.ndim);
  dlpack::Tensor prototype{nullptr, {dlpack::kCpu, 0}, x.ndim, dlpack::kFloat32, wanted, nullptr, 0};
  dlpack::ManagedTensor* output = nullptr;
  const auto set_error = [](void*, const char*, const char* message) { PyErr_SetString(PyExc_RuntimeError, message); };
  if (call->exchange->allocate(&prototype, &output, nullptr, set_error) != 0) return nullptr;
  Request request{};
  request.observations = numbers;
  request.batch = batch;
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

inline PyObject* make_run_batch(const Plan& plan, PyObject* owner, PyObject* tensor_type,
                                std::unique_ptr<Watch> watch) {
  static PyMethodDef method = {"run", run_batch, METH_O, "run(observations)\n--\n\nThe output, or None."};
  return make_fast_call(&method, {&plan, owner, nullptr, nullptr, nullptr, tensor_type, nullptr, watch.release()});
}

}  // namespace snnfast
