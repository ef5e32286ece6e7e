// Draws of the `flip` model of timing errors, and what they do to sums.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "hash.h"
#include "parallel.h"
#include "vectors.h"

using namespace brownout;

namespace {

struct Hit {
    int32_t row, col;
    uint32_t draw;
};

/// Sums of the rows of a group, for each k.
template <typename T>
void add_rows(const int8_t *a, int64_t a_row, int64_t a_col, int64_t rows, int64_t k, T *__restrict sums) {
    for (int64_t m = 0; m < rows; ++m) {
        const int8_t *row = a + m * a_row;
        if (a_col == 1) {
            for (int64_t i = 0; i < k; ++i) sums[i] = static_cast<T>(sums[i] + row[i]);
        } else {
            for (int64_t i = 0; i < k; ++i) sums[i] = static_cast<T>(sums[i] + row[i * a_col]);
        }
    }
}

constexpr int64_t kDrawsPerThread = 1 << 18;  // Fewer are done before another thread has begun.

void draw_row(uint32_t key, int32_t row, int64_t cols, const uint32_t *terms, const uint32_t *rates,
              std::vector<Hit> &hits) {
    int64_t col = 0;
    for (; col + kLanes <= cols; col += kLanes) {
        const Words draws = mix<Words>(load_words(terms + col) + key);
        for (uint32_t found = lanes_less(draws, load_words(rates + col)); found; found &= found - 1) {
            const int lane = __builtin_ctz(found);
            hits.push_back({row, static_cast<int32_t>(col + lane), draws[lane]});
        }
    }
    for (; col < cols; ++col) {
        const uint32_t draw = mix<uint32_t>(terms[col] + key);
        if (draw < rates[col]) hits.push_back({row, static_cast<int32_t>(col), draw});
    }
}

}  // namespace

/// Errors among rows x cols draws, in order of rows, then columns.
///
/// `row_terms` and `col_terms` are what row and column (with digit and check) add to the keys, `rates` the errors per
/// 2^32 draws of each column. Returns how many there are; if they are more than `capacity`, none is written.
extern "C" int64_t brownout_draw_hits(uint32_t base, int64_t rows, const uint32_t *row_terms, int64_t cols,
                                      const uint32_t *col_terms, const uint32_t *rates, int32_t threads,
                                      int64_t capacity, int32_t *out_rows, int32_t *out_cols, uint32_t *out_draws) {
    const int64_t wanted = std::max<int64_t>(1, std::min<int64_t>(threads, rows * cols / kDrawsPerThread));
    const int64_t pieces = std::min(rows, wanted);
    std::vector<std::vector<Hit>> found(pieces);
    parallel_for(pieces, static_cast<int>(pieces), [&](int64_t piece) {
        for (int64_t row = rows * piece / pieces; row < rows * (piece + 1) / pieces; ++row) {
            const uint32_t key = mix<uint32_t>(base + row_terms[row]);
            draw_row(key, static_cast<int32_t>(row), cols, col_terms, rates, found[piece]);
        }
    });
    int64_t total = 0;
    for (const auto &hits : found) total += hits.size();
    if (total > capacity) return total;
    for (const auto &hits : found) {
        for (const Hit &hit : hits) {
            *out_rows++ = hit.row;
            *out_cols++ = hit.col;
            *out_draws++ = hit.draw;
        }
    }
    return total;
}

/// Inverts the drawn bits in `y`; `deltas` gets by how much each sum has changed.
extern "C" void brownout_flip_outputs(int32_t *y, int64_t row_stride, int64_t count, const int32_t *rows,
                                      const int32_t *cols, const uint32_t *draws, const uint32_t *thresholds,
                                      int64_t *deltas) {
    constexpr int64_t kAhead = 16;  // Hits are far apart in memory, and known long before.
    for (int64_t i = 0; i < count; ++i) {
        if (i + kAhead < count) __builtin_prefetch(&y[rows[i + kAhead] * row_stride + cols[i + kAhead]], 1);
        int32_t &sum = y[rows[i] * row_stride + cols[i]];
        const int64_t before = sum;
        sum ^= 1 << error_bit(pick(draws[i]), thresholds);
        deltas[i] = sum - before;
    }
}

