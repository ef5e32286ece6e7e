// Vectors of 16 words, in GCC's portable notation: the compiler maps them onto whatever the machine has.
#pragma once

#include <cstdint>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace brownout {

constexpr int kLanes = 16;

typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef int32_t UnalignedInts __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint32_t UnalignedWords __attribute__((vector_size(4 * kLanes), aligned(4)));

inline Words load_words(const uint32_t *from) { return *reinterpret_cast<const UnalignedWords *>(from); }
inline Ints load_ints(const int32_t *from) { return *reinterpret_cast<const UnalignedInts *>(from); }
inline void store_ints(int32_t *to, Ints value) { *reinterpret_cast<UnalignedInts *>(to) = value; }

/// One bit for each lane in which `a` < `b`.
inline uint32_t lanes_less(Words a, Words b) {
#ifdef __AVX512F__
    return _mm512_cmplt_epu32_mask((__m512i)a, (__m512i)b);
#else
    const Ints less = a < b;
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= (less[i] & 1u) << i;
    return bits;
#endif
}

/// One bit for each lane in which `a` and `b` have no common one.
inline uint32_t lanes_disjoint(Ints a, Ints b) {
#ifdef __AVX512F__
    return _mm512_testn_epi32_mask((__m512i)a, (__m512i)b);
#else
    const Ints none = (a & b) == 0;
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= (none[i] & 1u) << i;
    return bits;
#endif
}

}  // namespace brownout
