// SPDX-License-Identifier: Apache-2.0
#include "cuda/device.h"
#include "cuda/platform.h"

namespace snnfast::cuda {
namespace {

// Compiled for what all kernels are compiled for.
__global__ void any_kernel() {}

void check(cudaError_t error, const char* what, int index) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next launch would be told of it
  throw std::runtime_error(std::string(what) + " CUDA device " + std::to_string(index) +
                           " failed: " + cudaGetErrorString(error));
}

int attribute(cudaDeviceAttr name, int index) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, index), "asking for the properties of", index);
  return value;
}

// Compute capability that the code was compiled for that the current device runs: 75 is 7.5. A device newer than all of
// a build's code runs older code.
int code_version(int index) {
  cudaFuncAttributes found{};
  check(cudaFuncGetAttributes(&found, any_kernel), "asking for the code that runs on", index);
  return found.ptxVersion;
}

}  // namespace

Versions versions() {
  Versions v{CUDART_VERSION, 0};
  if (cudaDriverGetVersion(&v.driver) != cudaSuccess) v.driver = 0;
  return v;
}

Device limits(int index) {
  return {attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index), attribute(cudaDevAttrMultiProcessorCount, index),
          code_version(index) >= 80};
}

}  // namespace snnfast::cuda
