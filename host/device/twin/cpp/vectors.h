// Vectors of words, in GCC's portable notation: the compiler maps them onto whatever the machine has.
#pragma once

#include <cstdint>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace brownout {

constexpr int kLanes = 16;

typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef int32_t UnalignedInts __attribute__((vector_size(4 * kLanes), aligned(4)));

inline Ints load_ints(const int32_t *from) { return *reinterpret_cast<const UnalignedInts *>(from); }
inline void store_ints(int32_t *to, Ints value) { *reinterpret_cast<UnalignedInts *>(to) = value; }

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

/// As many words as a register of the machine holds: where that is fewer than 16, long loops are faster so.
typedef uint32_t NativeWords __attribute__((vector_size(__BIGGEST_ALIGNMENT__)));

constexpr int kNativeLanes = sizeof(NativeWords) / sizeof(uint32_t);

/// One bit for each lane in which `a` < `b`.
inline uint32_t lanes_less(NativeWords a, NativeWords b) {
#if defined(__AVX512F__)
    return _mm512_cmplt_epu32_mask((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)(a < b));
#else
    uint32_t bits = 0;
    for (int i = 0; i < kNativeLanes; ++i) bits |= (a[i] < b[i]) << i;
    return bits;
#endif
}

}  // namespace brownout
