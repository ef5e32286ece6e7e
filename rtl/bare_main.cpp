// The least that can drive the accelerator: rings the doorbell for commands that already lie in memory and runs the
// clock until the interrupt. No VPI, no Python; the yardstick for simulation speed.
//
// usage: bare RING_BASE ENTRIES COMMANDS      (memory: environment variable BROWNOUT_DRAM, see dram_dpi.cpp)
// Prints one JSON object: cycles, wall_s, irq, error_cause.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "Vtop.h"
#include "accelerator.h"
#include "verilated.h"

namespace {

constexpr uint64_t LIMIT_CYCLES = 10'000'000'000;

class Bench {
public:
    explicit Bench(VerilatedContext& context) : m_top(std::make_unique<Vtop>(&context, "")) {
        m_top->s_axil_bready = 1;
        m_top->s_axil_rready = 1;
        m_top->s_axil_wstrb = 0xF;
        m_top->rst = 1;
        for (int i = 0; i < 4; ++i) cycle();
        m_top->rst = 0;
        cycle();
    }

    void cycle() {
        m_top->clk = 1;
        m_top->eval();
        m_top->clk = 0;
        m_top->eval();
    }

    void write(uint32_t address, uint32_t value) {
        m_top->s_axil_awaddr = address;
        m_top->s_axil_wdata = value;
        m_top->s_axil_awvalid = m_top->s_axil_wvalid = 1;
        bool answered = false;
        while (!answered) {
            m_top->eval();  // ready may depend on valid within the cycle
            const bool address_taken = m_top->s_axil_awready, data_taken = m_top->s_axil_wready;
            answered = m_top->s_axil_bvalid;
            cycle();
            if (address_taken) m_top->s_axil_awvalid = 0;
            if (data_taken) m_top->s_axil_wvalid = 0;
        }
    }

    uint32_t read(uint32_t address) {
        m_top->s_axil_araddr = address;
        m_top->s_axil_arvalid = 1;
        for (;;) {
            m_top->eval();
            const bool address_taken = m_top->s_axil_arready, answered = m_top->s_axil_rvalid;
            const uint32_t value = m_top->s_axil_rdata;
            cycle();
            if (address_taken) m_top->s_axil_arvalid = 0;
            if (answered) return value;
        }
    }

    uint64_t run_to_interrupt() {
        uint64_t cycles = 0;
        while (!m_top->irq && cycles < LIMIT_CYCLES) {
            cycle();
            ++cycles;
        }
        return cycles;
    }

private:
    std::unique_ptr<Vtop> m_top;
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: %s RING_BASE ENTRIES COMMANDS\n", argv[0]);
        return 2;
    }
    const uint64_t base = std::strtoull(argv[1], nullptr, 0);
    VerilatedContext context;
    Bench bench(context);
    bench.write(BROWNOUT_REG_RING_BASE_LO, uint32_t(base));
    bench.write(BROWNOUT_REG_RING_BASE_HI, uint32_t(base >> 32));
    bench.write(BROWNOUT_REG_RING_ENTRIES, uint32_t(std::strtoul(argv[2], nullptr, 0)));
    const auto start = std::chrono::steady_clock::now();
    bench.write(BROWNOUT_REG_RING_TAIL, uint32_t(std::strtoul(argv[3], nullptr, 0)));
    const uint64_t cycles = bench.run_to_interrupt();
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    std::printf("{\"cycles\": %llu, \"wall_s\": %.9f, \"irq\": %u, \"error_cause\": %u}\n", (unsigned long long)cycles,
                wall.count(), bench.read(BROWNOUT_REG_IRQ), bench.read(BROWNOUT_REG_ERROR_CAUSE));
    return 0;
}
