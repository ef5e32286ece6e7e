// Products on an array whose carries settle late: the `carry` model of timing errors.
//
// A late bit is one at the end of a run of L bits through which a carry passes. A carry passes through bit i where
// T = P & ~S is set (P = x ^ y, S = x + y), so late = run_L(T) << 1 for L >= 1. A run of L bits below bit 31 always
// covers bits 31-L .. L-1, and one look at these shows for most sums that no bit is late.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "kernel_structs.h"
#include "parallel.h"
#include "vectors.h"

using namespace brownout;

namespace {

constexpr int kSafeLength = hw::SAFE_LENGTH;
constexpr int kRareLength = 24;  // Below, late bits are so frequent that looking first costs more than it saves.
constexpr int64_t kColumnsPerTask = 128;
constexpr int64_t kPadding = kLanes;

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

/// Positions in their order of issue of the rows of one block: data row m, or digit d of a group.
struct Issue {
    struct Group {
        int64_t first_row, rows, position;
    };
    std::vector<Group> groups;
    int64_t count = 0;

    Issue(const CarryTask &task, int64_t block) {
        const int64_t end = task.row_blocks[block + 1];
        int64_t start = task.row_blocks[block];
        while (start < end) {
            const int64_t rows = task.digits ? std::min<int64_t>(task.group_rows, end - start) : end - start;
            groups.push_back({start, rows, count});
            count += rows + task.digits;
            start += rows;
        }
    }
};

/// Activations of a k-tile, one line of issued rows for each array row, padded with zeros.
template <typename T>
void pack(const CarryTask &task, const Issue &issue, int64_t first_k, int64_t count, int64_t stride, T *lines) {
    std::fill(lines, lines + count * stride, 0);
    for (int64_t r = 0; r < count; ++r) {
        const int8_t *column = task.a + (first_k + r) * task.a_col;
        T *line = lines + r * stride;
        for (const Issue::Group &group : issue.groups) {
            int32_t sum = 0;
            for (int64_t i = 0; i < group.rows; ++i) {
                const int8_t value = column[(group.first_row + i) * task.a_row];
                line[group.position + i] = value;
                sum += value;
            }
            for (int32_t d = 0; d < task.digits; ++d) {
                const auto low = static_cast<int8_t>(sum);
                line[group.position + group.rows + d] = low;
                sum = (sum - low) >> 8;
            }
        }
    }
}

/// Shifts whose doubling makes run_L of T: each step joins runs of what has been reached so far.
struct RunSteps {
    int shifts[6] = {};

