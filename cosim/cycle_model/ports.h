// The two sides of the AXI master: hw/bus/read_port.py, hw/bus/write_port.py.

#pragma once

#include "bursts.h"
#include "memory.h"
#include "queues.h"

namespace brownout::cycles {

// Of a command that reads with nothing else; the loader has its own.
struct ReadPort {
    uint32_t outstanding = 0;
    bool arvalid = false;
    Burst ar;

    bool ready(const Config& config, const Memory::Outputs& memory) const {
        return outstanding < config.read_outstanding && (!arvalid || memory.arready);
    }
    // `request`: the burst taken in this cycle, if any. `rready`: a beat that is offered is taken.
    void edge(const Memory::Outputs& memory, const Burst* request, bool rready) {
        outstanding = outstanding + (request != nullptr) - (memory.rvalid && rready && memory.rlast);
        if (memory.arready) arvalid = false;
        if (!request) return;
        ar = *request;
        arvalid = true;
    }
};

struct WritePort {
    uint32_t outstanding = 0;
    bool awvalid = false;
    Burst aw;
    FifoLevels levels;
    Ring<uint32_t, BURST_QUEUE> lengths;
    bool in_burst = false;
    uint32_t beats_left = 0;

    bool ready(const Config& config, const Memory::Outputs& memory) const {
        return levels.writable(BURST_QUEUE) && outstanding < config.write_outstanding && (!awvalid || memory.awready);
    }
    bool awake() const { return awvalid || in_burst || levels.inner || levels.readable; }
    // `request`: the burst taken in this cycle, if any. `sent`: a beat of data is taken by the memory.
    void edge(const Memory::Outputs& memory, const Burst* request, bool sent) {
        outstanding = outstanding + (request != nullptr) - memory.bvalid;
        if (memory.awready) awvalid = false;
        if (request) {
            aw = *request;
            awvalid = true;
            lengths.push(aw.beats);
        }
        const bool read_enable = !in_burst || (sent && beats_left == 1);
        if (read_enable) {
            in_burst = levels.readable;
            if (in_burst) {
                beats_left = lengths.front();
                lengths.pop();
            }
        } else if (sent) {
            --beats_left;
        }
        levels.edge(request != nullptr, read_enable);
    }

    template <class V>
    void visit(V& v) {
        v.value(outstanding);
        v.value(awvalid);
        if (awvalid) aw.visit(v);
        levels.visit(v);
        v.value(lengths.size());
        for (unsigned i = 0; i < lengths.size(); ++i) v.value(lengths[i]);
        v.value(in_burst);
        if (in_burst) v.value(beats_left);
    }
};

}  // namespace brownout::cycles
