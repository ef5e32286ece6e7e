// The hash behind all random draws; docs/protection.md has the definition.
#pragma once

#include <cstdint>

#include "brownout_hw.h"

namespace brownout {

/// `mix` without its last step, which changes the lower half only.
template <typename T>
inline T mix_but_last(T x) {
    x ^= x >> 16;
    x *= hw::MIX_FACTOR_0;
    x ^= x >> 15;
    x *= hw::MIX_FACTOR_1;
    return x;
}

/// 32 bits to 32 bits; `T` is uint32_t or a vector of them.
template <typename T>
inline T mix(T x) {
    x = mix_but_last(x);
    x ^= x >> 16;
    return x;
}

/// The second number of a draw.
inline uint32_t pick(uint32_t draw) { return mix<uint32_t>(draw ^ hw::PICK_KEY); }

/// Bit that an error inverts: how many of BIT_THRESHOLDS increasing thresholds are not above `value`.
inline int error_bit(uint32_t value, const uint32_t *thresholds) {
    int bit = 0;
    for (unsigned i = 0; i < hw::BIT_THRESHOLDS; ++i) bit += thresholds[i] <= value;
    return bit;
}

}  // namespace brownout
