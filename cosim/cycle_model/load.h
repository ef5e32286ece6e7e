// Loading: hw/load/fetcher.py, hw/bus/read_port.py and hw/load/receiver.py.

#pragma once

#include <algorithm>

#include "attention.h"
#include "bursts.h"
#include "memory.h"
#include "queues.h"
#include "sequencer.h"
#include "walker.h"

namespace brownout::cycles {

// hw/load/jobs.py
struct Job {
    Operand kind = ACTIVATIONS;
    uint32_t rows = 0, zero_rows = 0, elements = 0, row_bytes = 0, beats = 0, offset = 0;

    template <class V>
    void visit(V& v) {
        v.value(kind);
        for (uint32_t* x : {&rows, &zero_rows, &elements, &row_bytes, &beats, &offset}) v.value(*x);
    }
};

// hw/load/unpacker.py; one for all three kinds of job, because only one is busy at a time.
struct Unpacker {
    bool busy = false, first_beat = false;
    Job job;
    uint32_t element_bytes = 1, level = 0, beats_left = 0, elements_left = 0, rows_left = 0, zero_rows_left = 0;

    bool needs_beat() const { return busy && level < element_bytes && beats_left; }
    void start(const Job& next, uint32_t bytes) {
        busy = first_beat = true;
        job = next;
        element_bytes = bytes;
        level = 0;
        beats_left = job.beats;
        elements_left = job.elements;
        rows_left = job.rows;
        zero_rows_left = job.zero_rows;
    }

    template <class V>
    void visit(V& v) {
        v.value(busy);
        if (!busy) return;
        v.value(first_beat);
        job.visit(v);
        for (uint32_t* x : {&element_bytes, &level, &beats_left}) v.value(*x);
        for (uint32_t* x : {&elements_left, &rows_left, &zero_rows_left}) v.value(*x);
    }
};

struct Load {
    enum State : uint8_t {
        IDLE,
        BLOCK,
        CHANNEL_REQUESTS,
        ACTIVATION_JOB,
        ACTIVATION_REQUESTS,
        WEIGHT_JOB,
        WEIGHT_REQUESTS,
        WEIGHT_SLAB,
        NEXT_BLOCK
    };

    bool awake = false;
    Cycle wake = NEVER;

    // Fetcher.
    State state = IDLE;
    Walker walker;
    RowBursts bursts;
    Credits slabs_free, channels_free;
    Room room;
    uint64_t a_product = 0, w_product = 0, a_block = 0, w_block = 0, channel_block = 0, a_slab = 0, w_slab = 0;
    uint64_t k_left = 0, slab = 0;
    uint32_t slab_tiles = 0, slab_rows = 0;
    KeyWalk keys;
    uint64_t v_product = 0;
    bool a_never_split = false, w_never_split = false, channels_never_split = false;

    // Read port.
    uint32_t outstanding = 0;
    bool arvalid = false;
    Burst ar;

    // Receiver.
    FifoLevels levels;
    Ring<Job, JOB_QUEUE> jobs;
    Unpacker unpacker;
    uint32_t weight_row = 0;

    void start(const Config& config, const Command& command) {
        walker.start(config, command);
        slabs_free = channels_free = Credits{};
        slabs_free.count = channels_free.count = BUFFERS;
        room = Room{};
        room.vectors = config.activation_vectors;
        a_product = a_block = command.a_addr;
        w_product = w_block = command.w_addr;
        channel_block = command.channel_addr;
        v_product = command.v_addr;
        weight_row = 0;
        state = BLOCK;
        awake = true;
        wake = NEVER;
    }

    // Also accounts for what the receiver does; pulses go to the sequencer and, for channel tables, to the drain.
    void edge(const Config& config, const Command& command, Cycle t, const Memory::Outputs& memory, Counters& counters,
              Sequencer& sequencer, Credits& tables_ready, Cycle& drain_wake) {
        const unsigned bus_bytes = unsigned(config.bus_bytes);
        slabs_free.receive(t);
        channels_free.receive(t);
        room.receive(t);
        const bool bursts_busy = bursts.busy, job_ready = levels.writable(JOB_QUEUE);

        const bool beat = unpacker.needs_beat() && memory.rvalid;
        const bool request = bursts.busy && outstanding < config.read_outstanding && (!arvalid || memory.arready);
        bool moved = beat || request || (arvalid && memory.arready);
        outstanding = outstanding + request - (beat && memory.rlast);
        if (memory.arready) arvalid = false;
        if (request) {
            ar = bursts.request(bus_bytes);
            arvalid = true;
            bursts.taken(ar.beats, bus_bytes);
        }

        const State before = state;
        const bool issued = fetch(config, command, bursts_busy, job_ready);
        moved |= receive(config, t, beat, issued, counters, sequencer, tables_ready, drain_wake);
        awake = moved || state != before || arvalid || bursts.busy;
        wake = std::min({slabs_free.next(), channels_free.next(), room.next()});
    }

