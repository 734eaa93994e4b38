// SPDX-License-Identifier: Apache-2.0
// The copies of a vector of neurons: see copies_step of core/neuron.h.
#pragma once

#include "core/neuron.h"
#include "cpu/code_view.h"
#include "cpu/simd.h"

namespace snnfast {
namespace {

template <bool value_>
struct Known {
  static constexpr bool value = value_;
};

struct CopiesOf {
  const CodeView& code;
  EvenLevels<Vec> levels;

  SNNFAST_INLINE explicit CopiesOf(const CodeView& of)
      : code(of),
        levels{broadcast(static_cast<float>(of.copies)), broadcast(of.even_level > 0.0f ? 1.0f / of.even_level : 0.0f),
               broadcast(-of.even_level)} {}

  SNNFAST_INLINE bool even() const { return code.even_level > 0.0f; }

  // Call f(even) with whether the levels are, as a compile-time constant.
  template <class F>
  SNNFAST_INLINE void with_levels(F&& f) const {
    if (even()) {
      f(Known<true>{});
    } else {
      f(Known<false>{});
    }
  }

  // `net` is Signed's.
  template <bool Signed, bool Even>
  SNNFAST_INLINE Vec step(Vec& mem, Vec& net, Vec h) const {
    const Vec zero = broadcast(0.0f);
    if constexpr (Even) {
      return even_copies_step<Signed>(mem, net, h, levels, zero);
    } else {
      const auto level = [&](int i) SNNFAST_ALWAYS { return broadcast(code.levels[i]); };
      return copies_step<Signed>(mem, net, h, code.copies, level, zero, broadcast(1.0f));
    }
  }
};

}  // namespace
}  // namespace snnfast
