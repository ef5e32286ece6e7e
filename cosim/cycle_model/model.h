// The accelerator over any number of commands: what one leaves behind for the next.

#pragma once

#include <array>
#include <cstddef>
#include <map>

#include "findings.h"
#include "machine.h"
#include "memory.h"
#include "trace.h"

namespace brownout::cycles {

// Where commands lie.
struct CommandRing {
    uint64_t base, entries, head;
};

// Since the start, cycles in transition and of every domain at every operating point.
struct PointCycles {
    uint64_t transition = 0;
    uint64_t at[MAX_DOMAINS][MAX_POINTS] = {};
};

class Model {
public:
    // `step`: simulate every cycle, and every command anew. For tests.
    Model(const Config& config, bool step) : m_config(config), m_step(step), m_rows(config) {}

    // Runs `count` commands from one doorbell and returns what they count. `found`: of each command, or null.
    Counters run(const Command* commands, const Found* found, uint64_t count, CommandRing ring);
    // From the next doorbell on. `bandwidth` in 2^-16 byte per cycle.
    void set_memory_timing(uint64_t latency_cycles, uint64_t bandwidth) {
        m_config.latency_cycles = latency_cycles;
        m_config.bandwidth = bandwidth;
    }
    const PointCycles& point_cycles() const { return m_point_cycles; }
    BankRows& rows() { return m_rows; }

private:
    static constexpr size_t KEY_WORDS = 25;
    using Key = std::array<uint64_t, KEY_WORDS>;
    struct Known {
        Command command;
        Outcome outcome;
    };

    Counters run_one(const Command& command, const Found& found, uint64_t address);
    Cycle fetch_command(uint64_t address);
    void multiply(const Command& command, const Found& found, Cycle check, Counters& counters);
    void copy(const Command& command, const Found& found, Cycle check, Counters& counters);
    void change_settings(const Command& command, Cycle check, Counters& counters);
    Cycle read_lengths(const Command& command, Cycle begin, Counters& counters);
    void spend(Cycle until);
    Key key(const Command& command, const Findings& findings, uint64_t tokens) const;
    const Known& look_up(const Command& command, const Findings& findings);

    Config m_config;
    const bool m_step;
    BankRows m_rows;
    // Time since the doorbell; of the memory only its tokens outlast a command.
    Cycle m_now = 0;
    Cycle m_spent = 0;  // up to which the cycles are in m_point_cycles
    uint64_t m_points[MAX_DOMAINS] = {};
    PointCycles m_point_cycles;
    Memory m_memory;
    std::map<Key, Known> m_known;
};

}  // namespace brownout::cycles
