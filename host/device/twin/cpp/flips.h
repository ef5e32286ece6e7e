// The errors of the `flip` model in one product: found by draws.cpp, put into the sums by flip.cpp.
#pragma once

#include <cstdint>

extern "C" {

/// Draws that are errors, in order of rows, then columns; more than `capacity` are counted but not written.
struct BrownoutHits {
    int64_t capacity, found;
    int32_t *rows, *cols;
    uint32_t *draws;
};

/// One product of a command, and the errors in it.
struct BrownoutFlips {
    // What is drawn.
    int64_t m, n;
    uint32_t seed, error_key, first_row, first_col;
    const uint32_t *rates;  // Errors per 2^32 draws of each column,
    uint32_t check_rate;    // and of the row checks.
    int32_t digits, checks;  // Rows of a group and checks of a segment.
    int64_t group_count;
    const int32_t *group_first, *group_rows;
    int64_t segment_count;
    const int64_t *segment_starts;  // First column of each segment that is not left out, and N.
    int32_t threads;
    BrownoutHits outputs;     // Rows m, columns n.
    BrownoutHits digit_hits;  // Rows group * digits + digit, columns n.
    BrownoutHits check_hits;  // Rows m, columns segment * checks + check.
    // What it is done to.
    int32_t *y;  // (m, n) without gaps: the clean sums.
    const int8_t *a;
    int64_t a_row, a_col;
    const int8_t *w;
    int64_t w_row, w_col, k;
    const uint32_t *thresholds;
    int32_t segment_cols;
    int32_t razor;  // Sums that err become zero.
    const int32_t *weights, *widths, *moduli;  // Of the checks: (checks, segment_cols), (checks), (checks).
    // Results, for each hit: by how much a sum has changed; of digit rows times 256^digit, as it enters a column check.
    int64_t *output_deltas, *check_deltas;
    uint32_t *digit_deltas;
    int32_t *digit_groups;
};
}
