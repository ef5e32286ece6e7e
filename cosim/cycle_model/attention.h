// Where ATTENTION is among the keys of a block (hw/load/fetcher.py, hw/array/sequencer.py), and when the score unit is
// done with it (hw/attention/score_unit.py).

#pragma once

#include <algorithm>

#include "types.h"

namespace brownout::cycles {

// Slabs of transposed keys, then, as `values`, of V.
struct KeyWalk {
    bool values = false;
    uint64_t left = 0;

    void begin(const Command& command) {
        values = false;
        left = command.keys;
    }
    uint64_t most(const Config& config) const { return config.block_col_tiles * config.cols; }
    bool last(const Config& config) const { return left <= most(config); }
    uint64_t cols(const Config& config) const { return std::min(left, most(config)); }
};

// A pass over the scores of a block for the largest of each row, one for exponentials: a row of a tile a cycle.
struct ScorePasses {
    Cycle begin = 0;  // of the second pass, once all scores are stored
    Cycle tile = 0;   // cycles of a column tile
    Cycle scaled = 0;  // when the drain sees the output scales of the block
    bool started = false;  // the first pass

    // Of a block of so many rows.
    void start(uint64_t rows) {
        started = false;
        tile = Cycle(std::max<uint64_t>(rows, SCORE_LEAST_ROWS));
    }
    // In cycle `ready` the unit sees that so many further column tiles are stored, over which it can pass.
    void stored(Cycle ready, uint64_t tiles) {
        begin = (started ? std::max(begin, ready) : ready + 1) + Cycle(tiles) * tile;
        started = true;
    }
    void finish(const Config& config, uint64_t rows, uint64_t keys) {
        const Cycle tiles = Cycle(ceil_div(keys, config.cols));
        scaled = begin + (tiles - 1) * tile + Cycle(rows) + Cycle(config.scale_latency);
    }
    // When the sequencer sees that the exponentials of a column tile of keys are there.
    Cycle exponentials(const Config& config, uint64_t index) const {
        return begin + Cycle(index + 1) * tile + Cycle(config.exponential_latency);
    }
};

}  // namespace brownout::cycles
