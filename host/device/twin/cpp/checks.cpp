// Checksums by linearity: a syndrome is the sum of the errors that it sees, so only errors are looked at, never the
// sums that are right.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "kernel_structs.h"
#include "parallel.h"

using namespace brownout;
using namespace brownout::hw;

namespace {

constexpr int64_t kModulus = RESIDUE_MODULUS;

int64_t wrap(int64_t value, int bits) {
    const int unused = 64 - bits;
    return static_cast<int64_t>(static_cast<uint64_t>(value) << unused) >> unused;
}

int64_t modulo(int64_t value) {
    const int64_t rest = value % kModulus;
    return rest < 0 ? rest + kModulus : rest;
}

/// A product of two residues modulo 8191, reduced as the hardware does it: 2^13 is 1.
int64_t multiply_residues(uint32_t left, uint32_t right) {
    const uint32_t product = left * right;
    const uint32_t folded = (product & kModulus) + (product >> RESIDUE_BITS);
    return folded >= kModulus ? folded - kModulus : folded;
}

int64_t magnitude_of(int64_t value) { return value < 0 ? -value : value; }

/// Whether a number is plus or minus a power of two.
bool is_signed_power(int64_t value) {
    const int64_t magnitude = magnitude_of(value);
    return value != 0 && (magnitude & (magnitude - 1)) == 0;
}

bool large(int64_t value, int theta) {
    const uint64_t magnitude = value < 0 ? -static_cast<uint64_t>(value) : value;
    return value != 0 && magnitude >= uint64_t{1} << theta;
}

/// A segment of a row in which something has erred.
struct Candidate {
    int32_t row, segment;
    int32_t start, width;  // Columns of the segment that are in the output.
    int64_t group;
    int64_t r[MAX_CHECKS];
    int64_t first_error, last_error;
};

struct Mark {
    int32_t row, col;
};

/// An error at a place of a segment; `kPlainCheck` is the plain check itself.
struct Located {
    int32_t place;
    int64_t error;
};

constexpr int32_t kPlainCheck = LOG_PLAIN_CHECK;
constexpr int64_t kLargestError = int64_t{1} << 31;

struct Record {
    uint32_t words[log_record_words(true)];  // The last ones only with column checks.
};

/// A row of blocks: all blocks with the same rows.
class BlockRow {
public:
    BlockRow(const Units &units, CheckTask &task, const std::vector<int32_t> &block_of, int64_t index)
        : units_(units),
          task_(task),
          block_of_(block_of),
          first_(static_cast<int32_t>(task.row_blocks[index])),
          end_(static_cast<int32_t>(task.row_blocks[index + 1])),
          groups_((end_ - first_ + units.group_rows - 1) / units.group_rows) {}

    void run(int64_t first_group) {
        collect();
        if (units_.column_checks) add_columns(first_group);
        if (units_.matches) find_repeated();
        // The hardware drains block after block; inside one, candidates are in its order already.
        std::vector<int64_t> ends(task_.col_block_count + 1);
        for (const Candidate &candidate : candidates_) ++ends[block_of_[candidate.segment] + 1];
        for (int64_t block = 0; block < task_.col_block_count; ++block) ends[block + 1] += ends[block];
        std::vector<int32_t> order(candidates_.size());
        std::vector<int64_t> next(ends.begin(), ends.end() - 1);
        for (size_t i = 0; i < candidates_.size(); ++i) {
            order[next[block_of_[candidates_[i].segment]]++] = static_cast<int32_t>(i);
        }
        records.reserve(candidates_.size());
        block_records.assign(task_.col_block_count, 0);
        for (int64_t block = 0; block < task_.col_block_count; ++block) {
            int64_t kept = 0;
            for (int64_t i = ends[block]; i < ends[block + 1]; ++i) {
                if (i + kAhead < ends.back()) prefetch(candidates_[order[i + kAhead]]);
                const Candidate &candidate = candidates_[order[i]];
                if (flagged(candidate)) {
                    const Record record = judge(candidate);
                    if (kept++ < LOG_RECORDS_PER_BLOCK) records.push_back(record), ++block_records[block];
                    ++detected;
                } else {
                    missed += candidate.last_error - candidate.first_error;
                }
            }
        }
    }

    std::vector<Mark> marks;
    std::vector<Record> records;
    std::vector<int64_t> block_records;
    int64_t detected = 0, corrected = 0, missed = 0, wrong = 0;

private:
    static constexpr int64_t kAhead = 16;  // Sums to correct are far apart in memory, and known long before.

