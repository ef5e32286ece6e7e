// Draining: hw/drain/drain.py, hw/drain/requantise.py, hw/drain/packer.py; of hw/checks the corrector and the log.

#pragma once

#include <algorithm>

#include "bursts.h"
#include "findings.h"
#include "memory.h"
#include "ports.h"
#include "queues.h"
#include "sequencer.h"
#include "walker.h"

namespace brownout::cycles {

struct Drain {
    enum State : uint8_t { IDLE, WAIT, WRITE, LOG_COUNT, LOG_START, LOG_WRITE, NEXT };

    bool awake = false;
    Cycle wake = NEVER;
    bool done = false;

    // Drain.
    State state = IDLE;
    Walker walker;
    RowBursts bursts;
    Credits blocks_ready, tables_ready, scales_ready;
    uint64_t y_product = 0, y_rows = 0, y_block = 0;
    bool reading = false;
    uint32_t rows_left = 0, n_left = 0, chunk_left = 0;
    bool y_never_split = false;
    uint64_t block = 0;  // in the order of draining

    // Corrector and requantiser: a chunk per stage.
    struct Chunk {
        bool valid = false, row_end = false;
        uint32_t count = 0;
    };
    Chunk correcting[3], stages[3];

    // Syndrome log.
    uint64_t log_address = 0;
    uint32_t log_chunks = 0;  // still to be taken by the packer
    bool log_busy = false, log_ready = false;

    // Packer.
    uint32_t level = 0, offset = 0;
    bool in_row = false, flush = false;

    WritePort port;

    bool wvalid(const Config& config) const { return port.in_burst && in_row && (level >= config.bus_bytes || flush); }

    void start(const Config& config, const Command& command) {
        walker.start(config, command);
        blocks_ready = tables_ready = scales_ready = Credits{};
        y_product = y_rows = y_block = command.y_addr;
        log_address = command.log_addr;
        block = 0;
        state = WAIT;
        awake = done = false;
        wake = NEVER;
    }

    void edge(const Config& config, const Command& command, Cycle t, const Memory::Outputs& memory, Counters& counters,
              Sequencer& sequencer, Credits& channels_free, Cycle& load_wake, const BlockLogs& logs) {
        blocks_ready.receive(t);
        tables_ready.receive(t);
        scales_ready.receive(t);
        const bool packed = !bursts.busy && !in_row, logged = !log_busy;
        const bool finished = !reading && packed && !holds_chunk();
        const bool sent = wvalid(config) && memory.wready;
        send_bursts(config, memory, sent);
        move_chunks(config, command, t, sent, counters, sequencer);
        const State before = state;
        switch (state) {
        case IDLE: break;
        case WAIT:
            if (blocks_ready.count && (!command.channel() || tables_ready.count)
                && (!command.attention() || scales_ready.count))
                begin(config, command, counters);
            break;
        case WRITE:
            if (!finished) break;
            y_block = command.y_tiled() ? bursts.row_addr : y_block + walker.cols * command.output_bytes();
            state = logs.of(block) == BlockLogs::NONE ? NEXT : LOG_COUNT;
            break;
        case LOG_COUNT: state = LOG_START; break;
        case LOG_START: begin_log(config, logs.written(block)); break;
        case LOG_WRITE:
            if (!packed || !logged) break;
            log_address += logs.written(block) * config.log_record_bytes;
            state = NEXT;
            break;
        case NEXT: next_block(config, command, t, channels_free, load_wake); break;
        }
        awake = state != before || state == WRITE || state == LOG_WRITE || port.awake();
        wake = std::min({blocks_ready.next(), tables_ready.next(), scales_ready.next()});
    }

    template <class V>
    void visit(V& v, uint64_t bus_bytes) {
        v.value(awake);
        v.time(wake);
        v.value(state);
        walker.visit(v);
        bursts.visit(v);
        blocks_ready.visit(v);
        tables_ready.visit(v);
        const uint64_t modulus = y_never_split ? bus_bytes : PAGE_BYTES;
        for (uint64_t* x : {&y_product, &y_rows, &y_block}) {
            v.absolute(*x);
            v.value(*x % modulus);
        }
        v.value(reading);
        if (reading)
            for (uint32_t* x : {&rows_left, &n_left, &chunk_left}) v.value(*x);
        for (auto* part : {&correcting, &stages}) {
            for (Chunk& stage : *part) {
                v.value(stage.valid);
                if (!stage.valid) continue;
                v.value(stage.row_end);
                v.value(stage.count);
            }
        }
        v.absolute(block);
        if (state == WRITE || state == LOG_WRITE) v.value(offset);
        if (state == LOG_WRITE) {
            v.value(log_chunks);
            v.value(log_busy);
            v.value(log_ready);
        }
        v.value(in_row);
        if (in_row) v.value(level);
        v.value(flush);
        port.visit(v);
    }

private:
    bool holds_chunk() const {
        bool any = false;
        for (auto* part : {&correcting, &stages})
            for (const Chunk& stage : *part) any |= stage.valid;
        return any;
    }

