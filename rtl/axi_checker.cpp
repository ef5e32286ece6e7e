#include "axi_checker.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>

namespace brownout {

namespace {

constexpr uint8_t BURST_INCR = 1;
constexpr uint16_t LOCK = 1, MODIFIABLE = 1 << 2, ALLOCATE = 3 << 3;
constexpr uint64_t BOUNDARY_BYTES = 4096;

std::string describe(const char* channel, const AddressPins& pins) {
    char text[128];
    std::snprintf(text, sizeof text, "%s of address 0x%" PRIx64 ", %u beats", channel, pins.address, pins.length + 1u);
    return text;
}

}  // namespace

AxiChecker::AxiChecker(unsigned bus_bytes) : m_bus_bytes(bus_bytes) {}

void AxiChecker::violation(const std::string& text) {
    if (m_violations++ == 0) {
        m_message = text;
        m_time_noted = false;
    }
}

void AxiChecker::note_time(uint64_t time_ps) {
    if (m_violations && !m_time_noted) {
        m_message += " (at " + std::to_string(time_ps) + " ps)";
        m_time_noted = true;
    }
}

void AxiChecker::clear() {
    m_violations = 0;
    m_message.clear();
}

void AxiChecker::reset() {
    m_previous = MasterPins{};
    m_burst_beats.clear();
    m_data_beats.clear();
    m_beats = 0;
}

void AxiChecker::check_address(const char* channel, const AddressPins& pins, const AddressPins& previous) {
    if (previous.valid) {
        if (!pins.valid) {
            violation(std::string(channel) + "VALID dropped before " + channel + "READY");
            return;
        }
        if (!pins.same_payload(previous))
            violation(std::string(channel) + " payload changed while waiting for " + channel + "READY: "
                      + describe(channel, previous) + " became " + describe(channel, pins));
        return;  // the burst itself was checked when it was first offered
    }
    if (!pins.valid) return;
    const uint64_t bytes = uint64_t(pins.length + 1) * m_bus_bytes;
    if (pins.burst != BURST_INCR) violation(describe(channel, pins) + ": burst type is not INCR");
    if ((1u << pins.size) != m_bus_bytes) violation(describe(channel, pins) + ": size is not the width of the bus");
    if (pins.attributes & LOCK) violation(describe(channel, pins) + ": exclusive access");
    if ((pins.attributes & ALLOCATE) && !(pins.attributes & MODIFIABLE))
        violation(describe(channel, pins) + ": cache allocation of an access that must not be modified");
    if (pins.address % m_bus_bytes) violation(describe(channel, pins) + ": not aligned to the width of the bus");
    if (pins.address % BOUNDARY_BYTES + bytes > BOUNDARY_BYTES)
        violation(describe(channel, pins) + ": crosses a 4 KiB boundary");
    if (bounds_enabled && (pins.address > size_bytes || bytes > size_bytes - pins.address))
        violation(describe(channel, pins) + ": outside memory");
}

void AxiChecker::check_write(const MasterPins& master, const SlavePins& slave) {
    const unsigned strobe_words = (m_bus_bytes + 31) / 32;
    if (m_previous.wvalid) {
        if (!master.wvalid) {
            violation("WVALID dropped before WREADY");
        } else if (master.wlast != m_previous.wlast || std::memcmp(master.wdata, m_previous_data, m_bus_bytes)
                   || std::memcmp(master.wstrb, m_previous_strobe, 4 * strobe_words)) {
            violation("W payload changed while waiting for WREADY");
        }
    }
    // Data may come before its address, so lengths are compared when the later of the two is known.
    if (master.aw.valid && slave.awready) {
        const unsigned beats = master.aw.length + 1;
        if (!m_data_beats.empty()) {
            if (m_data_beats.front() != beats)
                violation(describe("AW", master.aw) + ": WLAST came with beat " + std::to_string(m_data_beats.front()));
            m_data_beats.pop_front();
        } else {
            m_burst_beats.push_back(beats);
        }
    }
    if (master.wvalid && slave.wready) {
        ++m_beats;
        if (!m_burst_beats.empty()) {
            const unsigned beats = m_burst_beats.front();
            if (master.wlast != (m_beats == beats))
                violation(std::string(master.wlast ? "WLAST set" : "WLAST missing") + " at beat " + std::to_string(m_beats)
                          + " of a burst of " + std::to_string(beats));
            if (master.wlast || m_beats >= beats) {
                m_burst_beats.pop_front();
                m_beats = 0;
            }
        } else if (master.wlast) {
            m_data_beats.push_back(m_beats);
            m_beats = 0;
        } else if (m_beats >= 256) {
            violation("W burst of more than 256 beats");
            m_beats = 0;
        }
    }
    m_previous.wvalid = master.wvalid && !slave.wready;
    if (m_previous.wvalid) {
        m_previous.wlast = master.wlast;
        std::memcpy(m_previous_data, master.wdata, m_bus_bytes);
        std::memcpy(m_previous_strobe, master.wstrb, 4 * strobe_words);
    }
}

void AxiChecker::observe(const MasterPins& master, const SlavePins& slave) {
    if (master.aw.valid || m_previous.aw.valid) check_address("AW", master.aw, m_previous.aw);
    if (master.ar.valid || m_previous.ar.valid) check_address("AR", master.ar, m_previous.ar);
    if (master.wvalid || m_previous.wvalid || master.aw.valid) check_write(master, slave);
    m_previous.aw = master.aw;
    m_previous.ar = master.ar;
    m_previous.aw.valid = master.aw.valid && !slave.awready;
    m_previous.ar.valid = master.ar.valid && !slave.arready;
}

}  // namespace brownout
