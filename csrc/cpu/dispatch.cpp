// SPDX-License-Identifier: Apache-2.0
#include "cpu/dispatch.h"

#include <atomic>
#include <stdexcept>

namespace snnfast {
namespace {

struct Entry {
  const Kernels* kernels;
  bool (*supported)();
};

bool always() { return true; }

#if defined(SNNFAST_X86)
// The compiler's test asks the processor and also whether the operating system saves the wide registers (XCR0).
bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("popcnt");
}
bool has_avx512() {
  __builtin_cpu_init();
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

// In order of preference.
const Entry kEntries[] = {
#if defined(SNNFAST_X86)
    {&kernels_avx512, has_avx512},
    {&kernels_avx2, has_avx2},
#endif
    {&kernels_baseline, always},
};

std::atomic<const Kernels*> g_default{nullptr};

}  // namespace

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> list;
  for (const Entry& entry : kEntries) {
    if (entry.supported()) list.push_back(entry.kernels);
  }
  return list;
}

const Kernels& kernels_for(const std::string& name) {
  std::string known, usable;
  for (const Entry& entry : kEntries) {
    const bool supported = entry.supported();
    if (name == entry.kernels->isa && supported) return *entry.kernels;
    known = std::string(entry.kernels->isa) + (known.empty() ? "" : ", ") + known;
    if (supported) usable = std::string(entry.kernels->isa) + (usable.empty() ? "" : ", ") + usable;
  }
  throw std::invalid_argument("the instruction set must be one of " + known + ", of which this machine supports " +
                              usable + "; got '" + name + "'");
}

const Kernels& default_kernels() {
  const Kernels* kernels = g_default.load();
  if (!kernels) {
    kernels = supported_kernels().front();
    g_default.store(kernels);
  }
  return *kernels;
}

void cap_isa(const std::string& name) { g_default.store(&kernels_for(name)); }

}  // namespace snnfast