    void prefetch(const Candidate &candidate) const {
        if (candidate.first_error == candidate.last_error) return;
        __builtin_prefetch(&task_.y[candidate.row * task_.row_stride + task_.error_cols[candidate.first_error]], 1);
    }

    int64_t weight(int check, int32_t position) const { return units_.weights[check * units_.segment_cols + position]; }

    bool is_residue(int check) const { return units_.moduli[check] != 0; }

    uint32_t &q(int64_t group, int32_t col) { return q_[group * task_.n + col]; }

    /// Merges errors of outputs and of checks into candidates, and sums their syndromes.
    void collect() {
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
                    found.r[j] += weight(j, task_.error_cols[e] - start) * task_.error_deltas[e];
                }
            }
            found.last_error = e;
            for (; c < task_.check_count && task_.check_rows[c] == found.row &&
                   task_.check_cols[c] / units_.checks == found.segment;
                 ++c) {
                found.r[task_.check_cols[c] % units_.checks] -= task_.check_deltas[c];
            }
            for (int j = 0; j < units_.checks; ++j) {
                found.r[j] = is_residue(j) ? modulo(found.r[j]) : wrap(found.r[j], units_.widths[j]);
            }
            candidates_.push_back(found);
        }
    }

    void add_columns(int64_t first_group) {
        q_.assign(groups_ * task_.n, 0);
        for (const Candidate &candidate : candidates_) {
            for (int64_t e = candidate.first_error; e < candidate.last_error; ++e) {
                q(candidate.group, task_.error_cols[e]) += static_cast<uint32_t>(task_.error_deltas[e]);
            }
        }
        for (int64_t i = 0; i < task_.digit_count; ++i) {
            const int64_t group = task_.digit_groups[i] - first_group;
            if (group >= 0 && group < groups_) q(group, task_.digit_cols[i]) -= task_.digit_deltas[i];
        }
    }

    struct Value {
        int64_t group;
        int32_t segment;
        uint32_t r_0;
        bool operator<(const Value &other) const {
            if (group != other.group) return group < other.group;
            if (segment != other.segment) return segment < other.segment;
            return r_0 < other.r_0;
        }
    };

    /// Plain syndromes of all rows, to see which occur twice in a group.
    void find_repeated() {
        for (const Candidate &candidate : candidates_) values_.push_back(value_of(candidate));
        std::sort(values_.begin(), values_.end());
    }

    Value value_of(const Candidate &candidate) const {
        return {candidate.group, candidate.segment, static_cast<uint32_t>(candidate.r[0])};
    }

    bool flagged(const Candidate &candidate) const {
        if (candidate.r[0] != 0) return large(candidate.r[0], task_.theta);
        for (int j = 1; j < units_.checks; ++j) {
            if (is_residue(j) ? candidate.r[j] != 0 && task_.theta <= 32 : large(candidate.r[j], task_.theta)) return true;
        }
        return false;
    }

    /// Position in the segment to which the evidence points, -1 if to none.
    int32_t find_fit(const Candidate &candidate) {
        const int32_t start = candidate.start, width = candidate.width;
        const int64_t group = candidate.group;
        if (units_.matches) {
            const auto r_0 = static_cast<uint32_t>(candidate.r[0]);
            if (r_0 == 0) return -1;
            const auto same = std::equal_range(values_.begin(), values_.end(), value_of(candidate));
            if (same.second - same.first > 1) return -1;
            int32_t fit = -1;
            for (int32_t i = 0; i < width; ++i) {
                if (q(group, start + i) != r_0) continue;
                if (fit >= 0) return -1;
                fit = i;
            }
            return fit;
        }
        if (units_.checks == 1 || candidate.r[0] == 0) return -1;
        const auto reduced = static_cast<uint32_t>(modulo(candidate.r[0]));
        for (int32_t i = 0; i < width; ++i) {
            if (units_.column_checks && q(group, start + i) == 0) continue;
            bool fits = true;
            for (int j = 1; fits && j < units_.checks; ++j) {
                if (is_residue(j)) {
                    fits = candidate.r[j] == multiply_residues(weight(j, i), reduced);
                } else {
                    fits = candidate.r[j] == wrap(weight(j, i) * candidate.r[0], units_.widths[j]);
                }
            }
            if (fits) return i;
        }
        return -1;
    }

    /// What an error at a place adds to a locator.
    int64_t seen(int check, int32_t place, int64_t error) const {
        return place == kPlainCheck ? 0 : modulo(weight(check, place) * error);
    }

    /// Pairs of errors that explain the syndromes: how many, but not more than two; `pair` is the first one found.
    int find_pairs(const Candidate &candidate, Located (&pair)[2]) const {
        const int64_t r_0 = candidate.r[0];
        if (!units_.pairs || !task_.correct || r_0 == 0 || is_signed_power(r_0)) return 0;
        int found = 0;
        const int64_t lowest = r_0 & -r_0;
        for (const int64_t second : {lowest, -lowest}) {
            const int64_t first = r_0 - second;
            if (!is_signed_power(first) || magnitude_of(first) > kLargestError || lowest > kLargestError) continue;
            int64_t of_first[MAX_SEGMENT_COLS + 1];
            for (int32_t i = 0; i <= candidate.width; ++i) {
                of_first[i] = i < candidate.width ? seen(1, i, first) : 0;
            }
            for (int32_t j = 0; j <= candidate.width; ++j) {
                const int32_t at_second = j < candidate.width ? j : kPlainCheck;
                const int64_t rest = modulo(candidate.r[1] - seen(1, at_second, second));
                for (int32_t i = 0; i <= candidate.width; ++i) {
                    if (i == j || of_first[i] != rest) continue;
                    const int32_t at_first = i < candidate.width ? i : kPlainCheck;
                    bool fits = true;
                    for (int check = 2; fits && check < units_.checks; ++check) {
                        const int64_t sum = seen(check, at_first, first) + seen(check, at_second, second);
                        fits = modulo(sum) == candidate.r[check];
                    }
                    if (!fits) continue;
                    if (found++) return found;
                    pair[0] = {at_first, first}, pair[1] = {at_second, second};
                }
            }
        }
        return found;
    }

    /// Whether one syndrome alone is not zero although an error of an output would show in another too.
    bool check_has_erred(const Candidate &candidate) const {
        int nonzero = 0, last = 0;
        for (int j = 0; j < units_.checks; ++j) {
            if (candidate.r[j] != 0) ++nonzero, last = j;
        }
        return units_.checks > 1 && nonzero == 1 && !(last == 1 && units_.checks == 2);
    }

    void correct(const Candidate &candidate, int32_t place, int64_t error) {
        int32_t &sum = task_.y[candidate.row * task_.row_stride + candidate.start + place];
        sum = static_cast<int32_t>(static_cast<uint32_t>(sum) - static_cast<uint32_t>(error));
        ++corrected;
    }

    void mark(const Candidate &candidate) {
        for (int32_t i = 0; i < candidate.width; ++i) {
            const bool kept =
                units_.column_checks && !large(static_cast<int32_t>(q(candidate.group, candidate.start + i)), task_.theta);
            if (!kept) marks.push_back({candidate.row, candidate.start + i});
        }
    }

    Record judge(const Candidate &candidate) {
        const int32_t fit = find_fit(candidate);
        Located pair[2];
        const int pairs = find_pairs(candidate, pair);
        Record record{};
        Outcome outcome = OUTCOME_IGNORED;
        const size_t marks_before = marks.size();
        Located repaired[2];
        int repairs = 0;
        if (pairs == 1 && fit < 0 && !check_has_erred(candidate)) {
            outcome = OUTCOME_CORRECTED;
            for (const Located &each : pair) {
                if (each.place != kPlainCheck) repaired[repairs++] = each;
            }
            const uint32_t other = repairs == 2 ? pair[1].place : kPlainCheck;
            LOG_PLACE.put(record.words, repaired[0].place);
            LOG_OTHER_PLACE.put(record.words, other);
            LOG_PAIR.put(record.words, 1);
        } else if (pairs > 0) {
            outcome = OUTCOME_UNCORRECTABLE;
            mark(candidate);
        } else if (fit >= 0 && task_.correct) {
            outcome = OUTCOME_CORRECTED;
            LOG_PLACE.put(record.words, fit);
            repaired[repairs++] = {fit, candidate.r[0]};
        } else if (fit >= 0) {
            outcome = OUTCOME_LOCATED;
            LOG_PLACE.put(record.words, fit);
            marks.push_back({candidate.row, candidate.start + fit});
        } else if (!check_has_erred(candidate)) {
            outcome = OUTCOME_UNCORRECTABLE;
            mark(candidate);
        }
        for (int i = 0; i < repairs; ++i) correct(candidate, repaired[i].place, repaired[i].error);
        count_truth(candidate, repaired, repairs, marks_before);
        LOG_ROW.put(record.words, task_.first_row + static_cast<uint32_t>(candidate.row));
        LOG_COL.put(record.words, task_.first_col + static_cast<uint32_t>(candidate.start));
        LOG_SYNDROME.put(record.words, static_cast<uint32_t>(candidate.r[0]));
        LOG_COUNT.put(record.words, static_cast<uint32_t>(marks.size() - marks_before));
        LOG_OUTCOME.put(record.words, outcome);
        LOG_NEGATIVE.put(record.words, candidate.r[0] < 0);
        for (size_t i = marks_before; i < marks.size(); ++i) {
            const int32_t position = marks[i].col - candidate.start;
            record.words[LOG_MASK_WORD + position / WORD_BITS] |= uint32_t{1} << position % WORD_BITS;
        }
        return record;
    }

    /// What is wrong afterwards, known here because the errors are.
    void count_truth(const Candidate &candidate, const Located *repaired, int repairs, size_t marks_before) {
        uint32_t left[2];
        for (int i = 0; i < repairs; ++i) left[i] = -static_cast<uint32_t>(repaired[i].error);
        size_t mark = marks_before;  // Marks and errors are both in order of columns.
        for (int64_t e = candidate.first_error; e < candidate.last_error; ++e) {
            const int32_t col = task_.error_cols[e];
            while (mark < marks.size() && marks[mark].col < col) ++mark;
            int at = 0;
            while (at < repairs && candidate.start + repaired[at].place != col) ++at;
            if (at < repairs) {
                left[at] += static_cast<uint32_t>(task_.error_deltas[e]);
            } else if (mark == marks.size() || marks[mark].col != col) {
                ++missed;
            }
        }
        for (int i = 0; i < repairs; ++i) wrong += left[i] != 0;
    }

    const Units &units_;
    CheckTask &task_;
    const std::vector<int32_t> &block_of_;
    const int32_t first_, end_;
    const int64_t groups_;
    std::vector<Candidate> candidates_;
    std::vector<uint32_t> q_;
    std::vector<Value> values_;
};

}  // namespace

