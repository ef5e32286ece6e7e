// Between float32 tensors and the integers of the accelerator, each in one pass over memory.
//
// Built without contraction of products and sums, and with the same vectors for whole and cut rows: an element gets the
// same bits whatever tensor it is part of.

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "parallel.h"
#include "vectors.h"

using namespace brownout;

namespace {

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef float UnalignedFloats __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef int8_t Bytes __attribute__((vector_size(kLanes)));
typedef int8_t UnalignedBytes __attribute__((vector_size(kLanes), aligned(1)));
typedef int16_t UnalignedHalves __attribute__((vector_size(2 * kLanes), aligned(2)));

/// Adding it leaves no bit below one in the significand: that rounds, half to even, and the low bits are the integer.
constexpr float kRound = 12582912.0f;

inline Floats splat(float value) { return value - Floats{}; }
inline Floats load_floats(const float *from) { return *reinterpret_cast<const UnalignedFloats *>(from); }
inline void store_floats(float *to, Floats value) { *reinterpret_cast<UnalignedFloats *>(to) = value; }
inline void store_bytes(int8_t *to, Bytes value) { *reinterpret_cast<UnalignedBytes *>(to) = value; }

inline Bytes low_bytes(Floats rounded) {
#ifdef __AVX512F__
    return (Bytes)_mm512_cvtepi32_epi8((__m512i)rounded);
#else
    return __builtin_convertvector((Ints)rounded, Bytes);
#endif
}

/// Of NaN and a number, the number.
inline Floats smaller(Floats a, float b) {
#ifdef __AVX512F__
    return (Floats)_mm512_min_ps((__m512)a, (__m512)splat(b));
#else
    return a < b ? a : splat(b);
#endif
}

inline Floats larger(Floats a, float b) {
#ifdef __AVX512F__
    return (Floats)_mm512_max_ps((__m512)a, (__m512)splat(b));
#else
    return a > b ? a : splat(b);
#endif
}

/// Magnitudes of floats, as integers of the same order; NaN is the largest.
inline Ints magnitude(Floats x) { return (Ints)x & 0x7fffffff; }

inline Ints larger(Ints a, Ints b) {
#ifdef __AVX512F__
    return (Ints)_mm512_max_epi32((__m512i)a, (__m512i)b);
#else
    return a > b ? a : b;
#endif
}

/// Bits of 128 and of infinity.
constexpr int32_t kSaturated = 0x43000000, kInfinity = 0x7f800000;

/// What a piece has met, lane by lane: how many inputs saturated, beyond -128.5..127.5, NaN among them, and the largest
/// magnitude of all plus a half.
struct Met {
    Ints saturated{}, largest{};

    void see(Floats y) {
        const Ints size = magnitude(y + 0.5f);
        largest = larger(largest, size);
#ifdef __AVX512F__
        const __mmask16 beyond = _mm512_cmpgt_epi32_mask((__m512i)size, _mm512_set1_epi32(kSaturated));
        saturated = (Ints)_mm512_mask_add_epi32((__m512i)saturated, beyond, (__m512i)saturated, _mm512_set1_epi32(1));
#else
        saturated -= size > kSaturated;
#endif
    }

    void add_to(int64_t *met) const {
        int64_t count = 0;
        bool infinite = false;
        for (int lane = 0; lane < kLanes; ++lane) {
            count += saturated[lane];
            infinite |= largest[lane] >= kInfinity;
        }
        if (count) __atomic_fetch_add(met, count, __ATOMIC_RELAXED);
        if (infinite) __atomic_store_n(met + 1, 1, __ATOMIC_RELAXED);
    }
};

/// int8 of inputs times a multiplier.
inline Bytes quantise(Floats x, Floats multiplier, Met &met) {
    const Floats y = x * multiplier;
    met.see(y);
    return low_bytes(larger(smaller(y, 127.0f), -128.0f) + kRound);
}

/// e^x for x <= 0, to 2 units in the last place; e^-80 below -80.
inline Floats exponential(Floats x) {
    x = x < -80.0f ? splat(-80.0f) : x;
    const Floats n = (x * 1.44269504f + kRound) - kRound;
    const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r) + 1.0f;
    const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    return p * (Floats)power;
}

/// Calls `work(start, lanes)` for vectors of a row; the last may have fewer than `kLanes`.
template <typename Work>
inline void for_vectors(int64_t count, const Work &work) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) work(i, kLanes);
    if (i < count) work(i, static_cast<int>(count - i));
}

