// SPDX-License-Identifier: Apache-2.0
// CUDA's runtime keeps an error until somebody asks for it. Whoever was told of one must not be told again by the next
// launch, which went well: a program that makes room after "out of memory" tries again. Needs no device: what could
// fail does so here when asked to.
#include <cstdio>

#include "cuda/device.h"
#include "cuda/platform.h"

namespace {

bool failing = false;
cudaError_t kept = cudaSuccess;

cudaError_t answer() { return failing ? kept = cudaErrorMemoryAllocation : cudaSuccess; }

__global__ void nothing() {}

// What it is told, or "".
template <class F>
std::string told(F&& f) {
  try {
    f();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

// The linker puts these in the place of the runtime's: --wrap.
extern "C" {
cudaError_t __wrap_cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t __wrap_cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 1 << 20;
  return cudaSuccess;
}
cudaError_t __wrap_cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return answer(); }
cudaError_t __wrap_cudaFuncGetAttributes(cudaFuncAttributes*, const void*) { return answer(); }
cudaError_t __wrap_cudaGetLastError() {
  const cudaError_t error = kept;
  kept = cudaSuccess;
  return error;
}
}

int main() {
  const auto launch = [](size_t shared) {
    return [=] { snnfast::cuda::launch("nothing", nothing, {1, 1}, 32, shared, nullptr); };
  };
  const auto limits = [] { snnfast::cuda::limits(0); };
  int wrong = 0;
  const auto check = [&](const char* what, auto&& fails) {
    failing = true;
    const std::string first = told(fails);
    failing = false;
    const std::string then = told(launch(0));
    std::printf("%s: told \"%s\", then \"%s\"\n", what, first.c_str(), then.c_str());
    wrong += first.empty() || !then.empty();
  };
  check("launch", launch(60 << 10));
  check("limits", limits);
  return wrong;
}