/// Finds, corrects, marks and logs. Returns the number of marks; if it is above `mark_capacity`, they are not written.
extern "C" int64_t brownout_check(const Units *units, CheckTask *task) {
    std::vector<int32_t> block_of(task->segment_count);  // Column of blocks that a segment is in.
    int64_t segment = 0;
    for (int64_t block = 0; block < task->col_block_count; ++block) {
        const int64_t end = task->col_blocks[block + 1] * units->segments_per_tile;
        for (; segment < std::min(end, task->segment_count); ++segment) block_of[segment] = static_cast<int32_t>(block);
    }
    std::vector<BlockRow> rows;
    rows.reserve(task->row_block_count);
    std::vector<int64_t> first_groups(1, 0);
    for (int64_t i = 0; i < task->row_block_count; ++i) {
        rows.emplace_back(*units, *task, block_of, i);
        const int64_t height = task->row_blocks[i + 1] - task->row_blocks[i];
        first_groups.push_back(first_groups.back() + (height + units->group_rows - 1) / units->group_rows);
    }
    const int useful = task->error_count + task->check_count + task->digit_count < 2048 ? 1 : task->threads;
    brownout::parallel_for(task->row_block_count, useful, [&](int64_t i) { rows[i].run(first_groups[i]); });

    task->detected = task->corrected = task->marked = task->records = task->missed = task->wrong = 0;
    uint64_t *block_records = task->block_records;
    for (const BlockRow &row : rows) {
        int64_t room = task->room - task->records;
        for (const int64_t kept : row.block_records) {
            *block_records++ = static_cast<uint64_t>(std::min(kept, room));
            room -= std::min(kept, room);
        }
        task->detected += row.detected;
        task->corrected += row.corrected;
        task->missed += row.missed;
        task->wrong += row.wrong;
        for (const Record &record : row.records) {
            if (task->records == task->room) break;
            const unsigned words = log_record_words(units->column_checks);
            std::memcpy(task->log + words * task->records++, record.words, words * sizeof record.words[0]);
        }
        for (const Mark &mark : row.marks) {
            if (task->marked < task->mark_capacity) {
                task->mark_rows[task->marked] = mark.row;
                task->mark_cols[task->marked] = mark.col;
            }
            ++task->marked;
        }
    }
    return task->marked;
}
