#include "model.h"

#include <algorithm>

#include "copier.h"
#include "ports.h"

namespace brownout::cycles {
namespace {

constexpr size_t KNOWN_BANKS_LIMIT = 1 << 18;  // in all known outcomes; 8 MB

// Rows of memory from the first byte of an operand to its last one.
struct Extent {
    uint64_t address, first_row, last_row;
    bool used;

    bool meets(const Extent& other) const {
        return used && other.used && first_row <= other.last_row && other.first_row <= last_row;
    }
};

Extent extent(unsigned row_bits, uint64_t address, uint64_t batch_bytes, uint64_t rows, uint64_t stride,
              uint64_t row_bytes) {
    const uint64_t end = address + batch_bytes + (rows - 1) * stride + row_bytes;
    return {address, address >> row_bits, (end - 1) >> row_bits, row_bytes != 0};
}

// hw/control/tile_rows.py, with the cycle in which it is seen to be done.
Cycle tile_rows_cycles(const Config& config, const Command& command) {
    const auto pieces = [&](uint64_t extent, uint64_t unit, uint64_t largest) {
        return unit % config.bus_bytes ? Cycle(Split{ceil_div(extent, unit), largest}.pieces()) : 0;
    };
    const Cycle most = std::max(pieces(command.k, config.rows, config.slab_k_tiles),
                                pieces(command.n, config.cols, config.block_col_tiles));
    return command.tiled() && most ? most + 1 : 0;
}

}  // namespace

Counters Model::run(const Command* commands, const Found* found, uint64_t count, CommandRing ring) {
    // The memory has rested since the last doorbell: its bucket is full.
    m_now = 0;
    m_memory = Memory{};
    m_memory.tokens = m_config.full_tokens();
    Counters sum;
    for (uint64_t i = 0; i < count; ++i) {
        const uint64_t entry = (ring.head + i) % ring.entries;
        sum += run_one(commands[i], found ? found[i] : Found{}, ring.base + entry * COMMAND_BYTES);
    }
    return sum;
}

Counters Model::run_one(const Command& command, const Found& found, uint64_t address) {
    const Cycle begin = m_spent = m_now;
    const uint64_t activations = m_rows.activations();
    const Cycle check = fetch_command(address);
    Counters counters;
    if (command.opcode == OPCODE_GEMM || command.attention()) multiply(command, found, check, counters);
    else if (command.opcode == OPCODE_COPY) copy(command, found, check, counters);
    else change_settings(command, check, counters);
    spend(m_now);
    counters.cycles = uint64_t(m_now - begin);
    counters.commands = 1;
    counters.dram_read_bytes += COMMAND_BYTES;
    counters.dram_row_activations = m_rows.activations() - activations;
    ++m_now;  // QUIET
    return counters;
}

void Model::multiply(const Command& command, const Found& found, Cycle check, Counters& counters) {
    const Cycle start = check + 1 + EXTENTS_CYCLES
                        + (command.attention() ? VALUE_EXTENT_CYCLES : tile_rows_cycles(m_config, command));
    m_memory.fill_tokens(m_config, start);
    const Findings findings(m_config, command, found);
    const auto finish = [&](const Command& simulated, const Outcome& outcome) {
        const int64_t shift[OPERANDS] = {
            int64_t(command.a_addr - simulated.a_addr), int64_t(command.w_addr - simulated.w_addr),
            int64_t(command.channel_addr - simulated.channel_addr), int64_t(command.y_addr - simulated.y_addr), 0, 0,
            int64_t(command.v_addr - simulated.v_addr)};
        m_rows.append(outcome.banks, outcome.row_activations, shift);
        m_now = start + outcome.end;
        m_memory.tokens = outcome.tokens;
        m_memory.token_edge = start + outcome.token_edge;
        counters = outcome.counters;
    };
    if (m_step || !findings.simple()) {
        finish(command, Machine(m_config, command, findings, m_memory.tokens, m_step).run());
    } else {
        const Known& known = look_up(command, findings);
        finish(known.command, known.outcome);
    }
}

void Model::copy(const Command& command, const Found& found, Cycle check, Counters& counters) {
    Trace trace(m_config, m_rows, false);
    m_now = Copier(m_config, command, found, m_memory, trace).run(check + 2, counters) + 1;  // after COPY_START
}

// hw/control/settings.py.
void Model::change_settings(const Command& command, Cycle check, Counters& counters) {
    Cycle now = check + 2;  // after SETTINGS_START
    if (command.opcode == OPCODE_SET_POINT) {
        if (m_config.lengths_columns) now = read_lengths(command, now, counters);
        ++now;  // MOVE
        spend(now);
        m_points[command.domain] = command.point;
        m_point_cycles.transition += command.transition_cycles;
        now += std::max<Cycle>(1, Cycle(command.transition_cycles));
    }
    m_now = now + 2;  // DONE, RUN
}

// From the first cycle of READ on; returns the cycle of MOVE.
Cycle Model::read_lengths(const Command& command, Cycle begin, Counters& counters) {
    const unsigned bus_bytes = unsigned(m_config.bus_bytes);
    const uint64_t row_beats = ceil_div(m_config.lengths_columns, bus_bytes);
    Trace trace(m_config, m_rows, false);
    RowBursts bursts;
    bursts.start(RING, command.lengths_addr, command.lengths_stride, m_config.rows, row_beats, bus_bytes);
    ReadPort port;
    uint64_t left = m_config.rows * row_beats;
    counters.dram_read_bytes += left * bus_bytes;
    Cycle now = begin;
    for (; left; ++now) {
        const Memory::Outputs out = m_memory.out;
        const bool requests = bursts.busy && port.ready(m_config, out);
        m_memory.edge(m_config, trace, now, port.arvalid ? &port.ar : nullptr, nullptr, false, true);
        left -= out.rvalid;
        Burst request;
        if (requests) {
            request = bursts.request(bus_bytes);
            bursts.taken(request.beats, bus_bytes);
        }
        port.edge(out, requests ? &request : nullptr, true);
    }
    return now;
}

// The cycles up to `until` pass with all domains where they are.
void Model::spend(Cycle until) {
    for (uint64_t domain = 0; domain < m_config.domains; ++domain)
        m_point_cycles.at[domain][m_points[domain]] += uint64_t(until - m_spent);
    m_spent = until;
}

// hw/control/command_processor.py from REQUEST on. Returns the cycle of CHECK.
Cycle Model::fetch_command(uint64_t address) {
    Trace trace(m_config, m_rows, false);
    const Burst burst{address, 0, uint32_t(COMMAND_BYTES / m_config.bus_bytes), RING};
    ++m_now;  // REQUEST
    bool arvalid = true, last = false;
    while (!last) {
        const Memory::Outputs out = m_memory.out;
        last = out.rvalid && out.rlast;
        m_memory.edge(m_config, trace, m_now, arvalid ? &burst : nullptr, nullptr, false, true);
        if (out.arready) arvalid = false;
        // Until the edge at which a beat is presented there is nothing to see.
        m_now = std::max(m_now + 1, arvalid || last ? 0 : m_memory.wake(m_now + 1));
    }
    return m_now;
}

// What decides the outcome of a command: its shape, and its addresses as far as they shape bursts, choose banks and let
// operands share rows of memory.
Model::Key Model::key(const Command& c, const Findings& findings, uint64_t tokens) const {
    const unsigned row_bits = m_rows.row_bits();
    const uint64_t period = std::max<uint64_t>(PAGE_BYTES, m_config.banks << row_bits);
    const uint64_t last = c.batch - 1;
    const std::array<Extent, 5> operands = {
        extent(row_bits, c.a_addr, last * c.a_batch_stride, c.m, c.lda, c.a_tiled() ? c.lda : c.k),
        extent(row_bits, c.w_addr, last * c.w_batch_stride, c.k, c.ldw,
               c.attention() ? c.keys : c.w_tiled() ? c.ldw : c.n),
        extent(row_bits, c.y_addr, last * c.y_batch_stride, c.m, c.ldy,
               c.y_tiled() ? c.ldy : c.n * c.output_bytes()),
        extent(row_bits, c.channel_addr, 0, 1, 0, c.channel() ? c.n * CHANNEL_RECORD_BYTES : 0),
        extent(row_bits, c.v_addr, last * c.v_batch_stride, c.keys, c.ldv, c.attention() ? c.n : 0),
    };
    // What happens with errors that are found takes no time of its own.
    const uint64_t shaping = uint64_t(c.channel()) | uint64_t(c.requant()) << 1 | uint64_t(c.check()) << 2
                              | uint64_t(c.keep()) << 3 | uint64_t(c.int16()) << 4;
    Key key = {shaping | uint64_t(findings.logs.of(0)) << 8 | c.tiled() << 16, c.batch, c.m, c.n, c.k, c.lda, c.ldw, c.ldy,
               c.a_batch_stride, c.w_batch_stride, c.y_batch_stride, tokens, m_config.latency_cycles,
               m_config.bandwidth, c.a_addr % period, 0, 0, 0, 0, c.opcode, c.keys, c.block_rows, c.ldv,
               c.v_batch_stride};
    uint64_t& sharing = key.back();
    for (size_t i = 1; i < operands.size(); ++i) {
        bool shares = false;
        for (size_t j = 0; j < operands.size(); ++j) shares |= i != j && operands[i].meets(operands[j]);
        sharing = sharing << 1 | shares;
        // Where operands share rows, how they lie to each other must be the same to the byte.
        key[14 + i] = shares ? operands[i].address - c.a_addr : operands[i].address % period;
    }
    return key;
}

const Model::Known& Model::look_up(const Command& command, const Findings& findings) {
    const Key wanted = key(command, findings, m_memory.tokens);
    const auto found = m_known.find(wanted);
    if (found != m_known.end()) return found->second;
    if ((m_known.size() + 1) * m_config.banks > KNOWN_BANKS_LIMIT) m_known.clear();
    Machine machine(m_config, command, findings, m_memory.tokens, false);
    return m_known.emplace(wanted, Known{command, machine.run()}).first->second;
}

}  // namespace brownout::cycles