    explicit RunSteps(int length) {
        int reached = 1;
        for (int &shift : shifts) {
            shift = std::max(0, std::min(reached, length - reached));
            reached += shift;
        }
    }
};

/// One processing element of a column in a pass.
struct Element {
    int32_t weight, length;
    uint32_t core;  // Bits that every run of `length` bits covers.
    int64_t r;
    RunSteps steps;
};

/// Lanes of the row before each: the last of the rows above, then all but the last of these. Not a load from one word
/// before, which would wait until the store that it overlaps has left the pipeline.
inline Ints one_row_down(Ints above, Ints rows) {
    return __builtin_shuffle(above, rows, Ints{15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30});
}

/// What 16 elements that may have late bits catch in time; `stale` are the settled sums of the row before.
inline Ints caught(Ints x, Ints y, Ints settled, Ints stale, const Element &element, Words allowed) {
    Words late;
    if (element.length == 0) {
        late = (Words)(settled ^ x ^ y);
    } else {
        Words run = (Words)((x ^ y) & ~settled);
        for (int step = 0; step < 5; ++step) run &= run << element.steps.shifts[step];  // Five reach 31.
        late = run << 1;
    }
    late &= allowed;
    return (Ints)(((Words)settled & ~late) | ((Words)stale & late));
}

struct Counts {
    int64_t injected = 0, dropped = 0;
};

/// One column of the array in one pass: adds its sums to `total` (issued rows). `last_row` is the array's.
template <bool kRazor>
Counts run_column(const std::vector<Element> &elements, const int32_t *activations, int32_t *settled_lines,
                  int64_t stride, int64_t count, int64_t last_row, int32_t *total) {
    Counts counts;
    Words allowed = Words{} - 1;
    allowed[0] = 0;  // The first row of a pass has no late bits.
    for (int64_t at = 0; at < count; at += kLanes) {
        Ints x{};
        Ints borrowed{};   // Ones where the element above needs the cycle of the next one.
        int64_t next = 0;  // The row below the last element.
        for (const Element &element : elements) {
            const Ints y = load_ints(activations + element.r * stride + at) * element.weight;
            const Ints settled = x + y;
            Ints out = settled;
            if (kRazor) {
                // An element that was left out has nothing to drop, but its cycle ends the borrowing.
                if (element.r != next) borrowed = Ints{};
                next = element.r + 1;
                out = (x & borrowed) | (settled & ~borrowed);
            }
            if (element.length >= kSafeLength) {
                x = out;
                borrowed = Ints{};
                continue;
            }
            int32_t *line = settled_lines + element.r * stride + kPadding + at;
            store_ints(line, settled);
            const Ints blocked = ~((x ^ y) & ~settled);
            if (__builtin_expect(lanes_disjoint(blocked, Ints{} + static_cast<int32_t>(element.core)) != 0, 0)) {
                const Ints stale = one_row_down(load_ints(line - kLanes), settled);
                const Ints in_time = caught(x, y, settled, stale, element, allowed);
                const Ints wrong = kRazor ? (in_time ^ settled) & ~borrowed : in_time ^ settled;
                const int errors = __builtin_popcount(lanes_disjoint(wrong, Ints{} - 1) ^ 0xffff);
                counts.injected += errors;
                if (kRazor) {
                    borrowed = wrong != 0;
                    counts.dropped += element.r < last_row ? errors : 0;
                } else {
                    out = in_time;
                }
            } else {
                borrowed = Ints{};
            }
            x = out;
        }
        store_ints(total + at, load_ints(total + at) + x);
        allowed = Words{} - 1;
    }
    return counts;
}

Counts array_columns(CarryTask &task, int64_t block, int64_t first_group, int64_t first_col, int64_t end_col) {
    const Issue issue(task, block);
    const int64_t stride = round_up(issue.count, kLanes) + kPadding;
    const auto run = task.razor ? run_column<true> : run_column<false>;
    std::vector<int32_t> activations(task.rows * stride), settled(task.rows * stride);
    std::vector<int64_t> columns;
    for (int64_t n = first_col; n < end_col; ++n) {
        bool errs = false;
        for (int32_t r = 0; r < task.rows && !errs; ++r) {
            errs = (task.lengths[r * task.lengths_row + n % task.cols] & hw::NOMINAL_LENGTH) < kSafeLength;
        }
        if (errs) columns.push_back(n);
    }
    if (columns.empty()) return {};
    std::vector<int32_t> totals(columns.size() * stride);
    std::vector<Element> elements;
    Counts counts;
    for (int64_t first_k = 0; first_k < task.k; first_k += task.rows) {
        const int64_t count = std::min<int64_t>(task.rows, task.k - first_k);
        pack(task, issue, first_k, count, stride, activations.data());
        for (size_t i = 0; i < columns.size(); ++i) {
            const int64_t n = columns[i];
            elements.clear();
            for (int64_t r = 0; r < count; ++r) {
                const int8_t weight = task.w[(first_k + r) * task.w_row + n * task.w_col];
                if (weight == 0) continue;  // Adds nothing, so no carry moves.
                const int length = task.lengths[r * task.lengths_row + n % task.cols] & hw::NOMINAL_LENGTH;
                const bool narrow = length >= kRareLength && length < kSafeLength;
                const uint32_t core = narrow ? ((1u << (2 * length - 31)) - 1) << (31 - length) : 0;
                elements.push_back({weight, length, core, r, RunSteps(length)});
            }
            const Counts column = run(elements, activations.data(), settled.data(), stride, issue.count, task.rows - 1,
                                      &totals[i * stride]);
            counts.injected += column.injected;
            counts.dropped += column.dropped;
        }
    }
    for (size_t g = 0; g < issue.groups.size(); ++g) {
        const Issue::Group &group = issue.groups[g];
        for (int64_t row = 0; row < group.rows; ++row) {
            for (size_t i = 0; i < columns.size(); ++i) {
                task.y[(group.first_row + row) * task.n + columns[i]] = totals[i * stride + group.position + row];
            }
        }
        for (size_t i = 0; i < columns.size() && task.digits; ++i) {
            uint32_t sum = 0;
            for (int32_t d = 0; d < task.digits; ++d) {
                sum += static_cast<uint32_t>(totals[i * stride + group.position + group.rows + d]) << (8 * d);
            }
            task.digit_sums[(first_group + g) * task.n + columns[i]] = sum;
        }
    }
    return counts;
}

/// A check column, whose sums are wider than 32 bits, or residues.
class CheckColumn {
public:
    CheckColumn(const CarryTask &task, int64_t tile, int32_t index) : task_(task), index_(index) {
        const int32_t segments = (task.cols + task.segment_cols - 1) / task.segment_cols;
        const int32_t segment = index / task.checks;
        check_ = index % task.checks;
        const int64_t start = tile * task.cols + segment * task.segment_cols;
        const int64_t stop = std::min<int64_t>({start + task.segment_cols, (tile + 1) * task.cols, task.n});
        first_ = start;
        end_ = std::max(start, stop);
        column_ = tile * segments * task.checks + index;
        modulus_ = task.moduli[check_];
        width_ = modulus_ ? task.widths[check_] + 1 : task.widths[check_];
    }

