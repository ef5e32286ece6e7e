// Copying runs of bytes: hw/copy/copier.py.

#pragma once

#include <algorithm>

#include "bursts.h"
#include "findings.h"
#include "memory.h"
#include "ports.h"
#include "trace.h"

namespace brownout::cycles {

class Copier {
public:
    Copier(const Config& config, const Command& command, const Found& found, Memory& memory, Trace& trace)
        : m_config(config), m_command(command), m_runs(found.runs), m_memory(memory), m_trace(trace) {}

    // `now`: the cycle after the one in which `start` is high. Returns the one in which the command is done, and counts.
    Cycle run(Cycle now, Counters& counters) {
        const uint64_t reads = m_memory.read_beats, writes = m_memory.write_beats;
        for (; m_state != IDLE; ++now) edge(now);
        for (; m_read.outstanding || m_write.outstanding; ++now) edge(now);
        counters.dram_read_bytes += (m_memory.read_beats - reads) * m_config.bus_bytes;
        counters.dram_write_bytes += (m_memory.write_beats - writes) * m_config.bus_bytes;
        return now;
    }

private:
    enum State : uint8_t { IDLE, LIST, LIST_READ, RUN_READ, RUN, PASS };

    uint64_t offset() const { return m_runs[2 * (m_first + m_index)]; }
    uint64_t length() const { return m_runs[2 * (m_first + m_index) + 1]; }
    uint64_t piece() const { return std::min<uint64_t>(m_command.runs - m_first, RUNS_AT_ONCE); }
    uint64_t list_beats() const { return ceil_div(piece() * RUN_BYTES, m_config.bus_bytes); }

    void edge(Cycle t) {
        const unsigned bus_bytes = unsigned(m_config.bus_bytes);
        // All parts see each other as they are before the edge.
        const Memory::Outputs out = m_memory.out;
        const bool listing = m_state == LIST_READ;
        const bool requests = m_bursts.busy && m_read.ready(m_config, out) && (listing || m_write.ready(m_config, out));
        const bool wvalid = m_passing && m_write.in_burst && out.rvalid;
        const bool passed = wvalid && out.wready;
        const bool rready = listing || passed;
        const bool bursts_busy = m_bursts.busy, passing = m_passing, writable = m_spans.writable(SPAN_QUEUE);
        const bool empty = !m_spans.inner && !m_spans.readable;
        m_memory.edge(m_config, m_trace, t, m_read.arvalid ? &m_read.ar : nullptr,
                      m_write.awvalid ? &m_write.aw : nullptr, wvalid, rready);

        Burst request, moved;
        if (requests) {
            request = moved = m_bursts.request(bus_bytes);
            moved.address += m_command.target_addr - m_command.source_addr;
            m_bursts.taken(request.beats, bus_bytes);
        }
        m_read.edge(out, requests ? &request : nullptr, rready);
        m_write.edge(out, requests && !listing ? &moved : nullptr, passed);

        const bool next_span = !m_passing || (passed && m_beats_left == 1);
        if (next_span) {
            m_passing = m_spans.readable;
            if (m_passing) {
                m_beats_left = m_span_beats.front();
                m_span_beats.pop();
            }
        } else if (passed) {
            --m_beats_left;
        }

        bool span_written = false;
        switch (m_state) {
        case IDLE: break;
        case LIST:
            start(m_command.list_addr + m_first * RUN_BYTES, list_beats());
            m_list_beats = list_beats();
            m_state = LIST_READ;
            break;
        case LIST_READ:
            m_index = 0;
            if (out.rvalid && --m_list_beats == 0) m_state = RUN_READ;
            break;
        case RUN_READ: m_state = RUN; break;
        case RUN: {
            if (bursts_busy || !writable) break;
            const uint64_t beats = ceil_div(offset() % bus_bytes + length(), bus_bytes);
            start(m_command.source_addr + offset(), beats);
            m_span_beats.push(beats);
            span_written = true;
            m_state = ++m_index == piece() ? PASS : RUN_READ;
            break;
        }
        case PASS:
            if (bursts_busy || passing || !empty) break;
            m_first += piece();
            m_state = m_first == m_command.runs ? IDLE : LIST;
            break;
        }
        m_spans.edge(span_written, next_span);
    }

    void start(uint64_t address, uint64_t beats) { m_bursts.start(RING, address, 0, 1, beats, unsigned(m_config.bus_bytes)); }

    const Config& m_config;
    const Command& m_command;
    const uint32_t* m_runs;
    Memory& m_memory;
    Trace& m_trace;
    State m_state = LIST;
    uint64_t m_first = 0;  // run of the list at which the piece on chip begins
    uint64_t m_index = 0, m_list_beats = 0;
    RowBursts m_bursts;
    ReadPort m_read;
    WritePort m_write;
    FifoLevels m_spans;
    Ring<uint64_t, SPAN_QUEUE> m_span_beats;
    bool m_passing = false;
    uint64_t m_beats_left = 0;
};

}  // namespace brownout::cycles
