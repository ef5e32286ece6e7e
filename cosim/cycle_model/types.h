// What the parts of the cycle model share: time, and the structures that Python fills and reads.
//
// A cycle is the time between two rising clock edges. `edge(t)` of a part does what the rising edge at the end of cycle
// t does to its registers. Instead of registers a part may hold the cycle in which something will be visible.

#pragma once

#include <cstdint>

namespace brownout::cycles {

using Cycle = int64_t;
constexpr Cycle NEVER = INT64_MAX / 4;

constexpr unsigned BUFFERS = 2;              // hw/load/fetcher.py
constexpr unsigned BANKS = 2;                // hw/array/sequencer.py
constexpr unsigned JOB_QUEUE = 8;            // hw/load/receiver.py
constexpr unsigned BURST_QUEUE = 8;          // hw/bus/write_port.py
constexpr unsigned BALANCED_PIECES = 4;      // hw/tiling.py
constexpr unsigned WRITE_BUFFER_BEATS = 16;  // rtl/dram.h
constexpr unsigned TOKEN_FRACTION_BITS = 16;
constexpr Cycle EXTENTS_CYCLES = 21;         // EXTENTS of hw/control/command_processor.py
constexpr unsigned PAGE_BYTES = 4096;        // AXI: no burst crosses it
constexpr unsigned MAX_BURST_BEATS = 256;
constexpr unsigned CHANNEL_RECORD_BYTES = 16;
constexpr unsigned COMMAND_BYTES = 256;
constexpr unsigned ACC_BYTES = 4;
constexpr unsigned LOG_RECORDS_PER_BLOCK = 64;
constexpr unsigned RUN_BYTES = 8;
constexpr unsigned RUNS_AT_ONCE = 64, SPAN_QUEUE = 16;  // hw/copy/copier.py
constexpr unsigned MAX_DOMAINS = 9, MAX_POINTS = 8;  // voltage domains with that of the checksum units; their points

// What an address belongs to.
enum Operand : uint8_t { ACTIVATIONS, WEIGHTS, CHANNELS, OUTPUT, RING, LOG, OPERANDS };

// hw/commands.py
enum Opcode : uint8_t { GEMM = 1, SET_ERRORS, SET_POINT, FENCE, SNAPSHOT, COPY };

// Fields of the structures that Python shares. It asks for their names, so that only these lists say what there is and
// in which order. Each is filled from the Python attribute of its name.

// Of AcceleratorConfig. `checksum`: there are checksum units. `digits`: rows of digits after each group of `group_rows`
// rows, 0 without column checks. `lengths_columns`: bytes of a row of a table of settled carry lengths, 0 if there is
// none.
#define BROWNOUT_CONFIG_FIELDS(X)                                                                                  \
    X(rows) X(cols) X(bus_bytes) X(block_rows) X(block_col_tiles) X(slab_k_tiles) X(lanes) X(read_outstanding) \
    X(write_outstanding) X(checksum) X(group_rows) X(digits) X(lengths_columns) X(domains) \
    X(log_record_bytes)

// Of MemoryConfig; `latency_cycles` and `bandwidth` (2^-16 byte per cycle) at the present clock.
#define BROWNOUT_MEMORY_FIELDS(X) \
    X(latency_cycles) X(bandwidth) X(banks) X(row_bytes) X(read_queue) X(write_queue)

// Of GemmCommand; from `domain` on, of SetPointCommand; from `runs` on, of CopyCommand; 0 if a command has no such field.
#define BROWNOUT_COMMAND_FIELDS(X)                                                                           \
    X(opcode) X(flags) X(batch) X(m) X(n) X(k) X(lda) X(ldw) X(ldy) X(a_batch_stride) X(w_batch_stride) X(y_batch_stride) \
    X(a_addr) X(w_addr) X(y_addr) X(channel_addr) X(log_addr) X(log_bytes)                                      \
    X(domain) X(point) X(transition_cycles) X(lengths_addr) X(lengths_stride)                                 \
    X(runs) X(source_addr) X(target_addr) X(list_addr)

// COUNTERS of hw/registers.py, and what the memory counts.
#define BROWNOUT_COUNTER_FIELDS(X)                                                                              \
    X(cycles) X(busy_cycles) X(stall_load_cycles) X(stall_weight_cycles) X(stall_drain_cycles) X(macs)          \
    X(sram_read_bytes) X(sram_write_bytes) X(dram_read_bytes) X(dram_write_bytes) X(commands)                   \
    X(dram_row_activations)

#define BROWNOUT_FIELD(name) uint64_t name = 0;

struct Config {
    BROWNOUT_CONFIG_FIELDS(BROWNOUT_FIELD)
    BROWNOUT_MEMORY_FIELDS(BROWNOUT_FIELD)

    uint64_t beat_tokens() const { return bus_bytes << TOKEN_FRACTION_BITS; }
    // Of a memory that has rested.
    uint64_t full_tokens() const { return beat_tokens() - 1 + bandwidth; }
};

struct Command {
    BROWNOUT_COMMAND_FIELDS(BROWNOUT_FIELD)

    // GemmFlag of hw/commands.py.
    bool channel() const { return flags & 1; }
    bool requant() const { return flags & 2; }
    bool check() const { return flags & 4; }
    bool suppress() const { return flags & 16; }
    bool a_tiled() const { return flags & 64; }
    bool w_tiled() const { return flags & 128; }
    bool y_tiled() const { return flags & 256; }
    uint64_t tiled() const { return flags & (64 | 128 | 256); }
    uint64_t output_bytes() const { return requant() ? 1 : ACC_BYTES; }
};

struct Counters {
    BROWNOUT_COUNTER_FIELDS(BROWNOUT_FIELD)

    Counters& operator+=(const Counters& other) {
#define BROWNOUT_ADD(name) name += other.name;
        BROWNOUT_COUNTER_FIELDS(BROWNOUT_ADD)
#undef BROWNOUT_ADD
        return *this;
    }

    template <class V>
    void visit(V& v) {
#define BROWNOUT_VISIT(name) v.absolute(name);
        BROWNOUT_COUNTER_FIELDS(BROWNOUT_VISIT)
#undef BROWNOUT_VISIT
    }
};

#undef BROWNOUT_FIELD

inline uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

// `bytes` that begin where a beat does, as whole beats.
inline uint64_t whole_beats(const Config& config, uint64_t bytes) {
    return ceil_div(bytes, config.bus_bytes) * config.bus_bytes;
}

// How `units` are cut into pieces of at most `largest` (hw/tiling.py, split_extent).
struct Split {
    uint64_t units, largest;

    static uint64_t first(uint64_t left, uint64_t largest) {
        const uint64_t pieces = ceil_div(left, largest);
        return pieces > BALANCED_PIECES ? largest : ceil_div(left, pieces);
    }
    uint64_t pieces() const { return ceil_div(units, largest); }
    // Index of the last piece of full size that is not the last piece of all; negative if there is none.
    int64_t last_regular() const {
        const int64_t count = int64_t(pieces());
        return units % largest == 0 ? count - 2 : count - int64_t(BALANCED_PIECES) - 1;
    }
};

}  // namespace brownout::cycles
