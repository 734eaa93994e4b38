// SPDX-License-Identifier: Apache-2.0
#include "cpu/dispatch.h"

#include <atomic>
#include <stdexcept>

#if defined(SNNFAST_X86)
#include <cpuid.h>
#endif
#if defined(SNNFAST_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("popcnt");
}
bool has_avx512() {
  __builtin_cpu_init();
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2");
}
// The tiles are large, so Linux hands them out on request only; it refuses where it does not save them.
bool has_amx() {
#if defined(__linux__)
  constexpr unsigned kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;  // leaf 7, EDX
  constexpr long kRequestPermission = 0x1023, kTileData = 18;   // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if (!(d & kAmxTile) || !(d & kAmxInt8)) return false;
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}
#endif

// In order of preference.
const Entry kEntries[] = {
#if defined(SNNFAST_X86)
    {&kernels_amx, has_amx},
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

const Kernels& kernels_with_slices() {
  const Kernels& kernels = default_kernels();
  return kernels.slices ? kernels : kernels_baseline;
}

bool packs_bytes() {
#if defined(SNNFAST_X86)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512vbmi2");
#else
  return false;
#endif
}

bool turns_bits() {
#if defined(SNNFAST_X86)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni");
#else
  return false;
#endif
}

bool slow_broadcasts() {
#if defined(SNNFAST_X86)
  __builtin_cpu_init();
  return __builtin_cpu_is("amdfam19h");
#else
  return false;
#endif
}

void cap_isa(const std::string& name) { g_default.store(&kernels_for(name)); }

}  // namespace snnfast
