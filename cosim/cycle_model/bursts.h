// Rows cut into bursts: hw/bus/bursts.py.

#pragma once

#include <algorithm>

#include "types.h"

namespace brownout::cycles {

// A burst: beat-aligned address, number of beats.
struct Burst {
    uint64_t address = 0;
    Cycle ready_at = 0;  // in the memory's queues
    uint32_t beats = 0;
    Operand operand = RING;

    template <class V>
    void visit(V& v) {
        v.address(address, operand);
        v.time(ready_at);
        v.value(beats);
        v.value(operand);
    }
};

struct RowBursts {
    bool busy = false;
    Operand operand = ACTIVATIONS;
    bool never_split = false;  // no row of this operand crosses a page: its address shapes no burst
    uint64_t row_addr = 0, beat_addr = 0, stride = 0;
    uint32_t rows_left = 0, beats = 0, beats_left = 0;

    void start(Operand what, uint64_t addr, uint64_t row_stride, uint64_t rows, uint64_t row_beats,
               unsigned bus_bytes) {
        busy = true;
        operand = what;
        row_addr = addr;
        beat_addr = addr & ~uint64_t(bus_bytes - 1);
        stride = row_stride;
        rows_left = uint32_t(rows);
        beats = beats_left = uint32_t(row_beats);
    }
    Burst request(unsigned bus_bytes) const {
        const uint32_t in_page = uint32_t((PAGE_BYTES - (beat_addr & (PAGE_BYTES - 1))) / bus_bytes);
        return {beat_addr, 0, std::min({beats_left, in_page, MAX_BURST_BEATS}), operand};
    }
    void taken(uint32_t burst, unsigned bus_bytes) {
        beats_left -= burst;
        beat_addr += uint64_t(burst) * bus_bytes;
        if (beats_left) return;
        row_addr += stride;
        beat_addr = row_addr & ~uint64_t(bus_bytes - 1);
        beats_left = beats;
        if (--rows_left == 0) busy = false;
    }

    template <class V>
    void visit(V& v) {
        v.value(busy);
        v.value(operand);
        if (!busy) {
            v.absolute(row_addr);  // the fetcher may still have to look at it
            return;
        }
        v.address(row_addr, operand);
        v.address(beat_addr, operand);
        v.value(never_split ? 0 : beat_addr % PAGE_BYTES);
        v.value(never_split ? 0 : row_addr % PAGE_BYTES);
        v.value(rows_left);
        v.value(beats);
        v.value(beats_left);
    }
};

// True if no row of `length` bytes from `address` + multiples of the strides reaches over the end of a page.
inline bool never_crosses(uint64_t address, uint64_t length, uint64_t stride, uint64_t batch_stride) {
    const uint64_t all = stride | batch_stride | PAGE_BYTES;
    const uint64_t period = all & ~(all - 1);
    return address % period + length <= period;
}

}  // namespace brownout::cycles
