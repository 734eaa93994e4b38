// SPDX-License-Identifier: Apache-2.0
#include "cuda/device.h"
#include "cuda/platform.h"

namespace snnfast::cuda {
namespace {

// Whether there is code of slices.cu for devices of compute capability 8.0 and newer.
#if defined(SNNFAST_TENSOR_CODE)
constexpr bool kTensorCode = true;
#else
constexpr bool kTensorCode = false;
#endif

void check(cudaError_t error, const char* what, int index) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + " CUDA device " + std::to_string(index) +
                           " failed: " + cudaGetErrorString(error));
}

int attribute(cudaDeviceAttr name, int index) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, index), "asking for the properties of", index);
  return value;
}

}  // namespace

Versions versions() {
  Versions v{CUDART_VERSION, 0};
  if (cudaDriverGetVersion(&v.driver) != cudaSuccess) v.driver = 0;
  return v;
}

Device limits(int index) {
  return {attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index), attribute(cudaDevAttrMultiProcessorCount, index),
          kTensorCode && attribute(cudaDevAttrComputeCapabilityMajor, index) >= 8};
}

}  // namespace snnfast::cuda
