// What the checks of a row of blocks see of the errors in it: a syndrome is the sum of those that it covers.
#pragma once

#include <cstdint>
#include <vector>

#include "kernel_structs.h"

namespace brownout {

/// A segment of a row in which something has erred.
struct Candidate {
    int32_t row, segment;
    int32_t start, width;  // Columns of the segment that are in the output.
    int64_t group;
    int64_t r[hw::MAX_CHECKS];
    int64_t first_error, last_error;
};

/// Syndromes of all rows with the same blocks.
class Syndromes {
public:
    Syndromes(const Units &units, const CheckTask &task, int64_t index)
        : units_(units),
          task_(task),
          first_(static_cast<int32_t>(task.row_blocks[index])),
          end_(static_cast<int32_t>(task.row_blocks[index + 1])),
          groups_((end_ - first_ + units.group_rows - 1) / units.group_rows) {}

    /// Finds them; `first_group` is the number of groups in the rows of blocks before.
    void find(int64_t first_group);

    /// In order of rows, then segments.
    const std::vector<Candidate> &candidates() const { return candidates_; }

    /// Syndrome of the column check of a group.
    uint32_t column(int64_t group, int32_t col) const { return q_[group * task_.n + col]; }

    /// Whether another row of the group has the same plain syndrome in this segment.
    bool repeated(const Candidate &candidate) const;

private:
    void collect();
    void add_columns(int64_t first_group);

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

    static Value value_of(const Candidate &candidate) {
        return {candidate.group, candidate.segment, static_cast<uint32_t>(candidate.r[0])};
    }

    const Units &units_;
    const CheckTask &task_;
    const int32_t first_, end_;
    const int64_t groups_;
    std::vector<Candidate> candidates_;
    std::vector<uint32_t> q_;
    std::vector<Value> values_;
};

}  // namespace brownout
