// The hash behind all random draws; docs/protection.md has the definition.
#pragma once

#include <cstdint>

namespace brownout {

/// `mix` without its last step, which changes the lower half only.
template <typename T>
inline T mix_but_last(T x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
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
inline uint32_t pick(uint32_t draw) { return mix<uint32_t>(draw ^ 0x27d4eb2fu); }

/// Bit that an error inverts: how many of 30 increasing thresholds are not above `value`.
inline int error_bit(uint32_t value, const uint32_t *thresholds) {
    int bit = 0;
    for (int i = 0; i < 30; ++i) bit += thresholds[i] <= value;
    return bit;
}

}  // namespace brownout
