#include "machine.h"

#include <algorithm>
#include <utility>

namespace brownout::cycles {
namespace {

// Cycles between two looks for a repetition along K: looking costs as much as stepping.
constexpr Cycle LEAST_STRETCH = 512;
// Entries of the trace beyond which what was recorded is forgotten.
constexpr size_t TRACE_LIMIT = 1 << 22;

}  // namespace

Machine::Machine(const Config& config, const Command& command, const Findings& findings, uint64_t tokens, bool step)
    : m_config(config), m_command(command), m_logs(findings.logs), m_step(step || command.attention()), m_rows(config),
      m_trace(config, m_rows, !m_step) {
    m_trace.set_blank(findings.blank);
    m_memory.tokens = tokens;
    m_memory.served_read_last = true;  // the command itself
    m_load.start(config, command);
    m_drain.start(config, command);
    m_sequencer.start(config, command, 0);
    // Blocks of ATTENTION are stepped through, whose rows may be anywhere.
    if (!command.attention()) find_split_rows();
}

Outcome Machine::run() {
    m_now = 1;
    while (!m_drain.done || m_load.outstanding || m_drain.port.outstanding) {
        if (m_sequencer.began_slab) {
            if (!m_step) look_for_repetition(m_sequencer.began_block);
            m_sequencer.began_slab = m_sequencer.began_block = false;
        }
        const Cycle memory_wake = m_memory.wake(m_now);
        if (!m_load.awake && !m_drain.awake) {
            const Cycle next = std::min({m_sequencer.wake, m_load.wake, m_drain.wake, memory_wake});
            if (next > m_now) {
                m_now = next;
                continue;
            }
        }
        cycle(m_now, memory_wake <= m_now);
        ++m_now;
    }
    Outcome outcome;
    outcome.counters = m_counters;
    outcome.counters.dram_read_bytes = m_memory.read_beats * m_config.bus_bytes;
    outcome.counters.dram_write_bytes = m_memory.write_beats * m_config.bus_bytes;
    outcome.end = m_now + 1;  // `engines_finished` and `bus_idle` are seen in `m_now`
    outcome.tokens = m_memory.tokens;
    outcome.token_edge = m_memory.token_edge;
    outcome.row_activations = m_rows.activations();
    outcome.banks = m_rows.banks();
    return outcome;
}

void Machine::cycle(Cycle t, bool memory_due) {
    if (m_sequencer.wake <= t)
        m_sequencer.evaluate(m_config, m_command, t, m_counters, m_load.slabs_free, m_load.room, m_load.wake,
                             m_drain.blocks_ready, m_drain.scales_ready, m_drain.wake);
    // All parts see the memory as it is before the edge.
    const Memory::Outputs out = m_memory.out;
    const bool wvalid = m_drain.wvalid(m_config);
    const bool run_load = m_load.awake || m_load.wake <= t || out.rvalid;
    const bool run_drain = m_drain.awake || m_drain.wake <= t || out.bvalid;
    const Burst* ar = m_load.arvalid ? &m_load.ar : nullptr;
    const Burst* aw = m_drain.port.awvalid ? &m_drain.port.aw : nullptr;
    if (memory_due || ar || aw || wvalid)
        m_memory.edge(m_config, m_trace, t, ar, aw, wvalid, m_load.unpacker.needs_beat());
    if (run_load)
        m_load.edge(m_config, m_command, t, out, m_counters, m_sequencer, m_drain.tables_ready, m_drain.wake);
    if (run_drain)
        m_drain.edge(m_config, m_command, t, out, m_counters, m_sequencer, m_load.channels_free, m_load.wake,
                     m_logs);
}

void Machine::find_split_rows() {
    const Config& c = m_config;
    const Command& k = m_command;
    const uint64_t element = k.output_bytes();
    const bool batched = k.batch > 1;
    bool a = true, w = true, y = true, channels = true;
    const uint64_t k_tiles = ceil_div(k.k, c.rows), n_tiles = ceil_div(k.n, c.cols);
    // Of a piece that begins `begin` bytes into its row. A tile is some rows * what the tiles before take of a row from
    // the first one of its rows of tiles.
    const auto never = [&](bool tiled, uint64_t address, uint64_t begin, uint64_t length, uint64_t stride,
                           uint64_t batch_stride, uint64_t& tiled_begin) {
        if (!batched) batch_stride = 0;
        if (!tiled) return never_crosses(address + begin, length, stride, batch_stride);
        const uint64_t bytes = whole_beats(c, length), all = stride | tiled_begin | bytes;
        tiled_begin += bytes;
        return never_crosses(address, length, all, batch_stride);
    };
    uint64_t a_begin = 0, w_begin = 0, y_begin = 0;
    for (uint64_t tile = 0, size; tile < k_tiles && a; tile += size) {
        size = Split::first(k_tiles - tile, c.slab_k_tiles);
        const uint64_t begin = tile * c.rows, end = std::min(k.k, begin + size * c.rows);
        a = never(k.a_tiled(), k.a_addr, begin, end - begin, k.lda, k.a_batch_stride, a_begin);
    }
    for (uint64_t tile = 0, size; tile < n_tiles && (w || y || channels); tile += size) {
        size = Split::first(n_tiles - tile, c.block_col_tiles);
        const uint64_t begin = tile * c.cols, count = std::min(k.n, begin + size * c.cols) - begin;
        w &= never(k.w_tiled(), k.w_addr, begin, count, k.ldw, k.w_batch_stride, w_begin);
        y &= never(k.y_tiled(), k.y_addr, begin * element, count * element, k.ldy, k.y_batch_stride, y_begin);
        channels &= never_crosses(k.channel_addr + begin * CHANNEL_RECORD_BYTES, count * CHANNEL_RECORD_BYTES, 0, 0);
    }
    m_load.a_never_split = a;
    m_load.w_never_split = w;
    m_load.channels_never_split = channels;
    m_drain.y_never_split = y;
}

void Machine::forget() {
    for (auto& checkpoints : m_checkpoints) checkpoints.clear();
}

void Machine::look_for_repetition(bool block_began) {
    if (m_trace.size() > TRACE_LIMIT) {
        m_trace.clear();
        forget();
    }
    const Sequencer& s = m_sequencer;
    const Walker& fetch = m_load.walker;
    const Walker& pass = s.walker;
    const Walker& drain = m_drain.walker;
    if (!fetch.valid || !pass.valid || !drain.valid) return;
    const bool same_product = fetch.product == drain.product;
    const bool same_row = same_product && fetch.row_block == drain.row_block;
    if (block_began) m_checkpoints[ALONG_K].clear();
    if (!block_began && m_now < m_last_look + LEAST_STRETCH) return;
    m_last_look = m_now;

    m_memory.fill_tokens(m_config, m_now - 1);
    std::string key;
    key.reserve(1024);
    KeyWriter writer(m_now, key);
    visit(writer);
    if (!block_began) {
        // `drain` may still be in the block before, as long as it does not move.
        if (fetch.product == pass.product && fetch.row_block == pass.row_block && fetch.col_block == pass.col_block)
            compare(ALONG_K, key, {m_load.slab - s.slab, drain.product, drain.row_block, drain.col_block}, m_load.slab,
                    Split{ceil_div(m_command.k, m_config.rows), m_config.slab_k_tiles}.last_regular());
        return;
    }
    const uint64_t slabs = m_load.slab << 8 | s.slab;
    if (pass.row_block == 0 && pass.col_block == 0
        && compare(ALONG_BATCH, key,
                   {slabs, fetch.product - pass.product, fetch.row_block, fetch.col_block, pass.product - drain.product,
                    drain.row_block, drain.col_block},
                   fetch.product, int64_t(m_command.batch) - 2))
        return;
    if (pass.col_block == 0 && same_product
        && compare(ALONG_M, key,
                   {slabs, fetch.product, fetch.row_block - pass.row_block, fetch.col_block,
                    pass.row_block - drain.row_block, drain.col_block},
                   fetch.row_block, Split{m_command.m, m_command.largest_rows(m_config)}.last_regular()))
        return;
    if (same_row)
        compare(ALONG_N, key,
                {slabs, fetch.product, fetch.row_block, fetch.col_block - pass.col_block,
                 pass.col_block - drain.col_block},
                fetch.col_block, Split{ceil_div(m_command.n, m_config.cols), m_config.block_col_tiles}.last_regular());
}

// `relation`: where the walkers are to each other, and where they are in the other directions. `limit`: the last
// position at which the fetcher does what it does everywhere before. Returns whether time was skipped.
bool Machine::compare(Direction direction, std::string key, std::initializer_list<uint64_t> relation, uint64_t position,
                      int64_t limit) {
    for (const uint64_t x : relation) key.append(reinterpret_cast<const char*>(&x), sizeof(x));
    m_trace.seal();
    Checkpoint here{m_now, position, m_drain.block, m_trace.size(), {}, {}};
    // Where the fetcher is inside its block matters along K only, and means nothing before the block's first job.
    here.addresses[ACTIVATIONS] = direction == ALONG_K ? m_load.a_slab : m_load.a_block;
    here.addresses[WEIGHTS] = direction == ALONG_K ? m_load.w_slab : m_load.w_block;
    here.addresses[CHANNELS] = m_load.channel_block;
    here.addresses[OUTPUT] = m_drain.y_block;
    SnapshotWriter writer(here.snapshot);
    visit(writer);

    auto [found, fresh] = m_checkpoints[direction].try_emplace(std::move(key));
    const Checkpoint before = std::exchange(found->second, std::move(here));
    if (fresh || position <= before.position) return false;
    if (limit < int64_t(position)) return false;
    const uint64_t most = (uint64_t(limit) - position) / (position - before.position);
    const int64_t times = int64_t(m_logs.repetitions(before.block, m_drain.block - before.block, most));
    if (times < 1) return false;

    Trace::Shift shift{};
    for (unsigned o = 0; o < OPERANDS; ++o) shift.by[o] = int64_t(found->second.addresses[o] - before.addresses[o]);
    if (!before.snapshot.precedes(found->second.snapshot, shift)) return false;
    const Cycle stretch = m_now - before.now;
    Repeater repeater(before.snapshot, shift, uint64_t(times), stretch);
    visit(repeater);
    m_trace.repeat(before.trace, uint64_t(times), shift);
    m_now += times * stretch;
    m_last_look = m_now;
    return true;
}

}  // namespace brownout::cycles
