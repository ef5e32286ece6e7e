// Draining: hw/drain/drain.py, hw/drain/requantise.py, hw/drain/packer.py and hw/bus/write_port.py.

#pragma once

#include <algorithm>

#include "bursts.h"
#include "memory.h"
#include "queues.h"
#include "sequencer.h"
#include "walker.h"

namespace brownout::cycles {

struct Drain {
    enum State : uint8_t { IDLE, WAIT, WRITE, NEXT };

    bool awake = false;
    Cycle wake = NEVER;
    bool done = false;

    // Drain.
    State state = IDLE;
    Walker walker;
    RowBursts bursts;
    Credits blocks_ready, tables_ready;
    uint64_t y_product = 0, y_rows = 0, y_block = 0;
    bool reading = false;
    uint32_t rows_left = 0, n_left = 0, chunk_left = 0;
    bool y_never_split = false;

    // Requantiser: a chunk per stage.
    struct Chunk {
        bool valid = false, row_end = false;
        uint32_t count = 0;
    };
    Chunk stages[3];

    // Packer.
    uint32_t level = 0, offset = 0;
    bool in_row = false, flush = false;

    // Write port.
    uint32_t outstanding = 0;
    bool awvalid = false;
    Burst aw;
    FifoLevels levels;
    Ring<uint32_t, BURST_QUEUE> lengths;
    bool in_burst = false;
    uint32_t beats_left = 0;

    bool wvalid(const Config& config) const { return in_burst && in_row && (level >= config.bus_bytes || flush); }

    void start(const Config& config, const Command& command) {
        walker.start(config, command);
        blocks_ready = tables_ready = Credits{};
        y_product = y_rows = y_block = command.y_addr;
        state = WAIT;
        awake = done = false;
        wake = NEVER;
    }

    void edge(const Config& config, const Command& command, Cycle t, const Memory::Outputs& memory, Counters& counters,
              Sequencer& sequencer, Credits& channels_free, Cycle& load_wake) {
        blocks_ready.receive(t);
        tables_ready.receive(t);
        const bool finished = !reading && !bursts.busy && !in_row
                              && !(stages[0].valid || stages[1].valid || stages[2].valid);
        const bool sent = wvalid(config) && memory.wready;
        send_bursts(config, memory, sent);
        move_chunks(config, command, t, sent, counters, sequencer);
        const State before = state;
        switch (state) {
        case IDLE: break;
        case WAIT:
            if (blocks_ready.count && (!command.channel() || tables_ready.count)) begin(config, command, counters);
            break;
        case WRITE:
            if (finished) state = NEXT;
            break;
        case NEXT: next_block(config, command, t, channels_free, load_wake); break;
        }
        awake = state != before || state == WRITE || awvalid || in_burst || levels.inner || levels.readable;
        wake = std::min(blocks_ready.next(), tables_ready.next());
    }

    template <class V>
    void visit(V& v) {
        v.value(awake);
        v.time(wake);
        v.value(state);
        walker.visit(v);
        bursts.visit(v);
        blocks_ready.visit(v);
        tables_ready.visit(v);
        const uint64_t modulus = y_never_split ? 1 : PAGE_BYTES;
        for (uint64_t* x : {&y_product, &y_rows, &y_block}) {
            v.absolute(*x);
            v.value(*x % modulus);
        }
        v.value(reading);
        if (reading)
            for (uint32_t* x : {&rows_left, &n_left, &chunk_left}) v.value(*x);
        for (Chunk& stage : stages) {
            v.value(stage.valid);
            if (!stage.valid) continue;
            v.value(stage.row_end);
            v.value(stage.count);
        }
        if (state == WRITE) v.value(offset);
        v.value(in_row);
        if (in_row) v.value(level);
        v.value(flush);
        v.value(outstanding);
        v.value(awvalid);
        if (awvalid) aw.visit(v);
        levels.visit(v);
        v.value(lengths.size());
        for (unsigned i = 0; i < lengths.size(); ++i) v.value(lengths[i]);
        v.value(in_burst);
        if (in_burst) v.value(beats_left);
    }

private:
    void send_bursts(const Config& config, const Memory::Outputs& memory, bool sent) {
        const unsigned bus_bytes = unsigned(config.bus_bytes);
        const bool request = bursts.busy && levels.writable(BURST_QUEUE) && outstanding < config.write_outstanding
                             && (!awvalid || memory.awready);
        outstanding = outstanding + request - memory.bvalid;
        if (memory.awready) awvalid = false;
        if (request) {
            aw = bursts.request(bus_bytes);
            awvalid = true;
            bursts.taken(aw.beats, bus_bytes);
            lengths.push(aw.beats);
        }
        const bool read_enable = !in_burst || (sent && beats_left == 1);
        if (read_enable) {
            in_burst = levels.readable;
            if (in_burst) {
                beats_left = lengths.front();
                lengths.pop();
            }
        } else if (sent) {
            --beats_left;
        }
        levels.edge(request, read_enable);
    }

