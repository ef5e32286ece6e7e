// Checksums by linearity: a syndrome is the sum of the errors that it sees, so only errors are looked at, never the
// sums that are right.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernel_structs.h"
#include "locating.h"
#include "parallel.h"
#include "residues.h"
#include "syndromes.h"

using namespace brownout;
using namespace brownout::hw;

namespace {

struct Mark {
    int32_t row, col;
};

struct Record {
    uint32_t words[log_record_words(true)];  // The last ones only with column checks.
};

/// A row of blocks: all blocks with the same rows.
class BlockRow {
public:
    BlockRow(const Units &units, CheckTask &task, const std::vector<int32_t> &block_of, int64_t index)
        : units_(units), task_(task), block_of_(block_of), syndromes_(units, task, index) {}

    void run(int64_t first_group) {
        syndromes_.find(first_group);
        const Locator locator(units_, task_, syndromes_);
        const std::vector<Candidate> &candidates = syndromes_.candidates();
        // The hardware drains block after block; inside one, candidates are in its order already.
        std::vector<int64_t> ends(task_.col_block_count + 1);
        for (const Candidate &candidate : candidates) ++ends[block_of_[candidate.segment] + 1];
        for (int64_t block = 0; block < task_.col_block_count; ++block) ends[block + 1] += ends[block];
        std::vector<int32_t> order(candidates.size());
        std::vector<int64_t> next(ends.begin(), ends.end() - 1);
        for (size_t i = 0; i < candidates.size(); ++i) {
            order[next[block_of_[candidates[i].segment]]++] = static_cast<int32_t>(i);
        }
        records.reserve(candidates.size());
        block_records.assign(task_.col_block_count, 0);
        for (int64_t block = 0; block < task_.col_block_count; ++block) {
            int64_t kept = 0;
            for (int64_t i = ends[block]; i < ends[block + 1]; ++i) {
                if (i + kAhead < ends.back()) prefetch(candidates[order[i + kAhead]]);
                const Candidate &candidate = candidates[order[i]];
                if (locator.flagged(candidate)) {
                    const Record record = judge(locator, candidate);
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

    void correct(const Candidate &candidate, int32_t place, int64_t error) {
        int32_t &sum = task_.y[candidate.row * task_.row_stride + candidate.start + place];
        sum = static_cast<int32_t>(static_cast<uint32_t>(sum) - static_cast<uint32_t>(error));
        ++corrected;
    }

    void mark(const Candidate &candidate) {
        for (int32_t i = 0; i < candidate.width; ++i) {
            const int32_t col = candidate.start + i;
            const bool kept = units_.column_checks &&
                              !large(static_cast<int32_t>(syndromes_.column(candidate.group, col)), task_.theta);
            if (!kept) marks.push_back({candidate.row, col});
        }
    }

    Record judge(const Locator &locator, const Candidate &candidate) {
        const int32_t fit = locator.find_fit(candidate);
        Located pair[2];
        const int pairs = locator.find_pairs(candidate, pair);
        Record record{};
        Outcome outcome = OUTCOME_IGNORED;
        const size_t marks_before = marks.size();
        Located repaired[2];
        int repairs = 0;
        if (pairs == 1 && fit < 0 && !locator.check_has_erred(candidate)) {
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
        } else if (!locator.check_has_erred(candidate)) {
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
    Syndromes syndromes_;
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
