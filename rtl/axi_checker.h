// Checks that a master obeys AXI4 (rules it can break by itself) and stays inside memory.

#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "axi_pins.h"

namespace brownout {

class AxiChecker {
public:
    explicit AxiChecker(unsigned bus_bytes);

    // Looks at one rising edge: what the master drives and what the slave drives, before the edge changes either.
    void observe(const MasterPins& master, const SlavePins& slave);
    void reset();

    // True while a valid waits for its ready: the next edge must be observed even if valid is dropped.
    bool waiting() const { return m_previous.aw.valid || m_previous.ar.valid || m_previous.wvalid; }

    bool enabled = true;
    bool bounds_enabled = true;
    uint64_t size_bytes = 0;

    uint64_t violations() const { return m_violations; }
    // Text of the first violation since `clear`, empty if there is none.
    const std::string& message() const { return m_message; }
    // Appends when it happened to a message that does not say so yet.
    void note_time(uint64_t time_ps);
    void clear();

private:
    void check_address(const char* channel, const AddressPins& pins, const AddressPins& previous);
    void check_write(const MasterPins& master, const SlavePins& slave);
    void violation(const std::string& text);

    const unsigned m_bus_bytes;
    MasterPins m_previous{};  // valid bits are those that still wait for ready
    uint8_t m_previous_data[MAX_BUS_BYTES]{};
    uint32_t m_previous_strobe[MAX_BUS_BYTES / 32]{};
    std::deque<unsigned> m_burst_beats;   // bursts whose data has not begun or not ended
    std::deque<unsigned> m_data_beats;    // lengths of data bursts that came before their address
    unsigned m_beats = 0;                 // data beats taken of the current burst
    uint64_t m_violations = 0;
    bool m_time_noted = false;
    std::string m_message;
};

}  // namespace brownout
