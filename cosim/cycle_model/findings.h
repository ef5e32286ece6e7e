// What the checks of a product find, as far as time and open rows depend on it: docs/protection.md.

#pragma once

#include <algorithm>
#include <vector>

#include "types.h"
#include "walker.h"

namespace brownout::cycles {

// What happens to the syndrome log after each block.
class BlockLogs {
public:
    static constexpr uint8_t NONE = 0;     // no records
    static constexpr uint8_t NO_ROOM = 1;  // records, none of them written; beyond: one more for each written

    BlockLogs(const Config& config, const Command& command, const Found& found) {
        if (!command.check() || !found.blocks) return;
        uint64_t room = command.log_bytes / config.log_record_bytes;
        m_blocks.reserve(found.blocks);
        for (uint64_t block = 0; block < found.blocks; ++block) {
            const uint64_t held = std::min<uint64_t>(found.records[block], LOG_RECORDS_PER_BLOCK);
            const uint64_t written = std::min(held, room);
            room -= written;
            m_blocks.push_back(uint8_t(held ? NO_ROOM + written : NONE));
        }
        if (std::all_of(m_blocks.begin(), m_blocks.end(), [&](uint8_t x) { return x == m_blocks[0] && x <= NO_ROOM; })) {
            m_all = m_blocks[0];
            m_blocks.clear();
        }
    }
    // The same for all blocks, and nothing written.
    bool uniform() const { return m_blocks.empty(); }
    uint8_t of(uint64_t block) const { return uniform() ? m_all : m_blocks[block]; }
    uint64_t written(uint64_t block) const { return std::max(of(block), NO_ROOM) - NO_ROOM; }
    // How often, at most, the `period` blocks from `begin` on come again as they are. The drain may be anywhere in a block.
    uint64_t repetitions(uint64_t begin, uint64_t period, uint64_t most) const {
        if (uniform() || !period) return most;
        uint64_t block = begin;
        const uint64_t end = std::min(begin + most * period + 1, m_blocks.size() - period);
        while (block < end && m_blocks[block] <= NO_ROOM && m_blocks[block] == m_blocks[block + period]) ++block;
        return block == begin ? 0 : std::min(most, (block - 1 - begin) / period);
    }

private:
    std::vector<uint8_t> m_blocks;
    uint8_t m_all = NONE;
};

// Beats of the output of which every byte is suppressed or outside of the row, numbered in the order of draining.
inline std::vector<uint64_t> blank_beats(const Config& config, const Command& command, const Found& found) {
    struct Columns {  // of blocks
        uint64_t begin, end, first_beat, beats, beats_before;
    };
    const uint64_t element = command.output_bytes(), bus = config.bus_bytes;
    std::vector<Columns> columns;
    uint64_t row_beats = 0;
    for (uint64_t left = command.n, begin = 0; left;) {
        const uint64_t tiles = Split::first(ceil_div(left, config.cols), config.block_col_tiles);
        const uint64_t end = begin + std::min(left, tiles * config.cols);
        // Rows of tiles begin with a beat.
        const uint64_t first = command.y_tiled() ? 0 : begin * element / bus;
        const uint64_t beats = ceil_div((command.y_tiled() ? end - begin : end) * element, bus) - first;
        columns.push_back({begin, end, first, beats, row_beats});
        row_beats += beats;
        left -= end - begin;
        begin = end;
    }
    std::vector<uint64_t> row_blocks;  // first rows
    const auto rows_of = [&](uint64_t left) {
        const uint64_t largest = command.largest_rows(config);
        return command.attention() ? std::min(left, largest) : Split::first(left, largest);
    };
    for (uint64_t left = command.m; left; left -= rows_of(left))
        row_blocks.push_back(command.m - left);

    std::vector<uint64_t> places(found.suppressed, found.suppressed + found.suppressed_count), blank;
    std::sort(places.begin(), places.end());
    for (size_t i = 0; i < places.size();) {
        const uint64_t row = places[i] / command.n, col = places[i] % command.n;
        const auto block = std::prev(std::upper_bound(columns.begin(), columns.end(), col,
                                                      [](uint64_t x, const Columns& c) { return x < c.begin; }));
        const uint64_t origin = command.y_tiled() ? block->begin : 0;  // of the row's beats
        const uint64_t beat = (col - origin) * element / bus;
        const uint64_t begin = std::max(block->begin, origin + beat * bus / element);
        const uint64_t end = std::min(block->end, origin + (beat + 1) * bus / element);
        const size_t first = i;
        while (i < places.size() && places[i] < row * command.n + end) ++i;
        if (i - first != end - begin) continue;
        const uint64_t product = row / command.m, m = row % command.m;
        const auto next = std::upper_bound(row_blocks.begin(), row_blocks.end(), m);
        const uint64_t first_row = *std::prev(next), end_row = next == row_blocks.end() ? command.m : *next;
        blank.push_back((product * command.m + first_row) * row_beats + (end_row - first_row) * block->beats_before
                        + (m - first_row) * block->beats + beat - block->first_beat);
    }
    std::sort(blank.begin(), blank.end());
    return blank;
}

struct Findings {
    const BlockLogs logs;
    const std::vector<uint64_t> blank;

    Findings(const Config& config, const Command& command, const Found& found)
        : logs(config, command, found),
          blank(command.suppress() && found.suppressed_count ? blank_beats(config, command, found) : std::vector<uint64_t>()) {}
    // Few products are like that, so their outcomes are worth remembering.
    bool simple() const { return logs.uniform() && blank.empty(); }
};

}  // namespace brownout::cycles
