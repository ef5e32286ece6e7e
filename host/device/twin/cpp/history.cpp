// Keeps what an output held before it is overwritten, where that may be wanted back.

#include <cstdint>
#include <cstring>

/// Copies segments of an int32 output (rows without gaps, n columns) to `saved`, `width` words for each.
///
/// A place is row * segments + segment; `starts` has the first column of each segment and, last, n.
extern "C" void brownout_save_segments(const int32_t *out, int64_t n, const int64_t *starts, int64_t segments,
                                       int64_t width, int64_t count, const int64_t *places, int32_t *saved) {
    constexpr int64_t kAhead = 16;  // Places are far apart in memory, and known long before.
    auto find = [&](int64_t i) { return out + places[i] / segments * n + starts[places[i] % segments]; };
    for (int64_t i = 0; i < count; ++i) {
        if (i + kAhead < count) __builtin_prefetch(find(i + kAhead));
        const int64_t segment = places[i] % segments;
        std::memcpy(saved + i * width, find(i), sizeof(int32_t) * (starts[segment + 1] - starts[segment]));
    }
}
