// Draws of the `flip` model of timing errors; docs/protection.md has the definition.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "hash.h"
#include "kernel_structs.h"
#include "parallel.h"
#include "vectors.h"

using namespace brownout;

namespace {

constexpr int64_t kDrawsPerThread = 1 << 18;  // Fewer are done before another thread has begun.
constexpr int64_t kPiecesPerThread = 4;       // A thread that is held up leaves its rest to the others.

struct Hit {
    int32_t row, col;
    uint32_t draw;
};

/// Terms and rates of a row of draws.
struct Columns {
    /// For `term(col)` being what a column adds to the keys.
    template <typename Term, typename Rate>
    Columns(int64_t count, const Term &term, const Rate &rate) : count(count) {
        const int64_t vectors = (count + kNativeLanes - 1) / kNativeLanes;
        terms_.resize(vectors);
        rates_.resize(vectors);
        for (int64_t col = 0; col < count; ++col) {
            terms_[col / kNativeLanes][col % kNativeLanes] = term(col);
            rates_[col / kNativeLanes][col % kNativeLanes] = rate(col);
        }
        bool uniform = true;
        for (int64_t col = 0; col < count; ++col) {
            steep |= this->rate(col) > kSteep;
            uniform &= this->rate(col) == this->rate(0);
        }
        bound_step = uniform ? 0 : 1;
        bounds_.resize(uniform ? std::min<int64_t>(1, vectors) : vectors);
        for (size_t i = 0; i < bounds_.size(); ++i) bounds_[i] = (rates_[i] + 0xffff) & ~0xffffu;
    }

    uint32_t term(int64_t col) const { return terms_[col / kNativeLanes][col % kNativeLanes]; }
    uint32_t rate(int64_t col) const { return rates_[col / kNativeLanes][col % kNativeLanes]; }
    const NativeWords *terms() const { return terms_.data(); }

    /// Of vector i, at i * `bound_step`: draws at or above these, apart from their lower half, are no errors.
    const NativeWords *bounds() const { return bounds_.data(); }

    int64_t count;
    int64_t bound_step = 0;
    bool steep = false;  // Whether a rate has no bound of 32 bits.

private:
    static constexpr uint32_t kSteep = 0xffff0000;
    std::vector<NativeWords> terms_, rates_, bounds_;
};

void draw_row(uint32_t key, int32_t row, const Columns &columns, std::vector<Hit> &hits) {
    auto look_at = [&](int64_t col) {
        const uint32_t draw = mix<uint32_t>(columns.term(col) + key);
        if (draw < columns.rate(col)) hits.push_back({row, static_cast<int32_t>(col), draw});
    };
    constexpr int kVectors = 64 / kNativeLanes;
    const NativeWords *terms = columns.terms(), *bounds = columns.bounds();
    const int64_t step = columns.bound_step;
    int64_t col = 0;
    for (; !columns.steep && col + kVectors * kNativeLanes <= columns.count; col += kVectors * kNativeLanes) {
        uint64_t found = 0;
        for (int i = 0; i < kVectors; ++i) {
            // The last step of the hash leaves the upper half as it is, which says enough about nearly all draws.
            const NativeWords nearly = mix_but_last<NativeWords>(terms[i] + key);
            found |= static_cast<uint64_t>(lanes_less(nearly, bounds[i * step])) << (i * kNativeLanes);
        }
        for (; __builtin_expect(found != 0, 0); found &= found - 1) look_at(col + __builtin_ctzll(found));
        terms += kVectors;
        bounds += kVectors * step;
    }
    for (; col < columns.count; ++col) look_at(col);
}

/// Rows begin..end-1 of draws; `row_term(row)` is what a row adds to the base.
template <typename RowTerm>
void draw_rows(uint32_t base, int64_t begin, int64_t end, const RowTerm &row_term, const Columns &columns,
               std::vector<Hit> &hits) {
    for (int64_t row = begin; row < end; ++row) {
        draw_row(mix<uint32_t>(base + row_term(row)), static_cast<int32_t>(row), columns, hits);
    }
}

void write(const std::vector<std::vector<Hit>> &pieces, HitList &to) {
    to.found = 0;
    for (const auto &hits : pieces) to.found += static_cast<int64_t>(hits.size());
    if (to.found > to.capacity) return;
    int64_t i = 0;
    for (const auto &hits : pieces) {
        for (const Hit &hit : hits) {
            to.rows[i] = hit.row;
            to.cols[i] = hit.col;
            to.draws[i++] = hit.draw;
        }
    }
}

}  // namespace

/// Finds all errors of a product.
extern "C" void brownout_draw(FlipTask *flips) {
    const FlipTask &f = *flips;
    const uint32_t base = mix<uint32_t>(f.seed + mix<uint32_t>(f.error_key));
    auto row_term = [&](int64_t row) { return (f.first_row + static_cast<uint32_t>(row)) * hw::ROW_STEP; };
    auto digit_term = [&](int64_t row) {
        const auto digit = static_cast<uint32_t>(row % f.digits);
        return row_term(f.group_first[row / f.digits]) + (1 + digit) * hw::DIGIT_STEP;
    };
    auto col_term = [&](int64_t col) { return (f.first_col + static_cast<uint32_t>(col)) * hw::COLUMN_STEP; };
    auto check_term = [&](int64_t col) {
        const auto check = static_cast<uint32_t>(col % f.checks);
        return col_term(f.segment_starts[col / f.checks]) + (1 + check) * hw::CHECK_STEP;
    };
    const Columns columns(f.n, col_term, [&](int64_t col) { return f.rates[col]; });
    const int64_t check_columns = f.check_rate ? f.segment_count * f.checks : 0;
    const Columns checks(check_columns, check_term, [&](int64_t) { return f.check_rate; });
    const int64_t digit_rows = f.group_count * f.digits;

    const int64_t draws = f.m * (f.n + check_columns) + digit_rows * f.n;
    const auto threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(f.threads, draws / kDrawsPerThread)));
    const int64_t pieces = threads == 1 ? 1 : threads * kPiecesPerThread;
    std::vector<std::vector<Hit>> outputs(pieces), digits(pieces), others(pieces);
    parallel_for(pieces, threads, [&](int64_t i) {
        const int64_t begin = f.m * i / pieces, end = f.m * (i + 1) / pieces;
        draw_rows(base, begin, end, row_term, columns, outputs[i]);
        if (check_columns) draw_rows(base, begin, end, row_term, checks, others[i]);
        draw_rows(base, digit_rows * i / pieces, digit_rows * (i + 1) / pieces, digit_term, columns, digits[i]);
    });
    write(outputs, flips->outputs);
    write(digits, flips->digit_hits);
    write(others, flips->check_hits);
}
