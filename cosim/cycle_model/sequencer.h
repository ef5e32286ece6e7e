// Passes: hw/array/sequencer.py.

#pragma once

#include <algorithm>

#include "attention.h"
#include "queues.h"
#include "walker.h"

namespace brownout::cycles {

// Both halves. Event-driven: `wake` is the next cycle in which a pass may begin; a pass, once begun, is known to its
// end.
struct Sequencer {
    Walker walker;
    Credits slabs, tiles, banks;
    Cycle wake = NEVER;
    Cycle candidate = 0;  // first cycle in which the weight half is free for another pass
    Cycle last_go = 0;    // when it began the last one; the weight tile is read in the `rows` cycles after
    Cycle rows_end = 0;   // cycle in which the row half issues (or issued) its last row
    bool new_block = true, first_k = true;
    uint32_t k_tile = 0, col_tile = 0, tiles_left = 0;
    uint64_t k_left = 0, n_left = 0, slab = 0;
    KeyWalk keys;
    ScorePasses scores;
    uint64_t key_tile = 0;
    bool began_slab = false, began_block = false;  // since they were cleared

    // `start` is high in cycle t.
    void start(const Config& config, const Command& command, Cycle t) {
        walker.start(config, command);
        banks.count = BANKS;
        banks.since = banks.latest = t;
        begin_block(config, command);
        // The walker shows the first block in t + 1; that cycle is lost to `entered`.
        wake = candidate = t + 2;
        rows_end = t;
        last_go = t - Cycle(config.rows) - 1;
        began_slab = began_block = false;
    }
    void begin_block(const Config& config, const Command& command) {
        new_block = first_k = true;
        k_left = command.k;
        keys.begin(command);
        n_left = command.attention() ? keys.cols(config) : walker.cols;
        k_tile = col_tile = 0;
        slab = 0;
    }
    void credit(Credits& credits, Cycle visible) {
        credits.send(visible);
        wake = std::min(wake, std::max(candidate, visible));
    }