inline Floats load_some(const float *from, int lanes, float rest) {
    if (lanes == kLanes) return load_floats(from);
    float values[kLanes];
    for (int i = 0; i < kLanes; ++i) values[i] = i < lanes ? from[i] : rest;
    return load_floats(values);
}

inline Ints widen(const int32_t *from) { return load_ints(from); }
inline Ints widen(const int16_t *from) {
    return __builtin_convertvector(*reinterpret_cast<const UnalignedHalves *>(from), Ints);
}
inline Ints widen(const int8_t *from) {
    return __builtin_convertvector(*reinterpret_cast<const UnalignedBytes *>(from), Ints);
}

/// Outputs of a product, zeros after them.
template <typename T>
inline Ints load_outputs(const T *from, int lanes) {
    if (lanes == kLanes) return widen(from);
    T values[kLanes] = {};
    for (int i = 0; i < lanes; ++i) values[i] = from[i];
    return widen(values);
}

inline Floats load_some(const int32_t *from, int lanes) {
    return __builtin_convertvector(load_outputs(from, lanes), Floats);
}

/// How many outputs are at the ends of what their type holds, lane by lane.
template <typename T>
struct AtEnds {
    Ints count{};

    void see(Ints value) {
        if (sizeof(T) < 4) count -= (value == std::numeric_limits<T>::max()) | (value == std::numeric_limits<T>::min());
    }

    void add_to(int64_t *total) const {
        int64_t sum = 0;
        for (int lane = 0; lane < kLanes; ++lane) sum += count[lane];
        if (sum) __atomic_fetch_add(total, sum, __ATOMIC_RELAXED);
    }
};

inline void store_some(float *to, Floats value, int lanes) {
    if (lanes == kLanes) return store_floats(to, value);
    for (int i = 0; i < lanes; ++i) to[i] = value[i];
}

inline void store_some(int8_t *to, Bytes value, int lanes) {
    if (lanes == kLanes) return store_bytes(to, value);
    for (int i = 0; i < lanes; ++i) to[i] = value[i];
}

/// Rows that are worth a task of their own.
int64_t rows_per_task(int64_t row) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, row)); }

/// Calls `work(first, last)` for pieces of `rows`.
template <typename Work>
void for_pieces(int64_t rows, int64_t row, int threads, const Work &work) {
    const int64_t step = rows_per_task(row), tasks = (rows + step - 1) / step;
    parallel_for(tasks, threads, [&](int64_t task) { work(task * step, std::min(rows, (task + 1) * step)); });
}

template <typename Work>
void for_rows(int64_t rows, int64_t row, int threads, const Work &work) {
    for_pieces(rows, row, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) work(i);
    });
}

/// A tile of a row whose elements are far apart, quantised: 16 of them for each of up to `kTile` neighbours.
constexpr int64_t kTile = 64;

void quantise_apart(const float *x, int64_t neighbours, int64_t count, int64_t stride, const float *multiplier,
                    int64_t multiplier_stride, int8_t *out, int64_t out_stride, Met &met) {
    int8_t tile[kLanes][kTile];
    for (int64_t first = 0; first < neighbours; first += kTile) {
        const int64_t width = std::min(kTile, neighbours - first);
        for_vectors(count, [&](int64_t c, int lanes) {
            // Lines of the elements after these, which lie as far apart: nobody else sees them coming.
            for (int lane = 0; lane < std::min<int64_t>(kLanes, count - c - lanes); ++lane) {
                const float *next = x + (c + lanes + lane) * stride + first;
                for (int64_t i = 0; i < width; i += 16) __builtin_prefetch(next + i);
            }
            for (int lane = 0; lane < lanes; ++lane) {
                const Floats factor = splat(multiplier[(c + lane) * multiplier_stride]);
                const float *from = x + (c + lane) * stride + first;
                int8_t *const row = tile[lane];
                for_vectors(width, [&](int64_t i, int some) {
                    store_some(row + i, quantise(load_some(from + i, some, 0), factor, met), some);
                });
            }
            int8_t *to = out + first * out_stride + c;
            if (lanes == kLanes) {
                for (int64_t i = 0; i < width; ++i) {
                    Bytes bytes;
                    for (int lane = 0; lane < kLanes; ++lane) bytes[lane] = tile[lane][i];
                    store_bytes(to + i * out_stride, bytes);
                }
            } else {
                for (int64_t i = 0; i < width; ++i) {
                    for (int lane = 0; lane < lanes; ++lane) to[i * out_stride + lane] = tile[lane][i];
                }
            }
        });
    }
}

}  // namespace

