// The simulated device as a program has it: a clock, the AXI4-Lite port, one access at a time, and the interrupt.

#pragma once

#include <cstdint>
#include <memory>

#include "Vtop.h"
#include "verilated.h"

namespace brownout {

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

    // Returns the response: 0 OKAY, 2 SLVERR, 3 DECERR.
    unsigned write(uint32_t address, uint32_t value) {
        m_top->s_axil_awaddr = address;
        m_top->s_axil_wdata = value;
        m_top->s_axil_awvalid = m_top->s_axil_wvalid = 1;
        for (;;) {
            m_top->eval();  // ready may depend on valid within the cycle
            const bool address_taken = m_top->s_axil_awready, data_taken = m_top->s_axil_wready;
            const bool answered = m_top->s_axil_bvalid;
            const unsigned response = m_top->s_axil_bresp;
            cycle();
            if (address_taken) m_top->s_axil_awvalid = 0;
            if (data_taken) m_top->s_axil_wvalid = 0;
            if (answered) return response;
        }
    }

    // Returns the response, likewise.
    unsigned read(uint32_t address, uint32_t& value) {
        m_top->s_axil_araddr = address;
        m_top->s_axil_arvalid = 1;
        for (;;) {
            m_top->eval();
            const bool address_taken = m_top->s_axil_arready, answered = m_top->s_axil_rvalid;
            const unsigned response = m_top->s_axil_rresp;
            value = m_top->s_axil_rdata;
            cycle();
            if (address_taken) m_top->s_axil_arvalid = 0;
            if (answered) return response;
        }
    }

    bool interrupt() const { return m_top->irq; }

private:
    std::unique_ptr<Vtop> m_top;
};

}  // namespace brownout