/// Changes of digit rows' sums, each times 256^digit, as they enter the column syndromes.
///
/// `rows` of the hits, ascending, are group * digits + digit; `group_first` and `group_rows` say which rows of A are in
/// a group. The sums themselves are only computed where a bit of them is inverted.
extern "C" void brownout_flip_digits(const int8_t *a, int64_t a_row, int64_t a_col, const int8_t *w, int64_t w_row,
                                     int64_t w_col, int64_t k, const int32_t *group_first, const int32_t *group_rows,
                                     int32_t digits, int32_t threads, int64_t count, const int32_t *rows,
                                     const int32_t *cols, const uint32_t *draws, const uint32_t *thresholds,
                                     uint32_t *deltas) {
    std::vector<int64_t> starts;  // First hit of each group that has any.
    for (int64_t i = 0; i < count; ++i) {
        if (i == 0 || rows[i] / digits != rows[i - 1] / digits) starts.push_back(i);
    }
    starts.push_back(count);
    const auto groups = static_cast<int64_t>(starts.size()) - 1;
    const int useful = groups * k < 1 << 14 ? 1 : threads;
    parallel_for(groups, useful, [&](int64_t index) {
        const int32_t group = rows[starts[index]] / digits;
        std::vector<int32_t> rest(k);
        const int8_t *first = a + group_first[group] * a_row;
        if (group_rows[group] <= 256) {  // Sums fit 16 bits, of which a register holds twice as many.
            std::vector<int16_t> sums(k);
            add_rows(first, a_row, a_col, group_rows[group], k, sums.data());
            std::copy(sums.begin(), sums.end(), rest.begin());
        } else {
            add_rows(first, a_row, a_col, group_rows[group], k, rest.data());
        }
        std::vector<int8_t> digit(k * digits);
        for (int32_t d = 0; d < digits; ++d) {
            for (int64_t i = 0; i < k; ++i) {
                const auto low = static_cast<int8_t>(rest[i]);
                digit[d * k + i] = low;
                rest[i] = (rest[i] - low) >> 8;
            }
        }
        for (int64_t hit = starts[index]; hit < starts[index + 1]; ++hit) {
            const int32_t d = rows[hit] % digits;
            const int8_t *x = &digit[d * k], *column = w + cols[hit] * w_col;
            int32_t sum = 0;
            if (w_row == 1) {
                for (int64_t i = 0; i < k; ++i) sum += x[i] * column[i];
            } else {
                for (int64_t i = 0; i < k; ++i) sum += x[i] * column[i * w_row];
            }
            const uint32_t flip = 1u << error_bit(pick(draws[hit]), thresholds);
            const uint32_t change = sum & flip ? -flip : flip;
            deltas[hit] = change << (8 * d);
        }
    });
}

/// Changes of row checks' sums.
///
/// Columns of the hits are segment * checks + check; `starts` has the first column of each segment and, last, N.
/// `y` holds the sums without any errors, of which a check without errors is the weighted sum: by `weights`
/// (checks x segment_cols), modulo `moduli` where not zero, else to `widths` bits.
extern "C" void brownout_flip_checks(const int32_t *y, int64_t row_stride, const int64_t *starts, int32_t checks,
                                     int32_t segment_cols, const int32_t *weights, const int32_t *widths,
                                     const int32_t *moduli, int64_t count, const int32_t *rows, const int32_t *cols,
                                     const uint32_t *draws, int64_t *deltas) {
    for (int64_t i = 0; i < count; ++i) {
        const int32_t segment = cols[i] / checks, check = cols[i] % checks;
        const int32_t *sums = y + rows[i] * row_stride + starts[segment];
        int64_t value = 0;
        for (int64_t c = 0; c < starts[segment + 1] - starts[segment]; ++c) {
            value += static_cast<int64_t>(weights[check * segment_cols + c]) * sums[c];
        }
        if (moduli[check]) value = (value % moduli[check] + moduli[check]) % moduli[check];
        const uint64_t scaled = static_cast<uint64_t>(pick(draws[i])) * widths[check];
        const int64_t flip = int64_t{1} << (scaled >> 32);
        deltas[i] = value & flip ? -flip : flip;
    }
}