/// int8 of a float32 tensor with 4 dimensions, times `multiplier` of its last one (stride 0 or 1).
///
/// `strides` are of x, `out_strides` of the output's first 3 dimensions, in elements; its last is dense. Either the last
/// or the last but one dimension of x must be dense. To `met`, two words, is added how many elements saturated, and the
/// second becomes 1 if an element times its multiplier is NaN or infinite.
extern "C" void brownout_quantise(const float *x, const int64_t *sizes, const int64_t *strides, const float *multiplier,
                                  int64_t multiplier_stride, int8_t *out, const int64_t *out_strides, int64_t *met,
                                  int32_t threads) {
    const int64_t rows = sizes[2], count = sizes[3];
    const bool dense = strides[3] == 1;
    // Rows that lie far apart are worked on together.
    const int64_t together = dense ? 1 : rows;
    const int64_t parts = dense ? rows : 1;
    for_pieces(sizes[0] * sizes[1] * parts, count * together, threads, [&](int64_t first, int64_t last) {
        Met seen;
        for (int64_t index = first; index < last; ++index) {
            const int64_t row = index % parts, plane = index / parts % sizes[1], batch = index / parts / sizes[1];
            const float *from = x + batch * strides[0] + plane * strides[1] + row * strides[2];
            int8_t *to = out + batch * out_strides[0] + plane * out_strides[1] + row * out_strides[2];
            if (!dense) {
                quantise_apart(from, rows, count, strides[3], multiplier, multiplier_stride, to, out_strides[2], seen);
            } else if (multiplier_stride) {
                for_vectors(count, [&](int64_t i, int lanes) {
                    const Floats factor = load_some(multiplier + i, lanes, 0);
                    store_some(to + i, quantise(load_some(from + i, lanes, 0), factor, seen), lanes);
                });
            } else {
                const Floats factor = splat(*multiplier);
                for_vectors(count, [&](int64_t i, int lanes) {
                    store_some(to + i, quantise(load_some(from + i, lanes, 0), factor, seen), lanes);
                });
            }
        }
        seen.add_to(met);
    });
}

namespace {

template <typename T>
void dequantise(const T *sums, int64_t rows, int64_t columns, const float *scale, const float *bias, float *out,
                int64_t out_stride, int64_t *at_ends, int32_t threads) {
    for_pieces(rows, columns, threads, [&](int64_t first, int64_t last) {
        AtEnds<T> ends;
        for (int64_t row = first; row < last; ++row) {
            const T *from = sums + row * columns;
            float *to = out + row * out_stride;
            for_vectors(columns, [&](int64_t i, int lanes) {
                const Ints integers = load_outputs(from + i, lanes);
                ends.see(integers);
                Floats value = __builtin_convertvector(integers, Floats) * load_some(scale + i, lanes, 0);
                if (bias) value += load_some(bias + i, lanes, 0);
                store_some(to + i, value, lanes);
            });
        }
        ends.add_to(at_ends);
    });
}

template <typename T>
void dequantise_turned(const T *sums, int64_t batch, int64_t rows, int64_t columns, const float *scale,
                       const float *bias, float *out, int64_t out_batch_stride, int64_t *at_ends, int32_t threads) {
    const int64_t tiles = (rows + kLanes - 1) / kLanes;
    for_rows(batch * tiles, kLanes * columns, threads, [&](int64_t index) {
        AtEnds<T> ends;
        const int64_t first = index % tiles * kLanes, height = std::min<int64_t>(kLanes, rows - first);
        const T *from = sums + (index / tiles * rows + first) * columns;
        float *to = out + index / tiles * out_batch_stride + first;
        float tile[kLanes][kLanes];
        for_vectors(columns, [&](int64_t i, int lanes) {
            const Floats factor = load_some(scale + i, lanes, 0);
            const Floats offset = bias ? load_some(bias + i, lanes, 0) : Floats{};
            for (int64_t row = 0; row < height; ++row) {
                const Ints integers = load_outputs(from + row * columns + i, lanes);
                ends.see(integers);
                Floats value = __builtin_convertvector(integers, Floats) * factor;
                if (bias) value += offset;
                store_floats(tile[row], value);
            }
            for (int lane = 0; lane < lanes; ++lane) {
                float *column = to + (i + lane) * rows;
                for (int64_t row = 0; row < height; ++row) column[row] = tile[row][lane];
            }
        });
        ends.add_to(at_ends);
    });
}

/// Calls `work` with outputs of 1, 2 or 4 bytes.
template <typename Work>
void with_outputs(const void *outputs, int64_t item_bytes, const Work &work) {
    if (item_bytes == 1) return work(static_cast<const int8_t *>(outputs));
    if (item_bytes == 2) return work(static_cast<const int16_t *>(outputs));
    work(static_cast<const int32_t *>(outputs));
}

template <typename T>
void requantise(const int32_t *sums, int64_t rows, int64_t columns, const int64_t *mult, const int64_t *shift, T *out,
                const int64_t *out_strides, int32_t threads) {
    std::vector<int64_t> half(columns);
    for (int64_t i = 0; i < columns; ++i) half[i] = int64_t(1) << (shift[i] - 1);
    for_rows(rows, columns, threads, [&](int64_t row) {
        const int32_t *from = sums + row * columns;
        T *to = out + row * out_strides[0];
        const int64_t step = out_strides[1];
        for (int64_t i = 0; i < columns; ++i) {
            int64_t value = (from[i] * mult[i] + half[i]) >> shift[i];
            value = std::min<int64_t>(std::max<int64_t>(value, std::numeric_limits<T>::min()), std::numeric_limits<T>::max());
            to[i * step] = T(value);
        }
    });
}

}  // namespace

