// The memory behind the bus: the timing rules of rtl/dram.h, without data.

#pragma once

#include <algorithm>

#include "bursts.h"
#include "queues.h"
#include "trace.h"

namespace brownout::cycles {

// Timing rules 1 to 5 of dram.h. Tokens are brought up to date only when the memory has something to do.
struct Memory {
    struct Outputs {  // registered
        bool arready = true, awready = true, wready = true, rvalid = false, rlast = false, bvalid = false;
    } out;

    Ring<Burst, 256> reads, writes;
    Ring<Cycle, 256> responses;
    uint32_t buffered = 0;
    bool served_read_last = false;
    uint64_t tokens = 0;
    Cycle token_edge = 0;  // the edge after which `tokens` is what there is
    uint64_t read_beats = 0, write_beats = 0;

    void fill_tokens(const Config& config, Cycle edge) {
        const uint64_t edges = uint64_t(edge - token_edge), most = config.beat_tokens() - 1;
        if (!edges) return;
        tokens = std::min(tokens + (edges - 1) * config.bandwidth, most) + config.bandwidth;
        token_edge = edge;
    }
    bool read_candidate(Cycle t) const { return !out.rvalid && !reads.empty() && reads.front().ready_at <= t; }
    bool write_candidate() const { return buffered && !writes.empty(); }

    // `ar`, `aw`: the burst offered in this cycle, if any.
    void edge(const Config& config, Trace& trace, Cycle t, const Burst* ar, const Burst* aw, bool wvalid, bool rready) {
        if (ar && out.arready) reads.push({ar->address, t + Cycle(config.latency_cycles), ar->beats, ar->operand});
        if (aw && out.awready) writes.push({aw->address, 0, aw->beats, aw->operand});
        buffered += wvalid && out.wready;
        if (rready) out.rvalid = out.rlast = false;
        out.bvalid = false;  // BREADY is always high

        const bool read_first = !served_read_last;
        if (read_candidate(t) || write_candidate()) {
            fill_tokens(config, t);
            for (const bool read : {read_first, !read_first}) {
                if (tokens < config.beat_tokens()) break;
                if (read ? !read_candidate(t) : !write_candidate()) continue;
                Burst& burst = read ? reads.front() : writes.front();
                trace.beat(burst.operand, burst.address);
                burst.address += config.bus_bytes;
                --burst.beats;
                if (read) {
                    ++read_beats;
                    out.rvalid = true;
                    out.rlast = !burst.beats;
                    if (out.rlast) reads.pop();
                } else {
                    ++write_beats;
                    --buffered;
                    if (!burst.beats) {
                        responses.push(t + Cycle(config.latency_cycles));
                        writes.pop();
                    }
                }
                tokens -= config.beat_tokens();
                served_read_last = read;
            }
        }
        if (!responses.empty() && responses.front() <= t) {
            out.bvalid = true;
            responses.pop();
        }
        out.arready = reads.size() < config.read_queue;
        out.awready = writes.size() < config.write_queue;
        out.wready = buffered < WRITE_BUFFER_BEATS;
    }
    // The next edge, `t` or later, that may change an output although the master asserts no valid.
    Cycle wake(Cycle t) const {
        if (out.rvalid || out.bvalid || write_candidate()) return t;
        const Cycle read = reads.empty() ? NEVER : reads.front().ready_at;
        const Cycle response = responses.empty() ? NEVER : responses.front();
        return std::max(t, std::min(read, response));
    }

    template <class V>
    void visit(V& v) {
        for (bool* x : {&out.arready, &out.awready, &out.wready, &out.rvalid, &out.rlast, &out.bvalid}) v.value(*x);
        v.value(served_read_last);
        for (auto* queue : {&reads, &writes}) {
            v.value(queue->size());
            for (unsigned i = 0; i < queue->size(); ++i) (*queue)[i].visit(v);
        }
        v.value(responses.size());
        for (unsigned i = 0; i < responses.size(); ++i) v.time(responses[i]);
        v.value(buffered);
        v.value(tokens);
        v.time(token_edge);
        v.absolute(read_beats);
        v.absolute(write_beats);
    }
};

}  // namespace brownout::cycles
