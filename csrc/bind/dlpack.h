// SPDX-License-Identifier: Apache-2.0
// The part of DLPack's C exchange interface (version 1) that we use: tensors of another library as pointer, shape and
// type, without a call into Python. Layout as in https://github.com/dmlc/dlpack, include/dlpack/dlpack.h (Apache-2.0).
#pragma once

#include <Python.h>

#include <cstdint>

namespace snnfast::dlpack {

struct Version {
  uint32_t major, minor;
};

struct Device {
  int32_t type, index;
};
constexpr int32_t kCpu = 1;

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
constexpr DataType kFloat32{2, 32, 1};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t *shape, *strides;  // strides in elements; null: contiguous
  uint64_t byte_offset;
};

struct ManagedTensor {
  Version version;
  void* context;
  void (*deleter)(ManagedTensor*);
  uint64_t flags;
  Tensor tensor;
};

using SetError = void (*)(void* context, const char* kind, const char* message);

struct Exchange {
  Version version;
  Exchange* previous;
  int (*allocate)(Tensor* prototype, ManagedTensor** out, void* error_context, SetError set_error);
  int (*from_object)(void* object, ManagedTensor** out);
  int (*to_object)(ManagedTensor* tensor, void** object);  // takes the tensor
  int (*view)(void* object, Tensor* out);                  // the object keeps its memory
  int (*current_stream)(int32_t device_type, int32_t device, void** stream);
};

// The interface of a tensor type, or null where it has none of a version that we know. Never leaves a Python error.
inline const Exchange* exchange_of(PyObject* type) {
  PyObject* capsule = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
  const Exchange* exchange = nullptr;
  if (capsule && PyCapsule_IsValid(capsule, "dlpack_exchange_api")) {
    exchange = static_cast<const Exchange*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    if (exchange->version.major != 1 || !exchange->allocate || !exchange->to_object || !exchange->view) {
      exchange = nullptr;
    }
  }
  Py_XDECREF(capsule);
  PyErr_Clear();
  return exchange;
}

}  // namespace snnfast::dlpack