/// Outputs (rows, columns) of a product, of `item_bytes` bytes, times `scale`, plus `bias` unless null, of each column;
/// output of the same shape. To `at_ends` is added how many narrow ones are the least or the largest that there is.
extern "C" void brownout_dequantise(const void *outputs, int64_t item_bytes, int64_t rows, int64_t columns,
                                    const float *scale, const float *bias, float *out, int64_t out_stride,
                                    int64_t *at_ends, int32_t threads) {
    with_outputs(outputs, item_bytes, [&](auto *typed) {
        dequantise(typed, rows, columns, scale, bias, out, out_stride, at_ends, threads);
    });
}

/// The same with rows as the last dimension of the output: sums (batch, rows, columns), output (batch, columns, rows).
extern "C" void brownout_dequantise_turned(const void *outputs, int64_t item_bytes, int64_t batch, int64_t rows,
                                           int64_t columns, const float *scale, const float *bias, float *out,
                                           int64_t out_batch_stride, int64_t *at_ends, int32_t threads) {
    with_outputs(outputs, item_bytes, [&](auto *typed) {
        dequantise_turned(typed, batch, rows, columns, scale, bias, out, out_batch_stride, at_ends, threads);
    });
}

/// Sums (rows, columns) without gaps to int8 or int16 (`item_bytes`), as the hardware's requantiser.
extern "C" void brownout_requantise(const int32_t *sums, int64_t rows, int64_t columns, const int64_t *mult,
                                    const int64_t *shift, void *out, int64_t item_bytes, const int64_t *out_strides,
                                    int32_t threads) {
    if (item_bytes == 1)
        requantise(sums, rows, columns, mult, shift, static_cast<int8_t *>(out), out_strides, threads);
    else
        requantise(sums, rows, columns, mult, shift, static_cast<int16_t *>(out), out_strides, threads);
}

