// SPDX-License-Identifier: Apache-2.0
// Scratch memory: hands out aligned pieces of one buffer. With a null base it only counts how much is needed.
#pragma once

#include <cstdint>

namespace snnfast {
namespace {

struct Arena {
  char* base;
  int64_t used = 0;
  template <class T>
  T* take(int64_t count) {
    T* p = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return p;
  }
};

}  // namespace
}  // namespace snnfast
