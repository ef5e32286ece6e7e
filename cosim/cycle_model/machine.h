// One command from START to its last write response: all parts together, and the two rules that save time.

#pragma once

#include <initializer_list>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint.h"
#include "drain.h"
#include "findings.h"
#include "load.h"
#include "memory.h"
#include "sequencer.h"
#include "trace.h"

namespace brownout::cycles {

// What a command does, from the cycle in which `start` is high; cycles are counted from that one.
struct Outcome {
    Counters counters;  // without `commands` and row activations
    Cycle end = 0;      // the cycle after the one in which the command is done
    uint64_t tokens = 0;  // of the memory ...
    Cycle token_edge = 0;  // ... after this edge
    uint64_t row_activations = 0;
    std::vector<BankRows::Bank> banks;  // as if no row had been open
};

class Machine {
public:
    // `tokens`: of the memory in cycle 0, which is otherwise idle. `step`: skip no repetitions.
    Machine(const Config& config, const Command& command, const Findings& findings, uint64_t tokens, bool step);
    Outcome run();

private:
    enum Direction { ALONG_K, ALONG_N, ALONG_M, ALONG_BATCH, DIRECTIONS };

    struct Checkpoint {
        Cycle now;
        uint64_t position;  // of the fetcher, which is ahead of all, in the direction
        uint64_t block;     // of the drain
        size_t trace;
        uint64_t addresses[OPERANDS];
        Snapshot snapshot;
    };

    // Everything that changes, for a visitor.
    template <class V>
    void visit(V& v) {
        m_memory.visit(v);
        m_load.visit(v, m_config.bus_bytes);
        m_sequencer.visit(v);
        m_drain.visit(v, m_config.bus_bytes);
        m_counters.visit(v);
    }

    void find_split_rows();
    void cycle(Cycle t, bool memory_due);
    void forget();
    void look_for_repetition(bool block_began);
    bool compare(Direction direction, std::string key, std::initializer_list<uint64_t> relation, uint64_t position,
                 int64_t limit);

    const Config m_config;
    const Command m_command;
    const BlockLogs m_logs;
    const bool m_step;
    Counters m_counters;
    Memory m_memory;
    Load m_load;
    Sequencer m_sequencer;
    Drain m_drain;
    BankRows m_rows;
    Trace m_trace;
    Cycle m_now = 0;
    Cycle m_last_look = 0;
    std::unordered_map<std::string, Checkpoint> m_checkpoints[DIRECTIONS];
};

}  // namespace brownout::cycles
