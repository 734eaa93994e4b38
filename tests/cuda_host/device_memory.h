// SPDX-License-Identifier: Apache-2.0
// Memory of the device for tests: of CUDA, or of the host where the device is emulated. Every array is an allocation of
// its own and of its exact size, so that a memory checker sees the first access beyond it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#if defined(SNNFAST_ON_DEVICE)
#include <cuda_runtime_api.h>
#endif

inline void* allocate_on_device(size_t bytes) {
  void* p = nullptr;
#if defined(SNNFAST_ON_DEVICE)
  if (cudaMalloc(&p, bytes) != cudaSuccess) throw std::runtime_error("cudaMalloc failed");
#else
  p = std::malloc(bytes);
#endif
  return p;
}

inline void free_on_device(void* p) {
#if defined(SNNFAST_ON_DEVICE)
  cudaFree(p);
#else
  std::free(p);
#endif
}

inline void copy_bytes(void* to, const void* from, size_t bytes) {
#if defined(SNNFAST_ON_DEVICE)
  // Waits for everything queued before it, and reports what went wrong there.
  const cudaError_t error = cudaMemcpy(to, from, bytes, cudaMemcpyDefault);
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
#else
  if (bytes) std::memcpy(to, from, bytes);
#endif
}

// Not initialised: a kernel that reads what nobody wrote is found by a checker.
class DeviceBytes {
 public:
  explicit DeviceBytes(int64_t bytes)
      : memory_(allocate_on_device(static_cast<size_t>(bytes > 0 ? bytes : 1)), free_on_device) {}
  void* data() const { return memory_.get(); }

 private:
  std::shared_ptr<void> memory_;
};

class DeviceArray {
 public:
  DeviceArray() : DeviceArray(std::vector<float>()) {}
  explicit DeviceArray(const std::vector<float>& from)
      : bytes_(static_cast<int64_t>(from.size() * sizeof(float))), size_(from.size()) {
    copy_bytes(bytes_.data(), from.data(), size_ * sizeof(float));
  }
  float* data() const { return static_cast<float*>(bytes_.data()); }
  size_t size() const { return size_; }
  std::vector<float> copy() const {
    std::vector<float> to(size_);
    copy_bytes(to.data(), data(), size_ * sizeof(float));
    return to;
  }

 private:
  DeviceBytes bytes_;
  size_t size_;
};