    template <class V>
    void visit(V& v, uint64_t bus_bytes) {
        v.value(awake);
        v.time(wake);
        v.value(state);
        walker.visit(v);
        bursts.visit(v);
        slabs_free.visit(v);
        channels_free.visit(v);
        room.visit(v);
        const auto address = [&](uint64_t& x, bool never_split) {
            v.absolute(x);
            v.value(x % (never_split ? bus_bytes : PAGE_BYTES));
        };
        for (uint64_t* x : {&a_product, &a_block, &a_slab}) address(*x, a_never_split);
        for (uint64_t* x : {&w_product, &w_block, &w_slab}) address(*x, w_never_split);
        address(channel_block, channels_never_split);
        v.absolute(k_left);
        v.absolute(slab);
        v.value(slab_tiles);
        v.value(slab_rows);
        v.value(outstanding);
        v.value(arvalid);
        if (arvalid) ar.visit(v);
        levels.visit(v);
        v.value(jobs.size());
        for (unsigned i = 0; i < jobs.size(); ++i) jobs[i].visit(v);
        unpacker.visit(v);
        v.value(weight_row);
    }

private:
    // Returns whether a job was handed to the receiver; it is then the last one in `jobs`.
    bool issue(Operand kind, Operand operand, uint64_t addr, uint64_t stride, uint64_t rows, uint64_t zero_rows, uint64_t elements,
               uint64_t row_bytes, bool never_split, uint64_t bus_bytes) {
        const uint64_t offset = addr % bus_bytes, beats = (offset + row_bytes + bus_bytes - 1) / bus_bytes;
        jobs.push({kind, uint32_t(rows), uint32_t(zero_rows), uint32_t(elements), uint32_t(row_bytes), uint32_t(beats),
                   uint32_t(offset)});
        bursts.start(operand, addr, stride, rows, beats, unsigned(bus_bytes));
        bursts.never_split = never_split;
        return true;
    }

    bool fetch(const Config& config, const Command& command, bool bursts_busy, bool job_ready) {
        const uint64_t slab_k = uint64_t(slab_tiles) * config.rows;
        switch (state) {
        case IDLE: return false;
        case BLOCK:
            a_slab = a_block;
            w_slab = w_block;
            slab = 0;
            k_left = command.k;
            keys.begin(command);
            if (!command.channel()) {
                begin_slab(config);
                return false;
            }
            if (!channels_free.count || !job_ready) return false;
            --channels_free.count;
            state = CHANNEL_REQUESTS;
            return issue(CHANNELS, CHANNELS, channel_block, 0, 1, 0, walker.cols, uint64_t(walker.cols) * CHANNEL_RECORD_BYTES,
                         channels_never_split, config.bus_bytes);
        case CHANNEL_REQUESTS:
            if (!bursts_busy) begin_slab(config);
            return false;
        case ACTIVATION_JOB:
            if (!slabs_free.count) return false;
            if (walker.kept) {
                --slabs_free.count;
                state = WEIGHT_JOB;
                return false;
            }
            if (!job_ready || !take_room(command)) return false;
            --slabs_free.count;
            state = ACTIVATION_REQUESTS;
            return issue(ACTIVATIONS, ACTIVATIONS, a_slab, command.a_tiled() ? whole_beats(config, slab_rows) : command.lda,
                         walker.rows, 0, slab_tiles, slab_rows, a_never_split, config.bus_bytes);
        case ACTIVATION_REQUESTS:
            if (bursts_busy) return false;
            a_slab = command.a_tiled() ? bursts.row_addr : a_slab + slab_k;
            state = WEIGHT_JOB;
            return false;
        case WEIGHT_JOB:
            if (!job_ready) return false;
            state = WEIGHT_REQUESTS;
            if (command.attention() && !keys.values)
                return issue(WEIGHTS, WEIGHTS, w_slab, command.ldw, slab_rows, slab_k - slab_rows,
                             ceil_div(keys.cols(config), config.cols), keys.cols(config), false, config.bus_bytes);
            if (command.attention())
                return issue(WEIGHTS, VALUES, w_slab, command.ldv, slab_rows, slab_k - slab_rows, walker.col_tiles,
                             walker.cols, false, config.bus_bytes);
            return issue(WEIGHTS, WEIGHTS, w_slab, command.w_tiled() ? whole_beats(config, walker.cols) : command.ldw,
                         slab_rows, slab_k - slab_rows, walker.col_tiles, walker.cols, w_never_split,
                         config.bus_bytes);
        case WEIGHT_REQUESTS:
            if (bursts_busy) return false;
            if (command.attention()) {
                next_keys(config, command, slab_k);
                return false;
            }
            w_slab = bursts.row_addr;
            ++slab;
            if (k_left <= slab_k) {
                state = NEXT_BLOCK;
            } else {
                k_left -= slab_k;
                begin_slab(config);
            }
            return false;
        case WEIGHT_SLAB:
            if (!slabs_free.count) return false;
            --slabs_free.count;
            state = WEIGHT_JOB;
            return false;
        case NEXT_BLOCK: next_block(config, command); return false;
        }
        return false;
    }

