// Clock and reset of `system` in Verilator; writes coverage to the file that is the argument.

#include <memory>

#include "Vsystem.h"
#include "verilated.h"
#if VM_COVERAGE
#include "verilated_cov.h"
#endif

int main(int argc, char** argv) {
    VerilatedContext context;
    context.commandArgs(argc, argv);
    const auto top = std::make_unique<Vsystem>(&context, "");
    for (unsigned cycle = 0; cycle < 100000 && !context.gotFinish(); ++cycle) {
        top->rst = cycle < 4;
        top->clk = 0;
        top->eval();
        const bool done = top->done;
        top->clk = 1;
        top->eval();
        if (done) break;
    }
    top->final();
#if VM_COVERAGE
    context.coveragep()->write(argv[1]);
#endif
    return !top->done;
}
