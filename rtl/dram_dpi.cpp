// C interface of the one memory model of a process: DPI functions for the simulation top, and functions that Python
// calls through ctypes for parameters, statistics and violations.
//
// Settings come from the environment variable BROWNOUT_DRAM, "name=value" pairs separated by commas: every name of
// Dram::set, and `fd` (an open file to map, inherited from the parent), `path` (a file to map) and `size_bytes`.

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "dram.h"

using brownout::Dram;
using brownout::MasterPins;

namespace {

std::unique_ptr<Dram> g_dram;

[[noreturn]] void fail(const std::string& reason) {
    std::fprintf(stderr, "dram: %s\n", reason.c_str());
    std::exit(3);
}

uint64_t number(const std::string& name, const std::string& text) {
    char* end = nullptr;
    const uint64_t value = std::strtoull(text.c_str(), &end, 0);
    if (text.empty() || *end) fail(name + " must be a number, not '" + text + "'");
    return value;
}

void configure(const char* settings) {
    int fd = -1;
    uint64_t size_bytes = brownout::hw::DEFAULT_SIZE_BYTES;
    std::string rest = settings;
    while (!rest.empty()) {
        const std::string pair = rest.substr(0, rest.find(','));
        rest.erase(0, pair.size() + 1);
        const size_t equals = pair.find('=');
        if (equals == std::string::npos) fail("setting '" + pair + "' is not name=value");
        const std::string name = pair.substr(0, equals), value = pair.substr(equals + 1);
        if (name == "path") {
            fd = open(value.c_str(), O_RDWR | O_CLOEXEC);
            if (fd < 0) fail("cannot open " + value + ": " + std::strerror(errno));
        } else if (name == "fd") {
            fd = int(number(name, value));
        } else if (name == "size_bytes") {
            size_bytes = number(name, value);
        } else if (!g_dram->set(name, number(name, value))) {
            fail("unknown setting '" + name + "'");
        }
    }
    if (!g_dram->map(fd, size_bytes)) fail(std::string("cannot map memory: ") + std::strerror(errno));
    if (fd >= 0) close(fd);
}

}  // namespace

extern "C" {

// DPI. Creates the model; called once at time 0.
void dram_open(int bus_bytes) {
    g_dram = std::make_unique<Dram>(unsigned(bus_bytes));
    const char* settings = std::getenv("BROWNOUT_DRAM");
    configure(settings ? settings : "");
}

// DPI. One rising edge with reset asserted.
void dram_reset() { g_dram->reset(); }

// DPI. One rising edge. Bits of `controls`: 0 awvalid, 1 wvalid, 2 wlast, 3 bready, 4 arvalid, 5 rready. Bits of
// `awinfo` and `arinfo`: 7..0 len, 10..8 size, 12..11 burst, 13 id, 14 lock, 18..15 cache, 21..19 prot, 25..22 qos. Bits of the result: 0 awready, 1 wready, 2 bvalid,
// 4..3 bresp, 5 bid, 6 arready, 7 rvalid, 8 rlast, 10..9 rresp, 11 rid, 12 call again next edge, 13 AXI violation.
unsigned dram_cycle(unsigned controls, unsigned long long awaddr, unsigned awinfo, unsigned long long araddr, unsigned arinfo,
                    const uint32_t* wdata, const uint32_t* wstrb, uint32_t* rdata, int bus_bytes) {
    const auto address = [](uint64_t value, unsigned info, bool valid) {
        return brownout::AddressPins{value, uint8_t(info), uint8_t(info >> 8 & 7), uint8_t(info >> 11 & 3), uint8_t(info >> 13 & 1),
                                     valid, uint16_t(info >> 14 & 0xFFF)};
    };
    MasterPins pins;
    pins.aw = address(awaddr, awinfo, controls & 1);
    pins.ar = address(araddr, arinfo, controls >> 4 & 1);
    pins.wdata = reinterpret_cast<const uint8_t*>(wdata);
    pins.wstrb = wstrb;
    pins.wvalid = controls >> 1 & 1;
    pins.wlast = controls >> 2 & 1;
    pins.bready = controls >> 3 & 1;
    pins.rready = controls >> 5 & 1;
    const brownout::SlavePins& out = g_dram->cycle(pins);
    std::memcpy(rdata, g_dram->read_data(), unsigned(bus_bytes));
    return unsigned(out.awready) | unsigned(out.wready) << 1 | unsigned(out.bvalid) << 2 | unsigned(out.bresp) << 3
           | unsigned(out.bid) << 5 | unsigned(out.arready) << 6 | unsigned(out.rvalid) << 7 | unsigned(out.rlast) << 8
           | unsigned(out.rresp) << 9 | unsigned(out.rid) << 11 | unsigned(g_dram->active()) << 12
           | unsigned(g_dram->checker().violations() != 0) << 13;
}

// DPI. Tells when the first violation happened. It is written to the log at once: the simulation may hang because of it.
void dram_note_time(unsigned long long time_ps) {
    g_dram->checker().note_time(time_ps);
    std::fprintf(stderr, "AXI violation: %s\n", g_dram->checker().message().c_str());
}

// ctypes. The memory itself.
uint8_t* brownout_dram_memory() { return g_dram ? g_dram->memory() : nullptr; }

// ctypes. 0 on success, -1 for an unknown name.
int brownout_dram_set(const char* name, unsigned long long value) { return g_dram && g_dram->set(name, value) ? 0 : -1; }

// ctypes. 0 on success, -1 for an unknown name.
int brownout_dram_get(const char* name, unsigned long long* value) {
    uint64_t result = 0;
    if (!g_dram || !g_dram->get(name, result)) return -1;
    *value = result;
    return 0;
}

// ctypes. The first AXI violation, an empty string if there is none; valid until `brownout_axi_clear`.
const char* brownout_axi_violation() { return g_dram ? g_dram->checker().message().c_str() : ""; }

// ctypes. Forgets violations.
void brownout_axi_clear() {
    if (g_dram) g_dram->checker().clear();
}

}  // extern "C"
