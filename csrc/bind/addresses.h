// SPDX-License-Identifier: Apache-2.0
// Tensors cross from Python as addresses.
#pragma once

#include <cstdint>
#include <vector>

namespace snnfast {

template <class T>
T* pointer(uint64_t address) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

template <class T>
std::vector<T*> pointers(const std::vector<uint64_t>& addresses) {
  std::vector<T*> list;
  for (uint64_t a : addresses) list.push_back(pointer<T>(a));
  return list;
}

}  // namespace snnfast
