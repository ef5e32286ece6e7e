// Pins of an AXI4 port as the memory model and the checker see them at a rising clock edge.

#pragma once

#include <cstdint>

#include "brownout_hw.h"

namespace brownout {

using hw::MAX_BUS_BYTES;

// What memory model and checker know of AXI is written down here again and not taken from the RTL, whose slips they
// are to see.
constexpr uint8_t RESP_OKAY = 0, RESP_SLVERR = 2, RESP_DECERR = 3;

struct AddressPins {
    uint64_t address;
    uint8_t length;  // beats - 1
    uint8_t size;
    uint8_t burst;
    uint8_t id;
    bool valid;
    uint16_t attributes;  // bit 0 lock, 4..1 cache, 7..5 prot, 11..8 qos

    bool same_payload(const AddressPins& other) const {
        return address == other.address && length == other.length && size == other.size && burst == other.burst
               && id == other.id && attributes == other.attributes;
    }
};

// Driven by the master. Data and strobe are little-endian and belong to the caller.
struct MasterPins {
    AddressPins aw, ar;
    const uint8_t* wdata;
    const uint32_t* wstrb;
    bool wvalid, wlast, bready, rready;
};

// Driven by the slave.
struct SlavePins {
    bool awready, wready, arready;
    bool bvalid, rvalid, rlast;
    uint8_t bresp, bid, rresp, rid;
};

}  // namespace brownout