/// Exponentials of scores (batch, heads, rows, keys), less each row's largest, in steps of 1/127.
///
/// Scores are `sums` times `factor`, plus `mask` unless null, which has its own strides (0 where it is broadcast). `totals`
/// gets the sum of each row's integers: 0 if all of it is masked, -1 if a score is NaN or plus infinity.
extern "C" void brownout_exponentials(const int32_t *sums, const int64_t *sizes, float factor, const float *mask,
                                      const int64_t *mask_strides, int8_t *out, int32_t *totals, int32_t threads) {
    const int64_t heads = sizes[1], rows = sizes[2], keys = sizes[3];
    constexpr float kNone = -__builtin_inff();
    for_rows(sizes[0] * heads * rows, keys, threads, [&](int64_t index) {
        thread_local std::vector<float> kept;
        kept.resize(keys + kLanes);
        float *scores = kept.data();
        const int32_t *from = sums + index * keys;
        const float *added = nullptr;
        if (mask) {
            added = mask + index / (heads * rows) * mask_strides[0] + index / rows % heads * mask_strides[1] +
                    index % rows * mask_strides[2];
        }
        Floats largest = splat(kNone);
        Ints bad{};
        for_vectors(keys, [&](int64_t i, int lanes) {
            Floats score = load_some(from + i, lanes) * factor;
            if (added && mask_strides[3] == 1) {
                score += load_some(added + i, lanes, 0);
            } else if (added) {
                for (int lane = 0; lane < lanes; ++lane) score[lane] += added[(i + lane) * mask_strides[3]];
            }
            for (int lane = lanes; lane < kLanes; ++lane) score[lane] = kNone;
            // Without a mask it is an integer times a finite factor.
            if (added) bad |= ~(score < -kNone);
            store_floats(scores + i, score);
            largest = score > largest ? score : largest;
        });
        float most = kNone;
        int32_t any_bad = 0;
        for (int lane = 0; lane < kLanes; ++lane) {
            most = largest[lane] > most ? largest[lane] : most;
            any_bad |= bad[lane];
        }
        int8_t *to = out + index * keys;
        if (any_bad || most == kNone) {
            std::memset(to, 0, keys);
            totals[index] = any_bad ? -1 : 0;
            return;
        }
        Ints total{};
        for_vectors(keys, [&](int64_t i, int lanes) {
            const Floats step = exponential(load_floats(scores + i) - most) * 127.0f + kRound;
            store_some(to + i, low_bytes(step), lanes);
            // Masked elements and those beyond the row are zero.
            total += (Ints)step & 0xff;
        });
        int32_t sum = 0;
        for (int lane = 0; lane < kLanes; ++lane) sum += total[lane];
        totals[index] = sum;
    });
}

/// Sums (batch, heads, rows, columns) times `factor`, over the total of their row; a row of total 0 becomes zero, one of a
/// negative total NaN.
///
/// `out_strides` are of the output's first 3 dimensions; its last is dense.
extern "C" void brownout_weighted_means(const int32_t *sums, const int64_t *sizes, const int32_t *totals, float factor,
                                        float *out, const int64_t *out_strides, int32_t threads) {
    const int64_t heads = sizes[1], rows = sizes[2], columns = sizes[3];
    for_rows(sizes[0] * heads * rows, columns, threads, [&](int64_t index) {
        const int32_t *from = sums + index * columns;
        float *to = out + index / (heads * rows) * out_strides[0] + index / rows % heads * out_strides[1] +
                    index % rows * out_strides[2];
        const int32_t total = totals[index];
        const Floats scale = splat(total > 0 ? factor / static_cast<float>(total) : total ? __builtin_nanf("") : 0.0f);
        for_vectors(columns, [&](int64_t i, int lanes) { store_some(to + i, load_some(from + i, lanes) * scale, lanes); });
    });
}

/// Patches of an int8 image (batch, height, width, channels), padded already: rows of kernel height x width x channels.
///
/// `shape`: batch, rows and columns of the output, kernel height and width, channels that are taken. `strides`: of the
/// image's batch, row and column; from one output row and column to the next; from one kernel row and column to the next.
extern "C" void brownout_patches(const int8_t *image, const int64_t *shape, const int64_t *strides, int8_t *out,
                                 int32_t threads) {
    const int64_t rows = shape[1], columns = shape[2], height = shape[3], width = shape[4], channels = shape[5];
    const int64_t patch = height * width * channels;
    // Neighbouring pixels of a kernel row are one piece of memory unless it is dilated or grouped.
    const bool joined = strides[4] == channels;
    const int64_t pieces = joined ? 1 : width, bytes = joined ? width * channels : channels;
    for_rows(shape[0] * rows, columns * patch, threads, [&](int64_t index) {
        const int8_t *from = image + index / rows * strides[0] + index % rows * strides[1];
        int8_t *to = out + index * columns * patch;
        for (int64_t column = 0; column < columns; ++column, from += strides[2]) {
            for (int64_t y = 0; y < height; ++y) {
                for (int64_t x = 0; x < pieces; ++x, to += bytes) {
                    std::memcpy(to, from + y * strides[3] + x * strides[4], bytes);
                }
            }
        }
    });
}
