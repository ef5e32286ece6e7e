// The least that can drive the accelerator: rings the doorbell for commands that already lie in memory and runs the
// clock until the interrupt. No VPI, no Python; the yardstick for simulation speed.
//
// usage: bare RING_BASE ENTRIES COMMANDS      (memory: environment variable BROWNOUT_DRAM, see dram_dpi.cpp)
// Prints one JSON object: cycles, wall_s, irq, error_cause.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "accelerator.h"
#include "bench.h"

namespace {

constexpr uint64_t LIMIT_CYCLES = 10'000'000'000;

uint64_t run_to_interrupt(brownout::Bench& bench) {
    uint64_t cycles = 0;
    while (!bench.interrupt() && cycles < LIMIT_CYCLES) {
        bench.cycle();
        ++cycles;
    }
    return cycles;
}

uint32_t value_of(brownout::Bench& bench, uint32_t address) {
    uint32_t value = 0;
    bench.read(address, value);
    return value;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: %s RING_BASE ENTRIES COMMANDS\n", argv[0]);
        return 2;
    }
    const uint64_t base = std::strtoull(argv[1], nullptr, 0);
    VerilatedContext context;
    brownout::Bench bench(context);
    bench.write(BROWNOUT_REG_RING_BASE_LO, uint32_t(base));
    bench.write(BROWNOUT_REG_RING_BASE_HI, uint32_t(base >> 32));
    bench.write(BROWNOUT_REG_RING_ENTRIES, uint32_t(std::strtoul(argv[2], nullptr, 0)));
    const auto start = std::chrono::steady_clock::now();
    bench.write(BROWNOUT_REG_RING_TAIL, uint32_t(std::strtoul(argv[3], nullptr, 0)));
    const uint64_t cycles = run_to_interrupt(bench);
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    std::printf("{\"cycles\": %llu, \"wall_s\": %.9f, \"irq\": %u, \"error_cause\": %u}\n", (unsigned long long)cycles,
                wall.count(), value_of(bench, BROWNOUT_REG_IRQ), value_of(bench, BROWNOUT_REG_ERROR_CAUSE));
    return 0;
}
