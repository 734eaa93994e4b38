// SPDX-License-Identifier: Apache-2.0
// Spikes as bits become spikes as lists of ids. A group of threads takes one sample at one step, one word each. Lists
// are put together in shared memory where they fit: single ids scattered to the device's memory cost far more.
#include "cuda/inputs.h"

namespace snnfast::cuda {
namespace {

constexpr int kThreads = 128;

template <int G, bool Staged>
__global__ void __launch_bounds__(kThreads) compact_kernel(Compact a) {
  const int lane = static_cast<int>(threadIdx.x) % G;
  const int64_t wanted = int64_t{blockIdx.x} * (kThreads / G) + static_cast<int>(threadIdx.x) / G;
  const bool real = wanted < a.count;
  const int64_t row = real ? wanted : 0;  // the others keep step with their warp and write nothing
  const uint32_t* words = a.bits.words + row * a.bits.stride;
  uint16_t* const list = a.lists.ids + row * a.lists.capacity;
  uint16_t* ids = list;
  if constexpr (Staged) ids = dynamic_shared<uint16_t>() + static_cast<int>(threadIdx.x) / G * a.lists.capacity;
  int32_t listed = 0;
  for (int32_t begin = 0; begin < a.bits.stride; begin += G) {
    const int32_t at = begin + lane;
    uint32_t word = real && at < a.bits.stride ? words[at] : 0;
    const int32_t mine = __popc(word);
    int32_t upto = mine;  // ids of this thread and those before it
#pragma unroll
    for (int d = 1; d < G; d *= 2) {
      const int32_t before = __shfl_up_sync(kWholeWarp, upto, static_cast<unsigned>(d), G);
      if (lane >= d) upto += before;
    }
    uint16_t* to = ids + listed + upto - mine;
    while (word != 0) {
      *to++ = static_cast<uint16_t>(at * 32 + __ffs(static_cast<int>(word)) - 1);
      word &= word - 1;
    }
    listed += __shfl_sync(kWholeWarp, upto, G - 1, G);
  }
  const int32_t filled = (listed + 3) / 4 * 4;
  if (real && lane < filled - listed) ids[listed + lane] = static_cast<uint16_t>(a.lists.filler);
  if (real && lane == 0) a.lists.sizes[row] = filled;
  if constexpr (Staged) {
    __syncwarp();
    if (!real) return;
    for (int32_t i = lane; i < filled / 4; i += G) {
      reinterpret_cast<uint2*>(list)[i] = reinterpret_cast<const uint2*>(ids)[i];
    }
  }
}

template <int G>
void launch_compact(const Compact& a, void* stream) {
  const Grid grid{blocks_for(a.count, kThreads / G), 1};
  const size_t staged = sizeof(uint16_t) * static_cast<size_t>(kThreads / G) * static_cast<size_t>(a.lists.capacity);
  if (staged <= kSharedWithoutAsking) {
    launch("compact", compact_kernel<G, true>, grid, kThreads, staged, stream, a);
  } else {
    launch("compact", compact_kernel<G, false>, grid, kThreads, 0, stream, a);
  }
}

}  // namespace

void compact(const Compact& a, void* stream) {
  a.bits.stride <= 8 ? launch_compact<8>(a, stream) : launch_compact<32>(a, stream);
}

}  // namespace snnfast::cuda
