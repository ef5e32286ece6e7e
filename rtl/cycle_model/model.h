// The accelerator over any number of commands: what one leaves behind for the next.

#pragma once

#include <array>
#include <cstddef>
#include <map>

#include "machine.h"
#include "memory.h"
#include "trace.h"

namespace brownout::cycles {

// Where commands lie.
struct CommandRing {
    uint64_t base, entries, head;
};

class Model {
public:
    // `step`: simulate every cycle, and every command anew. For tests.
    Model(const Config& config, bool step) : m_config(config), m_step(step), m_rows(config) {}

    // Runs `count` commands from one doorbell and returns what they count.
    Counters run(const Command* commands, uint64_t count, CommandRing ring);
    BankRows& rows() { return m_rows; }

private:
    static constexpr size_t KEY_WORDS = 17;
    using Key = std::array<uint64_t, KEY_WORDS>;
    struct Known {
        Command command;
        Outcome outcome;
    };

    Counters run_one(const Command& command, uint64_t address);
    Cycle fetch_command(uint64_t address);
    Key key(const Command& command, uint64_t tokens) const;
    const Known& look_up(const Command& command);

    const Config m_config;
    const bool m_step;
    BankRows m_rows;
    // Time since the doorbell; of the memory only its tokens outlast a command.
    Cycle m_now = 0;
    Memory m_memory;
    std::map<Key, Known> m_known;
};

}  // namespace brownout::cycles
