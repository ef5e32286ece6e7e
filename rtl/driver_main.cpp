// Runs a driver in C on the simulated accelerator.
//
// usage: driver LIBRARY      (memory: environment variable BROWNOUT_DRAM, see dram_dpi.cpp)
// Ends with what `brownout_driver` of the library returns, and with 3 if there was a breach of AXI rules.

#include <dlfcn.h>

#include <cstdio>

#include "axi_pins.h"
#include "bench.h"
#include "brownout_device.h"

static_assert(BROWNOUT_DEVICE_OKAY == brownout::RESP_OKAY && BROWNOUT_DEVICE_SLVERR == brownout::RESP_SLVERR
              && BROWNOUT_DEVICE_DECERR == brownout::RESP_DECERR);

namespace {

brownout::Bench* g_bench;

}  // namespace

extern "C" {

uint8_t* brownout_dram_memory();

int brownout_device_read(uint32_t address, uint32_t* value) { return int(g_bench->read(address, *value)); }

int brownout_device_write(uint32_t address, uint32_t value) { return int(g_bench->write(address, value)); }

void brownout_device_wait(uint32_t cycles) {
    while (cycles--) g_bench->cycle();
}

int brownout_device_interrupt() { return g_bench->interrupt(); }

uint8_t* brownout_device_memory() { return brownout_dram_memory(); }

}  // extern "C"

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s LIBRARY\n", argv[0]);
        return 2;
    }
    VerilatedContext context;
    brownout::Bench bench(context);
    g_bench = &bench;
    void* library = dlopen(argv[1], RTLD_NOW);
    const auto driver = library ? reinterpret_cast<int (*)()>(dlsym(library, "brownout_driver")) : nullptr;
    if (!driver) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    const int status = driver();
    if (*brownout_axi_violation()) {
        std::fprintf(stderr, "AXI violation: %s\n", brownout_axi_violation());
        return 3;
    }
    return status;
}