    bool errs() const {
        for (int32_t r = 0; r < task_.rows; ++r) {
            if (length(r) < width_ - 1) return first_ < end_;
        }
        return false;
    }

    int64_t column() const { return column_; }
    int32_t modulus() const { return modulus_; }
    int32_t width() const { return task_.widths[check_]; }

    /// Adds what leaves the column in one pass to `total`.
    int64_t run(int64_t first_k, int64_t count, const int64_t *activations, int64_t stride, int64_t rows,
                std::vector<int64_t> &x, std::vector<uint64_t> &settled, std::vector<uint64_t> &carried,
                int64_t *total) const {
        const uint64_t mask = (uint64_t{1} << width_) - 1;
        int64_t injected = 0;
        std::fill(x.begin(), x.end(), 0);
        for (int64_t r = 0; r < count; ++r) {
            const int64_t u = weight(first_k + r);
            const int length = this->length(static_cast<int32_t>(r));
            const RunSteps steps(length);
            const int64_t *line = activations + r * stride;
            for (int64_t i = 0; i < rows; ++i) {
                int64_t y = line[i] * u;
                if (modulus_) {
                    y += int64_t{128} * modulus_;
                    y = (y & modulus_) + (y >> hw::RESIDUE_BITS);
                    y = (y & modulus_) + (y >> hw::RESIDUE_BITS);
                    y = y == modulus_ ? 0 : y;
                }
                const uint64_t from = static_cast<uint64_t>(x[i]), with = static_cast<uint64_t>(y) & mask;
                settled[i] = (from + with) & mask;
                carried[i] = length ? (from ^ with) & ~settled[i] : from ^ with ^ settled[i];
            }
            for (int64_t i = 0; i < rows; ++i) {
                uint64_t run = carried[i];
                for (int shift : steps.shifts) run &= run << shift;
                const uint64_t late = i == 0 ? 0 : (length ? run << 1 : run) & mask;
                const uint64_t stale = i == 0 ? 0 : settled[i - 1];
                const uint64_t out = (settled[i] & ~late) | (stale & late);
                injected += out != settled[i];
                x[i] = static_cast<int64_t>(modulus_ ? ((out & modulus_) + (out >> hw::RESIDUE_BITS)) & modulus_ : out);
            }
        }
        for (int64_t i = 0; i < rows; ++i) total[i] += x[i];
        return injected;
    }

private:
    int length(int32_t r) const { return task_.lengths[r * task_.lengths_row + task_.cols + index_] & hw::NOMINAL_LENGTH; }

    /// u_j[k, s].
    int64_t weight(int64_t k) const {
        int64_t sum = 0;
        for (int64_t n = first_; n < end_; ++n) {
            sum += int64_t{task_.weights[check_ * task_.segment_cols + n - first_]} * task_.w[k * task_.w_row + n * task_.w_col];
        }
        return modulus_ ? (sum % modulus_ + modulus_) % modulus_ : sum;
    }