    void send_bursts(const Config& config, const Memory::Outputs& memory, bool sent) {
        const unsigned bus_bytes = unsigned(config.bus_bytes);
        if (!bursts.busy || !port.ready(config, memory)) return port.edge(memory, nullptr, sent);
        const Burst request = bursts.request(bus_bytes);
        bursts.taken(request.beats, bus_bytes);
        port.edge(memory, &request, sent);
    }

    // Accumulator to corrector to requantiser to packer to write port.
    void move_chunks(const Config& config, const Command& command, Cycle t, bool sent, Counters& counters,
                     Sequencer& sequencer) {
        const uint32_t bus_bytes = uint32_t(config.bus_bytes);
        const bool row_sent = sent && flush && level <= bus_bytes;
        level = row_sent || !in_row ? offset : sent ? level - bus_bytes : level;
        const bool ready = (row_sent || !flush) && level < bus_bytes;
        if (row_sent) in_row = flush = false;
        if (state == LOG_WRITE) {
            move_log(config, ready);
            return;
        }
        const bool taken = stages[2].valid && ready;
        if (taken) {
            level += stages[2].count * command.output_bytes();
            in_row = true;
            flush = stages[2].row_end;
        }
        const bool moving = !stages[2].valid || taken;
        if (!config.checksum) {
            if (moving) shift(stages, next_chunk(config, t, counters, sequencer));
            return;
        }
        const bool correcting_moves = !correcting[2].valid || moving;
        if (moving) shift(stages, correcting[2]);
        if (correcting_moves) shift(correcting, next_chunk(config, t, counters, sequencer));
    }

    static void shift(Chunk (&part)[3], const Chunk& chunk) {
        part[2] = part[1];
        part[1] = part[0];
        part[0] = chunk;
    }

    // The chunk that leaves the accumulator, if any.
    Chunk next_chunk(const Config& config, Cycle t, Counters& counters, Sequencer& sequencer) {
        if (!reading) return {};
        const bool chunk_last = chunk_left <= config.lanes, vector_last = n_left <= config.cols;
        const Chunk chunk{true, chunk_last && vector_last, uint32_t(chunk_last ? chunk_left : config.lanes)};
        if (!chunk_last) {
            chunk_left -= uint32_t(config.lanes);
            return chunk;
        }
        n_left = vector_last ? walker.cols : n_left - uint32_t(config.cols);
        chunk_left = std::min(n_left, uint32_t(config.cols));
        if (vector_last && --rows_left == 0) {
            reading = false;
            sequencer.credit(sequencer.banks, t + 1);
        } else {
            counters.sram_read_bytes += config.cols * ACC_BYTES;
        }
        return chunk;
    }

    static uint32_t log_words(const Config& config) { return config.lanes >= 4 ? 4 : config.lanes >= 2 ? 2 : 1; }

    void begin_log(const Config& config, uint64_t records) {
        state = records ? LOG_WRITE : NEXT;
        if (!records) return;
        const uint64_t bytes = records * config.log_record_bytes;
        offset = uint32_t(log_address % config.bus_bytes);
        bursts.start(LOG, log_address, 0, 1, ceil_div(offset + bytes, config.bus_bytes), unsigned(config.bus_bytes));
        bursts.never_split = false;
        log_chunks = uint32_t(bytes / ACC_BYTES) / log_words(config);
        log_busy = true;
        log_ready = false;
    }

    // Records to packer; a cycle is lost to reading each.
    void move_log(const Config& config, bool packer_ready) {
        const uint32_t words = log_words(config);
        bool record_done = false;
        const bool was_busy = log_busy;
        if (log_busy && log_ready && packer_ready) {
            --log_chunks;
            record_done = log_chunks * words * ACC_BYTES % config.log_record_bytes == 0;
            log_busy = log_chunks != 0;
            level += words * ACC_BYTES;
            in_row = true;
            flush = !log_busy;
        }
        log_ready = was_busy && !record_done;
    }

    void begin(const Config& config, const Command& command, Counters& counters) {
        const uint64_t row_bytes = walker.cols * command.output_bytes();
        --blocks_ready.count;
        tables_ready.count -= command.channel() != 0;
        scales_ready.count -= command.attention();
        offset = uint32_t(y_block % config.bus_bytes);
        bursts.start(OUTPUT, y_block, command.y_tiled() ? whole_beats(config, row_bytes) : command.ldy, walker.rows,
                     ceil_div(offset + row_bytes, config.bus_bytes), unsigned(config.bus_bytes));
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
        if (walker.last_in_row) y_block = y_rows += walker.rows * command.ldy;
        if (walker.last_in_product) y_block = y_rows = y_product += command.y_batch_stride;
        ++block;
        walker.advance(config);
        done = !walker.valid;
        state = done ? IDLE : WAIT;
    }
};

}  // namespace brownout::cycles
