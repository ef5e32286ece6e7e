// The model behind C functions, for ctypes. Structures are arrays of 64-bit words in the order of their field names.

#include <cstring>

#include "model.h"

namespace {

using namespace brownout::cycles;

#define BROWNOUT_NAME(name) #name " "
#define BROWNOUT_MEMORY_NAME(name) "memory." #name " "
constexpr const char* CONFIG_NAMES = BROWNOUT_CONFIG_FIELDS(BROWNOUT_NAME) BROWNOUT_MEMORY_FIELDS(BROWNOUT_MEMORY_NAME);
constexpr const char* COMMAND_NAMES = BROWNOUT_COMMAND_FIELDS(BROWNOUT_NAME);
constexpr const char* COUNTER_NAMES = BROWNOUT_COUNTER_FIELDS(BROWNOUT_NAME);

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// Names of the words of a structure ("config", "command" or "counters"), separated by spaces; null for any other.
const char* brownout_cycles_fields(const char* structure) {
    if (!std::strcmp(structure, "config")) return CONFIG_NAMES;
    if (!std::strcmp(structure, "command")) return COMMAND_NAMES;
    if (!std::strcmp(structure, "counters")) return COUNTER_NAMES;
    return nullptr;
}

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

// Since the start: cycles in transition, then those of each of 9 domains at each of 8 operating points.
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
