// What the errors of the `flip` model do to sums.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "hash.h"
#include "kernel_structs.h"
#include "parallel.h"

using namespace brownout;

namespace {

constexpr int64_t kHitsPerThread = 1 << 10;  // Fewer are done before another thread has begun.
constexpr int64_t kPiecesPerThread = 4;      // A thread that is held up leaves its rest to the others.

/// Errors in some rows.
struct Range {
    Range(const HitList &hits, int64_t first_row, int64_t end_row)
        : begin(std::lower_bound(hits.rows, hits.rows + hits.found, first_row) - hits.rows),
          end(std::lower_bound(hits.rows + begin, hits.rows + hits.found, end_row) - hits.rows) {}

    int64_t begin, end;
};

template <bool kRazor>
void flip_outputs(const FlipTask &flips, Range range) {
    constexpr int64_t kAhead = 16;  // They are far apart in memory, and known long before.
    const HitList &hits = flips.outputs;
    auto place = [&](int64_t i) { return flips.y + hits.rows[i] * flips.n + hits.cols[i]; };
    for (int64_t i = range.begin; i < range.end; ++i) {
        if (i + kAhead < range.end) __builtin_prefetch(place(i + kAhead), 1);
        int32_t &sum = *place(i);
        const int64_t before = sum;
        sum = kRazor ? 0 : sum ^ 1 << error_bit(pick(hits.draws[i]), flips.thresholds);
        flips.output_deltas[i] = sum - before;
    }
}

/// While `y` holds the sums without any errors, of which a check without errors is the weighted sum.
void flip_checks(const FlipTask &flips, Range range) {
    const HitList &hits = flips.check_hits;
    for (int64_t i = range.begin; i < range.end; ++i) {
        const int32_t segment = hits.cols[i] / flips.checks, check = hits.cols[i] % flips.checks;
        const int64_t start = flips.segment_starts[segment], end = flips.segment_starts[segment + 1];
        const int32_t *sums = flips.y + hits.rows[i] * flips.n + start;
        const int32_t *weights = flips.weights + check * flips.segment_cols;
        int64_t value = 0;
        for (int64_t c = 0; c < end - start; ++c) value += static_cast<int64_t>(weights[c]) * sums[c];
        const int32_t modulus = flips.moduli[check];
        if (modulus) value = (value % modulus + modulus) % modulus;
        const uint64_t scaled = static_cast<uint64_t>(pick(hits.draws[i])) * flips.widths[check];
        const int64_t flip = int64_t{1} << (scaled >> 32);
        flips.check_deltas[i] = value & flip ? -flip : flip;
    }
}

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

/// The digit rows of one group: each `k` digits, least significant row first.
std::vector<int8_t> digits_of(const FlipTask &flips, int32_t group) {
    const int64_t k = flips.k;
    const int8_t *first = flips.a + flips.group_first[group] * flips.a_row;
    std::vector<int32_t> rest(k);
    if (flips.group_rows[group] <= 256) {  // Sums fit 16 bits, of which a register holds twice as many.
        std::vector<int16_t> sums(k);
        add_rows(first, flips.a_row, flips.a_col, flips.group_rows[group], k, sums.data());
        std::copy(sums.begin(), sums.end(), rest.begin());
    } else {
        add_rows(first, flips.a_row, flips.a_col, flips.group_rows[group], k, rest.data());
    }
    std::vector<int8_t> digits(k * flips.digits);
    for (int32_t d = 0; d < flips.digits; ++d) {
        for (int64_t i = 0; i < k; ++i) {
            const auto low = static_cast<int8_t>(rest[i]);
            digits[d * k + i] = low;
            rest[i] = (rest[i] - low) >> 8;
        }
    }
    return digits;
}

/// Sums of digit rows are only computed where they err.
template <bool kRazor>
void flip_digits(const FlipTask &flips, Range range) {
    const HitList &hits = flips.digit_hits;
    const int64_t k = flips.k;
    std::vector<int8_t> digits;
    int32_t present = -1;
    for (int64_t i = range.begin; i < range.end; ++i) {
        const int32_t group = hits.rows[i] / flips.digits, d = hits.rows[i] % flips.digits;
        if (group != present) digits = digits_of(flips, present = group);
        const int8_t *x = &digits[d * k], *column = flips.w + hits.cols[i] * flips.w_col;
        int32_t sum = 0;
        if (flips.w_row == 1) {
            for (int64_t j = 0; j < k; ++j) sum += x[j] * column[j];
        } else {
            for (int64_t j = 0; j < k; ++j) sum += x[j] * column[j * flips.w_row];
        }
        uint32_t change = -static_cast<uint32_t>(sum);
        if (!kRazor) {
            const uint32_t flip = 1u << error_bit(pick(hits.draws[i]), flips.thresholds);
            change = sum & flip ? -flip : flip;
        }
        flips.digit_groups[i] = group;
        flips.digit_deltas[i] = change << (8 * d);
    }
}

}  // namespace

/// Inverts the bits of all errors found, or with `razor` drops the sums of outputs and digit rows: in `y` those of the
/// outputs, elsewhere only in what is told of them.
extern "C" void brownout_flip(const FlipTask *flips) {
    const FlipTask &f = *flips;
    const int64_t hits = f.outputs.found + f.digit_hits.found + f.check_hits.found;
    const auto threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(f.threads, hits / kHitsPerThread)));
    const int64_t pieces = threads == 1 ? 1 : threads * kPiecesPerThread;
    const auto outputs = f.razor ? flip_outputs<true> : flip_outputs<false>;
    const auto digits = f.razor ? flip_digits<true> : flip_digits<false>;
    parallel_for(pieces, threads, [&](int64_t i) {
        const int64_t begin = f.m * i / pieces, end = f.m * (i + 1) / pieces;
        flip_checks(f, {f.check_hits, begin, end});
        outputs(f, {f.outputs, begin, end});
        const int64_t first_group = f.group_count * i / pieces, end_group = f.group_count * (i + 1) / pieces;
        digits(f, {f.digit_hits, first_group * f.digits, end_group * f.digits});
    });
}