    const CarryTask &task_;
    int32_t index_, check_, modulus_, width_;
    int64_t first_, end_, column_;
};

int64_t check_columns(CarryTask &task, int64_t block, int64_t tile) {
    const int32_t segments = (task.cols + task.segment_cols - 1) / task.segment_cols;
    const int64_t tiles = (task.n + task.cols - 1) / task.cols, all = tiles * segments * task.checks;
    std::vector<CheckColumn> columns;
    for (int32_t index = 0; index < segments * task.checks; ++index) {
        const CheckColumn column(task, tile, index);
        if (column.errs()) columns.push_back(column);
    }
    if (columns.empty()) return 0;
    const Issue issue(task, block);
    std::vector<int64_t> activations(task.rows * issue.count), x(issue.count), totals(columns.size() * issue.count);
    std::vector<uint64_t> settled(issue.count), carried(issue.count);
    int64_t injected = 0;
    for (int64_t first_k = 0; first_k < task.k; first_k += task.rows) {
        const int64_t count = std::min<int64_t>(task.rows, task.k - first_k);
        pack(task, issue, first_k, count, issue.count, activations.data());
        for (size_t i = 0; i < columns.size(); ++i) {
            injected += columns[i].run(first_k, count, activations.data(), issue.count, issue.count, x, settled, carried,
                                       &totals[i * issue.count]);
        }
    }
    for (size_t i = 0; i < columns.size(); ++i) {
        const int unused = 64 - columns[i].width();
        for (const Issue::Group &group : issue.groups) {
            for (int64_t row = 0; row < group.rows; ++row) {
                const int64_t sum = totals[i * issue.count + group.position + row];
                const int64_t wrapped = static_cast<int64_t>(static_cast<uint64_t>(sum) << unused) >> unused;
                task.check_sums[(group.first_row + row) * all + columns[i].column()] =
                    columns[i].modulus() ? sum % columns[i].modulus() : wrapped;
            }
        }
    }
    return injected;
}

}  // namespace

/// Computes the product with late carries.
extern "C" void brownout_carry(CarryTask *task) {
    std::vector<int64_t> first_groups(1, 0);
    for (int64_t i = 0; i < task->row_block_count; ++i) {
        first_groups.push_back(first_groups.back() + static_cast<int64_t>(Issue(*task, i).groups.size()));
    }
    const int64_t pieces = (task->n + kColumnsPerTask - 1) / kColumnsPerTask;
    const int64_t array_tasks = task->row_block_count * pieces;
    const int64_t tiles = task->checks ? (task->n + task->cols - 1) / task->cols : 0;
    std::atomic<int64_t> injected{0}, dropped{0};
    parallel_for(array_tasks + task->row_block_count * tiles, task->threads, [&](int64_t index) {
        if (index < array_tasks) {
            const int64_t block = index / pieces, first = index % pieces * kColumnsPerTask;
            const int64_t end = std::min(first + kColumnsPerTask, task->n);
            const Counts counts = array_columns(*task, block, first_groups[block], first, end);
            injected += counts.injected;
            dropped += counts.dropped;
        } else {
            const int64_t rest = index - array_tasks;
            injected += check_columns(*task, rest / tiles, rest % tiles);
        }
    });
    task->injected = injected;
    task->dropped = dropped;
}

/// Where two matrices (rows x cols, rows without gaps) differ, in order of rows, then columns: place, and second minus
/// first. Returns how many there are; if they are more than `capacity`, only the first ones are written.
extern "C" int64_t brownout_differences(const int32_t *first, const int32_t *second, int64_t rows, int64_t cols,
                                        int64_t capacity, int32_t *out_rows, int32_t *out_cols, int64_t *out_deltas) {
    int64_t found = 0;
    for (int64_t row = 0; row < rows; ++row) {
        const int32_t *x = first + row * cols, *y = second + row * cols;
        for (int64_t col = 0; col < cols; ++col) {
            if (x[col] == y[col]) continue;
            if (found < capacity) {
                out_rows[found] = static_cast<int32_t>(row);
                out_cols[found] = static_cast<int32_t>(col);
                out_deltas[found] = int64_t{y[col]} - x[col];
            }
            ++found;
        }
    }
    return found;
}