    void evaluate(const Config& config, const Command& command, Cycle t, Counters& counters, Credits& slabs_free,
                  Room& room, Cycle& load_wake, Credits& blocks_ready, Credits& scales_ready, Cycle& drain_wake) {
        slabs.receive(t);
        tiles.receive(t);
        banks.receive(t);
        wake = NEVER;
        if (!walker.valid) return;
        if (t < candidate) {
            wake = candidate;
            return;
        }
        const bool new_tile = !col_tile, new_slab = new_tile && !k_tile;
        const bool of_values = keys.values, of_scores = command.attention() && !of_values;
        // Of the sums of values only one block is on chip, and they wait for exponentials.
        const bool takes_bank = new_block && !of_scores;
        const bool takes_slab = command.attention() ? new_block && of_scores : new_slab && !walker.kept;
        const Cycle exponentials_at = of_values && new_tile ? scores.exponentials(config, key_tile) : 0;
        if ((takes_bank && banks.count < (of_values ? BANKS : 1u)) || (takes_slab && !slabs.count)
            || (new_tile && !tiles.count) || t < exponentials_at) {
            wake = std::min({banks.next(), slabs.next(), tiles.next(), t < exponentials_at ? exponentials_at : NEVER});
            return;
        }
        const Cycle bank_at = std::max(takes_bank ? of_values ? banks.latest : banks.since : 0, exponentials_at);
        const Cycle data_at = std::max(takes_slab ? slabs.since : 0, new_tile ? tiles.since : 0);
        banks.count -= takes_bank;
        slabs.count -= takes_slab;
        tiles.count -= new_tile;
        if (new_slab) {
            began_slab = true;
            began_block |= new_block;
            tiles_left = uint32_t(Split::first(ceil_div(k_left, config.rows), config.slab_k_tiles));
        }

        // Idle cycles up to now. Waiting for a bank or for data is seen only once the last weight tile has been read.
        if (t > rows_end) {
            const Cycle from = std::max(rows_end, last_go + Cycle(config.rows)) + 1;
            const Cycle drained = std::clamp(bank_at, std::min(from, t), t);
            const Cycle loaded = std::clamp(data_at, drained, t);
            const Cycle drain_stall = std::max<Cycle>(0, drained - from);
            const Cycle load_stall = std::max<Cycle>(0, loaded - std::max(drained, from));
            counters.stall_drain_cycles += uint64_t(drain_stall);
            counters.stall_load_cycles += uint64_t(load_stall);
            counters.stall_weight_cycles += uint64_t(t - rows_end - drain_stall - load_stall);
        }
        // Row half: it takes the pass two cycles later at the earliest, when its last row is being issued.
        const Cycle taken = std::max(t + 2, rows_end);
        counters.stall_weight_cycles += uint64_t(taken - std::max(t, rows_end));

        const uint64_t rows = walker.rows, digits = command.check() ? config.digits : 0;
        const uint64_t all_rows = rows + (digits ? ceil_div(rows, config.group_rows) * digits : 0);
        const bool last_k = k_left <= config.rows, last_col = n_left <= config.cols;
        counters.busy_cycles += all_rows;
        counters.macs += rows * std::min(k_left, config.rows) * std::min(n_left, config.cols);
        counters.sram_read_bytes += (rows + config.cols) * config.rows;
        counters.sram_read_bytes += first_k ? 0 : all_rows * config.cols * ACC_BYTES;
        counters.sram_write_bytes += all_rows * config.cols * ACC_BYTES;
        last_go = t;
        rows_end = taken + Cycle(all_rows);
        candidate = wake = std::max(taken + 1, t + Cycle(config.rows));
        if (last_col && tiles_left == 1) {
            // The slab is free after the last row of data; the digits of the last group come after it.
            slabs_free.send(rows_end - Cycle(digits) + 1);
            if (command.keep() && walker.last_in_row)
                room.send(rows_end - Cycle(digits) + 1, (uint64_t(k_tile) + 1) * walker.rows);
            load_wake = std::min(load_wake, slabs_free.next());
        }
        // Heads of one k-tile: the score unit follows tile by tile, otherwise it waits for all of them.
        const bool follows = command.k <= config.rows;
        const bool all_scores = last_col && last_k && keys.last(config);
        if (of_scores && new_block) scores.start(rows);
        if (of_scores && (follows || all_scores)) {
            // As `blocks_ready` below: `score_tile_done` or `scores_done`, `tiles_waiting` or `waiting`.
            const Cycle stored = rows_end + Cycle(config.rows + config.cols) + (config.checksum ? 4 : 2);
            scores.stored(stored, follows ? 1 : ceil_div(command.keys, config.cols));
        }
        if (of_scores && all_scores) {
            scores.finish(config, rows, command.keys);
            scales_ready.send(scores.scaled);
            drain_wake = std::min(drain_wake, scales_ready.next());
            const uint64_t vectors = rows * ceil_div(command.keys, config.cols);
            counters.sram_read_bytes += 2 * vectors * config.cols * ACC_BYTES;
            counters.sram_write_bytes += vectors * config.cols;
        }
        if (last_col && last_k && !of_scores) {
            // R + C - 1 cycles through the array, one to store the sum, `storing`, `block_done`, `blocks_ready`.
            // With checksum units the last syndrome is stored two cycles after the last sum.
            blocks_ready.send(rows_end + Cycle(config.rows + config.cols) + (config.checksum ? 4 : 2));
            drain_wake = std::min(drain_wake, blocks_ready.next());
        }

        new_block = false;
        ++col_tile;
        n_left -= config.cols;
        if (!last_col) return;
        first_k = false;
        col_tile = 0;
        n_left = of_scores ? keys.cols(config) : walker.cols;
        key_tile += of_values;
        ++k_tile;
        k_left -= config.rows;
        if (--tiles_left == 0) {
            k_tile = 0;
            ++slab;
        }
        if (!last_k) return;
        if (of_scores) {
            next_keys(config, command);
            return;
        }
        walker.advance(config);
        if (walker.valid) begin_block(config, command);
    }

    // After a slab of keys.
    void next_keys(const Config& config, const Command& command) {
        first_k = true;
        if (keys.last(config)) {
            keys.values = new_block = true;
            key_tile = 0;
            k_left = command.keys;
            n_left = walker.cols;
            return;
        }
        keys.left -= keys.cols(config);
        k_left = command.k;
        n_left = keys.cols(config);
    }

    template <class V>
    void visit(V& v) {
        walker.visit(v);
        for (Credits* x : {&slabs, &tiles, &banks}) x->visit(v);
        for (Cycle* x : {&wake, &candidate, &last_go, &rows_end}) v.time(*x);
        for (bool* x : {&new_block, &first_k}) v.value(*x);
        for (uint32_t* x : {&k_tile, &col_tile, &tiles_left}) v.value(*x);
        for (uint64_t* x : {&k_left, &n_left, &slab}) v.absolute(*x);
    }
};

}  // namespace brownout::cycles
