// Softmax between the two products of attention on the chip: docs/attention.md.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "brownout_hw.h"
#include "parallel.h"

namespace brownout {
namespace {

constexpr int kOctaves = 8;      // exponentials so far below the largest are less than half a step
constexpr int kFractionBits = 8;  // of scores, and of the table
constexpr int32_t kLeast = -(1 << 15), kMost = (1 << 15) - 1;
constexpr int64_t kRowsAtOnce = 16;

}  // namespace

/// Scores (rows, keys) to exponentials in steps of 1/127 of the largest of their row, and the sums of these.
///
/// `marked`, unless null, tells which scores count for nothing. With `causal` keys after place `first_query + row` do
/// not count either. `table` has 256 entries.
extern "C" void brownout_chip_exponentials(const int32_t *scores, const uint8_t *marked, int64_t rows, int64_t keys,
                                           int64_t factor, int64_t shift, int64_t first_query, int32_t causal,
                                           const int32_t *table, int8_t *out, int32_t *sums, int32_t threads) {
    const int64_t half = (int64_t{1} << shift) >> 1;
    parallel_for((rows + kRowsAtOnce - 1) / kRowsAtOnce, threads, [&](int64_t task) {
        std::vector<int32_t> kept(keys);
        for (int64_t row = task * kRowsAtOnce; row < std::min(rows, (task + 1) * kRowsAtOnce); ++row) {
            const int32_t *from = scores + row * keys;
            const uint8_t *marks = marked ? marked + row * keys : nullptr;
            int8_t *to = out + row * keys;
            const int64_t counted = causal ? std::min(keys, first_query + row + 1) : keys;
            int32_t top = kLeast - 1;
            for (int64_t i = 0; i < counted; ++i) {
                const int64_t scaled = (from[i] * factor + half) >> shift;
                const int32_t score = int32_t(std::min<int64_t>(std::max<int64_t>(scaled, kLeast), kMost));
                kept[i] = score;
            }
            for (int64_t i = 0; i < counted; ++i) {
                if (marks && marks[i]) kept[i] = kLeast - 1;
                top = std::max(top, kept[i]);
            }
            int32_t sum = 0;
            for (int64_t i = 0; i < counted; ++i) {
                const int32_t distance = top - kept[i], octave = distance >> kFractionBits;
                int32_t step = 0;
                if (octave < kOctaves && kept[i] >= kLeast)
                    step = (table[distance & ((1 << kFractionBits) - 1)] + (1 << (octave + kFractionBits - 1)))
                           >> (octave + kFractionBits);
                to[i] = int8_t(step);
                sum += step;
            }
            std::fill(to + counted, to + keys, int8_t{0});
            sums[row] = sum;
        }
    });
}

/// Sums of values (rows, columns) times floor(scale / row sum), shifted and saturated to int8.
extern "C" void brownout_chip_means(const int32_t *values, const int32_t *sums, int64_t rows, int64_t columns,
                                    int64_t scale, int64_t shift, int8_t *out, int32_t threads) {
    const int64_t half = (int64_t{1} << shift) >> 1;
    parallel_for((rows + kRowsAtOnce - 1) / kRowsAtOnce, threads, [&](int64_t task) {
        for (int64_t row = task * kRowsAtOnce; row < std::min(rows, (task + 1) * kRowsAtOnce); ++row) {
            const int64_t factor = sums[row] ? scale / sums[row] : 0;
            for (int64_t i = row * columns; i < (row + 1) * columns; ++i) {
                const int64_t scaled = (values[i] * factor + half) >> shift;
                out[i] = int8_t(std::min<int64_t>(std::max<int64_t>(scaled, -128), 127));
            }
        }
    });
}

}  // namespace brownout
