// The model behind C functions, for ctypes.

#include <cstring>

#include "model.h"

using namespace brownout::cycles;

#pragma GCC visibility push(default)
extern "C" {

// What the declarations in Python were when this was built.
const char* brownout_layout() { return LAYOUT; }

// `step` != 0: every cycle is simulated, nothing skipped or remembered. For tests.
void* brownout_cycles_new(const Config* config, int step) { return new Model(*config, step != 0); }

void brownout_cycles_delete(void* model) { delete static_cast<Model*>(model); }

// Of the memory, from the next doorbell on; `bandwidth` in 2^-16 byte per cycle.
void brownout_cycles_set_memory_timing(void* model, uint64_t latency_cycles, uint64_t bandwidth) {
    static_cast<Model*>(model)->set_memory_timing(latency_cycles, bandwidth);
}

// Runs `count` commands from one doorbell, from entry `head` of the ring on. `found`: what each found; null if nothing.
void brownout_cycles_run(void* model, const Command* commands, const Found* found, uint64_t count, uint64_t base,
                         uint64_t entries, uint64_t head, Counters* counters) {
    *counters = static_cast<Model*>(model)->run(commands, found, count, {base, entries, head});
}

// Since the start: cycles in transition, then those of each of MAX_DOMAINS domains at each of MAX_POINTS operating points.
void brownout_cycles_get_points(void* model, uint64_t* cycles) {
    static_assert(sizeof(PointCycles) == (1 + MAX_DOMAINS * MAX_POINTS) * sizeof(uint64_t));
    std::memcpy(cycles, &static_cast<Model*>(model)->point_cycles(), sizeof(PointCycles));
}

// Open row of each bank, all ones if none.
void brownout_cycles_get_open_rows(void* model, uint64_t* rows) {
    const BankRows& banks = static_cast<Model*>(model)->rows();
    for (size_t i = 0; i < banks.banks().size(); ++i) rows[i] = banks.open(i);
}

void brownout_cycles_set_open_rows(void* model, const uint64_t* rows) {
    BankRows& banks = static_cast<Model*>(model)->rows();
    for (size_t i = 0; i < banks.banks().size(); ++i) banks.set_open(i, rows[i]);
}

}  // extern "C"
#pragma GCC visibility pop