    // For the slab of activations, if it is to be kept; returns whether there was enough.
    bool take_room(const Command& command) {
        if (!command.keep()) return true;
        const uint64_t vectors = uint64_t(slab_tiles) * walker.rows;
        if (room.vectors < vectors) return false;
        room.vectors -= vectors;
        return true;
    }

    // After a slab of keys or values.
    void next_keys(const Config& config, const Command& command, uint64_t slab_k) {
        if (keys.values && k_left <= slab_k) {
            state = NEXT_BLOCK;
            return;
        }
        if (keys.values) {
            w_slab = bursts.row_addr;
            k_left -= slab_k;
        } else if (keys.last(config)) {
            w_slab = v_product;
            k_left = command.keys;
            keys.values = true;
        } else {
            w_slab += keys.cols(config);
            keys.left -= keys.cols(config);
        }
        begin_slab(config);
        state = WEIGHT_SLAB;
    }

    void begin_slab(const Config& config) {
        state = ACTIVATION_JOB;
        slab_tiles = uint32_t(Split::first(ceil_div(k_left, config.rows), config.slab_k_tiles));
        slab_rows = uint32_t(std::min(k_left, slab_tiles * config.rows));
    }

    void next_block(const Config& config, const Command& command) {
        w_block = command.w_tiled() ? w_slab : w_block + walker.cols;
        channel_block += uint64_t(walker.cols) * CHANNEL_RECORD_BYTES;
        if (walker.last_in_row) {
            a_block += walker.rows * command.lda;
            w_block = w_product;
            channel_block = command.channel_addr;
        }
        if (walker.last_in_product) {
            a_block = a_product += command.a_batch_stride;
            w_block = w_product += command.w_batch_stride;
            v_product += command.v_batch_stride;
        }
        walker.advance(config);
        state = walker.valid ? BLOCK : IDLE;
    }

    // Returns whether anything moved.
    bool receive(const Config& config, Cycle t, bool beat, bool issued, Counters& counters, Sequencer& sequencer,
                 Credits& tables_ready, Cycle& drain_wake) {
        Unpacker& u = unpacker;
        const bool was_busy = u.busy;
        bool ending = false, valid = false;
        if (was_busy) {
            if (beat) {
                u.level += uint32_t(config.bus_bytes) - (u.first_beat ? u.job.offset : 0);
                u.first_beat = false;
                --u.beats_left;
            }
            valid = u.level >= u.element_bytes || !u.beats_left;
            if (valid) ending = element(config, t, counters, sequencer, tables_ready, drain_wake);
        }
        const bool read_enable = !was_busy || ending, start = levels.readable && read_enable;
        if (start) {
            const Operand kind = jobs.front().kind;
            u.start(jobs.front(), kind == ACTIVATIONS ? uint32_t(config.rows)
                                  : kind == WEIGHTS   ? uint32_t(config.cols)
                                                      : CHANNEL_RECORD_BYTES);
            jobs.pop();
        }
        return levels.edge(issued, read_enable) || start || valid;
    }

    // An element leaves the unpacker for its scratchpad. Returns whether it is the last of its job.
    bool element(const Config& config, Cycle t, Counters& counters, Sequencer& sequencer, Credits& tables_ready,
                 Cycle& drain_wake) {
        Unpacker& u = unpacker;
        u.level = u.level > u.element_bytes ? u.level - u.element_bytes : 0;
        if (u.job.kind != CHANNELS) counters.sram_write_bytes += u.element_bytes;
        if (--u.elements_left) return false;
        const bool job_end = u.rows_left + u.zero_rows_left == 1;
        u.level = 0;
        u.first_beat = true;
        u.elements_left = u.job.elements;
        u.beats_left = u.rows_left <= 1 ? 0 : u.job.beats;
        if (u.rows_left) --u.rows_left;
        else --u.zero_rows_left;
        // Pulses are registered and then counted: visible after two edges.
        if (u.job.kind == WEIGHTS && ++weight_row == config.rows) {
            weight_row = 0;
            sequencer.credit(sequencer.tiles, t + 2);
        }
        if (!job_end) return false;
        u.busy = false;
        if (u.job.kind == ACTIVATIONS) sequencer.credit(sequencer.slabs, t + 2);
        if (u.job.kind == CHANNELS) {
            tables_ready.send(t + 2);
            drain_wake = std::min(drain_wake, t + 2);
        }
        return true;
    }
};

}  // namespace brownout::cycles
