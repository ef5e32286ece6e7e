// What the parts of the cycle model share: time, and what the structures that Python fills and reads can do.
//
// A cycle is the time between two rising clock edges. `edge(t)` of a part does what the rising edge at the end of cycle
// t does to its registers. Instead of registers a part may hold the cycle in which something will be visible.

#pragma once

#include <cstdint>

#include "cycle_model_structs.h"

namespace brownout::cycles {

using namespace brownout::hw;

using Cycle = int64_t;
constexpr Cycle NEVER = INT64_MAX / 4;

constexpr Cycle EXTENTS_CYCLES = 21;  // EXTENTS of hw/control/command_processor.py: what its states add up to
constexpr Cycle VALUE_EXTENT_CYCLES = 5;  // of these for V of ATTENTION
constexpr unsigned PAGE_BYTES = BURST_BOUNDARY_BYTES;

// What an address belongs to.
enum Operand : uint8_t { ACTIVATIONS, WEIGHTS, CHANNELS, OUTPUT, RING, LOG, VALUES, OPERANDS };

// What Python fills and reads is declared in cosim/cycle_model/structs.py.

struct Config : ConfigWords {
    uint64_t beat_tokens() const { return bus_bytes << BANDWIDTH_FRACTION_BITS; }
    // Of a memory that has rested.
    uint64_t full_tokens() const { return beat_tokens() - 1 + bandwidth; }
};
static_assert(sizeof(Config) == sizeof(ConfigWords));

struct Command : CommandWords {
    bool attention() const { return opcode == OPCODE_ATTENTION; }
    bool channel() const { return flags & FLAG_CHANNEL; }
    bool requant() const { return attention() || flags & FLAG_REQUANT; }
    bool int16() const { return flags & FLAG_INT16; }
    bool check() const { return flags & FLAG_CHECK; }
    bool keep() const { return flags & FLAG_KEEP_ACTIVATIONS; }
    bool suppress() const { return flags & FLAG_SUPPRESS; }
    bool a_tiled() const { return flags & FLAG_A_TILED; }
    bool w_tiled() const { return flags & FLAG_W_TILED; }
    bool y_tiled() const { return flags & FLAG_Y_TILED; }
    uint64_t tiled() const { return flags & (FLAG_A_TILED | FLAG_W_TILED | FLAG_Y_TILED); }
    uint64_t output_bytes() const { return requant() ? 1 + int16() : ACC_BYTES; }
    uint64_t largest_rows(const ConfigWords& config) const { return block_rows ? block_rows : config.block_rows; }
};
static_assert(sizeof(Command) == sizeof(CommandWords));

struct Counters : CounterWords {
    Counters& operator+=(const Counters& other) {
        each([&](auto counter) { this->*counter += other.*counter; });
        return *this;
    }

    template <class V>
    void visit(V& v) {
        each([&](auto counter) { v.absolute(this->*counter); });
    }
};
static_assert(sizeof(Counters) == sizeof(CounterWords));

using Found = FoundWords;

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
