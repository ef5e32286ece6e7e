// Numbers of checksum units: of so many bits, or modulo 8191.
#pragma once

#include <cstdint>

#include "kernel_structs.h"

namespace brownout {

constexpr int64_t kModulus = hw::RESIDUE_MODULUS;

inline int64_t wrap(int64_t value, int bits) {
    const int unused = 64 - bits;
    return static_cast<int64_t>(static_cast<uint64_t>(value) << unused) >> unused;
}

inline int64_t modulo(int64_t value) {
    const int64_t rest = value % kModulus;
    return rest < 0 ? rest + kModulus : rest;
}

/// A product of two residues modulo 8191, reduced as the hardware does it: 2^13 is 1.
inline int64_t multiply_residues(uint32_t left, uint32_t right) {
    const uint32_t product = left * right;
    const uint32_t folded = (product & kModulus) + (product >> hw::RESIDUE_BITS);
    return folded >= kModulus ? folded - kModulus : folded;
}

inline int64_t magnitude_of(int64_t value) { return value < 0 ? -value : value; }

/// Whether a number is plus or minus a power of two.
inline bool is_signed_power(int64_t value) {
    const int64_t magnitude = magnitude_of(value);
    return value != 0 && (magnitude & (magnitude - 1)) == 0;
}

inline bool large(int64_t value, int theta) {
    const uint64_t magnitude = value < 0 ? -static_cast<uint64_t>(value) : value;
    return value != 0 && magnitude >= uint64_t{1} << theta;
}

/// Weight of a column of a segment in a check.
inline int64_t weight(const Units &units, int check, int32_t position) {
    return units.weights[check * units.segment_cols + position];
}

inline bool is_residue(const Units &units, int check) { return units.moduli[check] != 0; }

}  // namespace brownout
