#include "syndromes.h"

#include <algorithm>
#include <utility>

#include "residues.h"

namespace brownout {

void Syndromes::find(int64_t first_group) {
    collect();
    if (units_.column_checks) add_columns(first_group);
    if (units_.matches) {
        // Plain syndromes of all rows, to see which occur twice in a group.
        for (const Candidate &candidate : candidates_) values_.push_back(value_of(candidate));
        std::sort(values_.begin(), values_.end());
    }
}

bool Syndromes::repeated(const Candidate &candidate) const {
    const auto same = std::equal_range(values_.begin(), values_.end(), value_of(candidate));
    return same.second - same.first > 1;
}

/// Merges errors of outputs and of checks into candidates, and sums their syndromes.
void Syndromes::collect() {
    int64_t e = std::lower_bound(task_.error_rows, task_.error_rows + task_.error_count, first_) - task_.error_rows;
    int64_t c = std::lower_bound(task_.check_rows, task_.check_rows + task_.check_count, first_) - task_.check_rows;
    candidates_.reserve((task_.error_count + task_.check_count) / task_.row_block_count);
    for (;;) {
        const bool more_errors = e < task_.error_count && task_.error_rows[e] < end_;
        const bool more_checks = c < task_.check_count && task_.check_rows[c] < end_;
        if (!more_errors && !more_checks) break;
        std::pair<int32_t, int32_t> at_error{end_, 0}, at_check{end_, 0};
        if (more_errors) at_error = {task_.error_rows[e], task_.segment_of[task_.error_cols[e]]};
        if (more_checks) at_check = {task_.check_rows[c], task_.check_cols[c] / units_.checks};
        const auto place = std::min(at_error, at_check);
        const auto start = static_cast<int32_t>(task_.segment_starts[place.second]);
        const auto stop = static_cast<int32_t>(task_.segment_starts[place.second + 1]);
        const int64_t group = (place.first - first_) / units_.group_rows;
        Candidate found{place.first, place.second, start, stop - start, group, {}, e, e};
        for (; e < task_.error_count && task_.error_rows[e] == found.row && task_.error_cols[e] < stop; ++e) {
            for (int j = 0; j < units_.checks; ++j) {
                found.r[j] += weight(units_, j, task_.error_cols[e] - start) * task_.error_deltas[e];
            }
        }
        found.last_error = e;
        for (; c < task_.check_count && task_.check_rows[c] == found.row &&
               task_.check_cols[c] / units_.checks == found.segment;
             ++c) {
            found.r[task_.check_cols[c] % units_.checks] -= task_.check_deltas[c];
        }
        for (int j = 0; j < units_.checks; ++j) {
            found.r[j] = is_residue(units_, j) ? modulo(found.r[j]) : wrap(found.r[j], units_.widths[j]);
        }
        candidates_.push_back(found);
    }
}

void Syndromes::add_columns(int64_t first_group) {
    q_.assign(groups_ * task_.n, 0);
    for (const Candidate &candidate : candidates_) {
        for (int64_t e = candidate.first_error; e < candidate.last_error; ++e) {
            q_[candidate.group * task_.n + task_.error_cols[e]] += static_cast<uint32_t>(task_.error_deltas[e]);
        }
    }
    for (int64_t i = 0; i < task_.digit_count; ++i) {
        const int64_t group = task_.digit_groups[i] - first_group;
        if (group >= 0 && group < groups_) q_[group * task_.n + task_.digit_cols[i]] -= task_.digit_deltas[i];
    }
}

}  // namespace brownout
