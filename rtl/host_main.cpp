// Simulation main that hosts cocotb without paying for it while the accelerator works.
//
// cocotb's own main looks for changed values and runs callbacks after every evaluation. Here the clock is toggled in C++
// and VPI is entered only when the interrupt pin has changed or a cocotb deadline (Timer) is due; in between this is the
// loop of bare_main.cpp. What follows from that, for the cocotb side:
//
//  - `clk` belongs to this file: it rises at (n + 1/2) periods and falls at n periods. Edges of clk cannot be awaited.
//  - Callbacks run after the falling edge, when everything has settled, so a value written there is sampled by the
//    next rising edge and there is nothing to race with. A change of `irq` is reported at the falling edge after it.
//  - No other signal may be waited for.
//
// The process ends when cocotb finishes, when its host closes the socket or when its host dies.

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "Vtop.h"
#include "verilated.h"
#include "verilated_vpi.h"

#if VM_TRACE_FST
#include "verilated_fst_c.h"
using Trace = VerilatedFstC;
#elif VM_TRACE
#include "verilated_vcd_c.h"
using Trace = VerilatedVcdC;
#endif

#ifndef BROWNOUT_CLOCK_PERIOD_PS
#error "BROWNOUT_CLOCK_PERIOD_PS is set by the build"
#endif

extern "C" void vlog_startup_routines_bootstrap(void);

namespace {

constexpr uint64_t PERIOD_PS = BROWNOUT_CLOCK_PERIOD_PS;
constexpr uint64_t HALF_PS = PERIOD_PS / 2;
constexpr uint64_t NEVER = ~uint64_t(0);

// Cycles between looks at the socket: often enough to end within tens of milliseconds, too rare to be measured.
constexpr unsigned WATCH_CYCLES = 1u << 15;

class Simulation {
public:
    Simulation(int argc, char** argv) {
        m_context.commandArgs(argc, argv);
        Verilated::threadContextp(&m_context);
        Verilated::fatalOnVpiError(false);  // cocotb probes for objects that do not exist
        if (const char* fd = std::getenv("BROWNOUT_SOCKET_FD")) m_socket = std::atoi(fd);
#if VM_TRACE
        m_context.traceEverOn(true);
#endif
        m_top = std::make_unique<Vtop>(&m_context, "");
#if VM_TRACE
        if (const char* path = std::getenv("BROWNOUT_WAVES")) {
            m_trace = std::make_unique<Trace>();
            m_top->trace(m_trace.get(), 99);
            m_trace->open(path);
        }
#endif
    }

    void run() {
        m_top->clk = 0;
        vlog_startup_routines_bootstrap();
        VerilatedVpi::callCbs(cbStartOfSimulation);
        settle_values();
        service();
        while (!m_context.gotFinish()) {
            advance();
            if (m_context.gotFinish()) break;
            VerilatedVpi::callCbs(cbNextSimTime);
            settle_values();
            VerilatedVpi::callTimedCbs();
            settle_values();
            service();
        }
        m_top->final();
        VerilatedVpi::callCbs(cbEndOfSimulation);
#if VM_TRACE
        if (m_trace) m_trace->close();
#endif
    }

    int status() const { return m_context.errorCount() > 0 ? 1 : 0; }

private:
    // Runs the clock until cocotb has to be called: at a falling edge for the interrupt, at any time for a deadline.
    void advance() {
        const uint64_t deadline = VerilatedVpi::cbNextDeadline();
        const auto irq = m_top->irq;
        do {
            const uint64_t edge = (m_time / HALF_PS + 1) * HALF_PS;
            if (deadline < edge) {
                m_time = deadline;
                m_context.time(m_time);
                return;
            }
            m_time = edge;
            m_context.time(m_time);
            m_top->clk = !m_top->clk;
            m_top->eval();
            dump();
            if (m_top->clk) continue;
            if (m_top->irq != irq) return;
            if (++m_cycles % WATCH_CYCLES == 0 && host_gone()) {
                m_context.gotFinish(true);
                return;
            }
        } while (m_time != deadline && !m_context.gotFinish());
    }

    // The regions of one time step that VPI code may take part in.
    void service() {
        do {
            do {
                m_top->eval_step();
                VerilatedVpi::clearEvalNeeded();
                VerilatedVpi::doInertialPuts();
                settle_values();
            } while (VerilatedVpi::evalNeeded());
            VerilatedVpi::callCbs(cbReadWriteSynch);
            VerilatedVpi::doInertialPuts();
            settle_values();
        } while (VerilatedVpi::evalNeeded());
        m_top->eval_end_step();
        VerilatedVpi::callCbs(cbReadOnlySynch);
        dump();
    }

    static void settle_values() {
        while (VerilatedVpi::callValueCbs()) {
        }
    }

    void dump() {
#if VM_TRACE
        if (m_trace) m_trace->dump(m_time);
#endif
    }

    bool host_gone() const {
        if (m_socket < 0) return false;
        pollfd watched{m_socket, POLLRDHUP, 0};
        return poll(&watched, 1, 0) > 0 && (watched.revents & (POLLRDHUP | POLLHUP | POLLERR));
    }

    VerilatedContext m_context;
    std::unique_ptr<Vtop> m_top;
#if VM_TRACE
    std::unique_ptr<Trace> m_trace;
#endif
    uint64_t m_time = 0;
    uint64_t m_cycles = 0;
    int m_socket = -1;
};

// A stopped or blocked simulator cannot notice that its host has died, so the kernel is asked to end it.
void die_with_parent() {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const char* parent = std::getenv("BROWNOUT_PARENT_PID");
    if (parent && std::atoi(parent) != getppid()) std::exit(2);  // it died before the request
}

}  // namespace

int main(int argc, char** argv) {
    die_with_parent();
    Simulation simulation(argc, argv);
    simulation.run();
    return simulation.status();
}
