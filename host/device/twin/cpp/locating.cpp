#include "locating.h"

#include "residues.h"

namespace brownout {

namespace {

constexpr int64_t kLargestError = int64_t{1} << 31;

}  // namespace

bool Locator::flagged(const Candidate &candidate) const {
    if (candidate.r[0] != 0) return large(candidate.r[0], task_.theta);
    for (int j = 1; j < units_.checks; ++j) {
        const int64_t r = candidate.r[j];
        if (is_residue(units_, j) ? r != 0 && task_.theta <= 32 : large(r, task_.theta)) return true;
    }
    return false;
}

int32_t Locator::find_fit(const Candidate &candidate) const {
    const int32_t start = candidate.start, width = candidate.width;
    const int64_t group = candidate.group;
    if (units_.matches) {
        const auto r_0 = static_cast<uint32_t>(candidate.r[0]);
        if (r_0 == 0) return -1;
        if (syndromes_.repeated(candidate)) return -1;
        int32_t fit = -1;
        for (int32_t i = 0; i < width; ++i) {
            if (syndromes_.column(group, start + i) != r_0) continue;
            if (fit >= 0) return -1;
            fit = i;
        }
        return fit;
    }
    if (units_.checks == 1 || candidate.r[0] == 0) return -1;
    const auto reduced = static_cast<uint32_t>(modulo(candidate.r[0]));
    for (int32_t i = 0; i < width; ++i) {
        if (units_.column_checks && syndromes_.column(group, start + i) == 0) continue;
        bool fits = true;
        for (int j = 1; fits && j < units_.checks; ++j) {
            if (is_residue(units_, j)) {
                fits = candidate.r[j] == multiply_residues(weight(units_, j, i), reduced);
            } else {
                fits = candidate.r[j] == wrap(weight(units_, j, i) * candidate.r[0], units_.widths[j]);
            }
        }
        if (fits) return i;
    }
    return -1;
}

/// What an error at a place adds to a locator.
int64_t Locator::seen(int check, int32_t place, int64_t error) const {
    return place == kPlainCheck ? 0 : modulo(weight(units_, check, place) * error);
}

int Locator::find_pairs(const Candidate &candidate, Located (&pair)[2]) const {
    const int64_t r_0 = candidate.r[0];
    if (!units_.pairs || !task_.correct || r_0 == 0 || is_signed_power(r_0)) return 0;
    int found = 0;
    const int64_t lowest = r_0 & -r_0;
    for (const int64_t second : {lowest, -lowest}) {
        const int64_t first = r_0 - second;
        if (!is_signed_power(first) || magnitude_of(first) > kLargestError || lowest > kLargestError) continue;
        int64_t of_first[hw::MAX_SEGMENT_COLS + 1];
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

bool Locator::check_has_erred(const Candidate &candidate) const {
    int nonzero = 0, last = 0;
    for (int j = 0; j < units_.checks; ++j) {
        if (candidate.r[j] != 0) ++nonzero, last = j;
    }
    return units_.checks > 1 && nonzero == 1 && !(last == 1 && units_.checks == 2);
}

}  // namespace brownout