    // Accumulator to requantiser to packer to write port.
    void move_chunks(const Config& config, const Command& command, Cycle t, bool sent, Counters& counters,
                     Sequencer& sequencer) {
        const uint32_t bus_bytes = uint32_t(config.bus_bytes);
        const bool row_sent = sent && flush && level <= bus_bytes;
        level = row_sent || !in_row ? offset : sent ? level - bus_bytes : level;
        const bool ready = (row_sent || !flush) && level < bus_bytes, taken = stages[2].valid && ready;
        if (row_sent) in_row = flush = false;
        if (taken) {
            level += stages[2].count * command.output_bytes();
            in_row = true;
            flush = stages[2].row_end;
        }
        if (stages[2].valid && !taken) return;
        stages[2] = stages[1];
        stages[1] = stages[0];
        stages[0] = Chunk{};
        if (!reading) return;
        const bool chunk_last = chunk_left <= config.lanes, vector_last = n_left <= config.cols;
        stages[0] = {true, chunk_last && vector_last, uint32_t(chunk_last ? chunk_left : config.lanes)};
        if (!chunk_last) {
            chunk_left -= uint32_t(config.lanes);
            return;
        }
        n_left = vector_last ? walker.cols : n_left - uint32_t(config.cols);
        chunk_left = std::min(n_left, uint32_t(config.cols));
        if (vector_last && --rows_left == 0) {
            reading = false;
            sequencer.credit(sequencer.banks, t + 1);
        } else {
            counters.sram_read_bytes += config.cols * ACC_BYTES;
        }
    }

    void begin(const Config& config, const Command& command, Counters& counters) {
        const uint64_t row_bytes = walker.cols * command.output_bytes();
        --blocks_ready.count;
        tables_ready.count -= command.channel() != 0;
        offset = uint32_t(y_block % config.bus_bytes);
        bursts.start(OUTPUT, y_block, command.ldy, walker.rows, ceil_div(offset + row_bytes, config.bus_bytes),
                     unsigned(config.bus_bytes));
        bursts.never_split = y_never_split;
        reading = true;
        rows_left = walker.rows;
        n_left = walker.cols;
        chunk_left = std::min(n_left, uint32_t(config.cols));
        counters.sram_read_bytes += config.cols * ACC_BYTES;
        state = WRITE;
    }

    void next_block(const Config& config, const Command& command, Cycle t, Credits& channels_free, Cycle& load_wake) {
        if (command.channel()) {
            channels_free.send(t + 1);
            load_wake = std::min(load_wake, t + 1);
        }
        y_block += walker.cols * command.output_bytes();
        if (walker.last_in_row) y_block = y_rows += walker.rows * command.ldy;
        if (walker.last_in_product) y_block = y_rows = y_product += command.y_batch_stride;
        walker.advance(config);
        done = !walker.valid;
        state = done ? IDLE : WAIT;
    }
};

}  // namespace brownout::cycles
