// SPDX-License-Identifier: Apache-2.0
// What the kernels need of CUDA, in one place. Compiled by a CUDA compiler it is CUDA; compiled by any other compiler
// it is an emulation (tests/cuda_host/emulation.h), so that the same kernels run under the host's sanitizers.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace snnfast::cuda {

struct Grid {
  int64_t x, y;
};

}  // namespace snnfast::cuda

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "emulation.h"
#endif

namespace snnfast::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;
// A kernel may have more shared memory than this only if it asks for it.
constexpr size_t kSharedWithoutAsking = 48 << 10;

#if defined(__CUDACC__)

template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ float4 snnfast_dynamic_shared[];
  return reinterpret_cast<T*>(snnfast_dynamic_shared);
}

// Adds to 16 times 8 sums the products of bytes, 16 rows of 32 inputs, with signed bytes, 32 inputs by 8 outputs, on
// the tensor cores. Which thread of the warp holds what: the PTX manual, "Matrix Fragments for mma.m16n8k32".
__device__ __forceinline__ void add_products(int32_t (&sums)[4], const uint32_t (&bytes)[4], uint32_t first,
                                             uint32_t second) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(bytes[0]), "r"(bytes[1]), "r"(bytes[2]), "r"(bytes[3]), "r"(first), "r"(second));
#else
  __trap();  // there is no such instruction; a Plan asks for it only where this is not the code that runs
#endif
}

// Launch a kernel and report at once what was wrong with the launch. Call it in the file that defines the kernel.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), Grid grid, int threads, size_t shared, void* stream,
            const A&... arguments) {
  const auto check = [&](cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // the runtime keeps it for the next one who asks: a launch that went well
    throw std::runtime_error("CUDA kernel " + std::string(name) + ": " + what +
                             " failed: " + cudaGetErrorString(error) + " (grid " + std::to_string(grid.x) + " x " +
                             std::to_string(grid.y) + ", " + std::to_string(threads) + " threads, " +
                             std::to_string(shared) + " bytes of shared memory)");
  };
  if (shared > kSharedWithoutAsking) {
    // It is the kernel's, not this launch's: if every launch asked for its own, a thread could lower what another one
    // has just asked for. No kernel that needs so much has static shared memory beside it.
    int device = 0, most = 0;
    check(cudaGetDevice(&device), "asking for the current device");
    check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "asking for its limits");
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), "asking for shared memory");
  }
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
  kernel<<<blocks, static_cast<unsigned>(threads), shared, static_cast<cudaStream_t>(stream)>>>(arguments...);
  check(cudaGetLastError(), "launching");
}

#endif

}  // namespace snnfast::cuda
