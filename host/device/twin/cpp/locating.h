// Where in a segment the errors are to which its syndromes point.
#pragma once

#include <cstdint>

#include "kernel_structs.h"
#include "syndromes.h"

namespace brownout {

/// An error at a place of a segment; `kPlainCheck` is the plain check itself.
struct Located {
    int32_t place;
    int64_t error;
};

constexpr int32_t kPlainCheck = hw::LOG_PLAIN_CHECK;

class Locator {
public:
    Locator(const Units &units, const CheckTask &task, const Syndromes &syndromes)
        : units_(units), task_(task), syndromes_(syndromes) {}

    bool flagged(const Candidate &candidate) const;

    /// Position in the segment to which the evidence points, -1 if to none.
    int32_t find_fit(const Candidate &candidate) const;

    /// Pairs of errors that explain the syndromes: how many, but not more than two; `pair` is the first one found.
    int find_pairs(const Candidate &candidate, Located (&pair)[2]) const;

    /// Whether one syndrome alone is not zero although an error of an output would show in another too.
    bool check_has_erred(const Candidate &candidate) const;

private:
    int64_t seen(int check, int32_t place, int64_t error) const;

    const Units &units_;
    const CheckTask &task_;
    const Syndromes &syndromes_;
};

}  // namespace brownout
