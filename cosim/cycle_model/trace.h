// Row activations of the memory, counted over stretches of time that are skipped as well.

#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "types.h"

namespace brownout::cycles {

// Open rows of all banks (open page: bank = row mod banks), and what changed them.
class BankRows {
public:
    static constexpr uint64_t NO_ROW = ~0ULL;

    struct Bank {
        uint64_t first = NO_ROW, last = NO_ROW;  // rows opened first and last
        Operand first_operand = RING, last_operand = RING;
    };

    explicit BankRows(const Config& config) : m_mask(config.banks - 1), m_banks(config.banks) {
        while (1ULL << m_row_bits < config.row_bytes) ++m_row_bits;
    }
    unsigned row_bits() const { return m_row_bits; }
    uint64_t activations() const { return m_activations; }
    const std::vector<Bank>& banks() const { return m_banks; }

    void touch(Operand operand, uint64_t address) {
        const uint64_t row = address >> m_row_bits;
        if (row == m_last_row) return;
        m_last_row = row;
        Bank& bank = m_banks[row & m_mask];
        if (bank.last == row) return;
        if (bank.last == NO_ROW) {
            bank.first = row;
            bank.first_operand = operand;
        }
        bank.last = row;
        bank.last_operand = operand;
        ++m_activations;
    }
    // What `other`, which began without open rows, did happens here, its addresses moved by `shift` (per operand).
    void append(const std::vector<Bank>& other, uint64_t activations, const int64_t (&shift)[OPERANDS]) {
        m_activations += activations;
        for (size_t i = 0; i < m_banks.size(); ++i) {
            const Bank& bank = other[i];
            if (bank.first == NO_ROW) continue;
            if (bank.first + uint64_t(shift[bank.first_operand] >> m_row_bits) == m_banks[i].last) --m_activations;
            set_open(i, bank.last + uint64_t(shift[bank.last_operand] >> m_row_bits));
        }
    }
    uint64_t open(size_t bank) const { return m_banks[bank].last; }
    void set_open(size_t bank, uint64_t row) {
        m_banks[bank].last = row;
        m_last_row = NO_ROW;
    }

private:
    const uint64_t m_mask;
    unsigned m_row_bits = 0;
    std::vector<Bank> m_banks;
    uint64_t m_last_row = NO_ROW, m_activations = 0;
};

// The order in which memory was accessed, compressed: runs of consecutive beats, and repetitions of earlier parts at
// other addresses. It exists because open rows depend on absolute addresses while time does not.
class Trace {
public:
    // How far each operand's addresses move.
    struct Shift {
        int64_t by[OPERANDS];
    };

    // Without `record`, nothing can be repeated.
    Trace(const Config& config, BankRows& rows, bool record)
        : m_bus_bytes(config.bus_bytes), m_row_bits(rows.row_bits()), m_record(record), m_rows(rows) {}
    size_t size() const { return m_entries.size(); }
    // Begins a new run, so that a part of the trace may end here.
    void seal() { m_run_end = ~0ULL; }
    void clear() {
        m_entries.clear();
        m_repetitions.clear();
        seal();
    }

    // Beats of the output, numbered in the order in which they are written, that open no row because all of their
    // strobes are low.
    void set_blank(std::vector<uint64_t> beats) { m_blank = std::move(beats); }

    void beat(Operand operand, uint64_t address) {
        if (operand != OUTPUT || !blank()) m_rows.touch(operand, address);
        if (!m_record) return;
        if (address == m_run_end && m_entries.back().operand == operand) {
            ++m_entries.back().count;
        } else {
            m_entries.push_back({address, 1, operand});
        }
        m_run_end = address + m_bus_bytes;
    }
    // Entries from `begin` on happen `times` more, each time moved once more by `shift`.
    void repeat(size_t begin, uint64_t times, const Shift& shift) {
        seal();
        const size_t end = m_entries.size();
        m_repetitions.push_back({end, times, shift});
        m_entries.push_back({begin, uint32_t(m_repetitions.size() - 1), OPERANDS});
        replay(end, end + 1, Shift{});
    }

private:
    struct Entry {
        uint64_t address;  // of a repetition: index of its first entry
        uint32_t count;    // beats; of a repetition: index in m_repetitions
        Operand operand;   // OPERANDS: a repetition
    };
    struct Repetition {
        size_t end;
        uint64_t times;
        Shift shift;
    };

    void replay(size_t begin, size_t end, const Shift& shift) {
        for (size_t i = begin; i < end; ++i) {
            const Entry entry = m_entries[i];
            if (entry.operand == OPERANDS) {
                const Repetition repetition = m_repetitions[entry.count];
                Shift shifted = shift;
                for (uint64_t n = 0; n < repetition.times; ++n) {
                    for (unsigned o = 0; o < OPERANDS; ++o) shifted.by[o] += repetition.shift.by[o];
                    replay(entry.address, repetition.end, shifted);
                }
                continue;
            }
            uint64_t address = entry.address + uint64_t(shift.by[entry.operand]);
            if (entry.operand == OUTPUT && m_next_blank < m_blank.size()) {
                if (m_blank[m_next_blank] < m_written + entry.count) {
                    for (uint32_t n = 0; n < entry.count; ++n, address += m_bus_bytes)
                        if (!blank()) m_rows.touch(OUTPUT, address);
                    continue;
                }
                m_written += entry.count;
            }
            const uint64_t end_address = address + entry.count * m_bus_bytes;
            while (address < end_address) {
                m_rows.touch(entry.operand, address);
                // The next beat in another row; a beat wider than a row counts where it begins.
                address = std::max(((address >> m_row_bits) + 1) << m_row_bits, address + m_bus_bytes);
            }
        }
    }

    // Whether the next beat of the output is blank; counts it.
    bool blank() {
        if (m_next_blank == m_blank.size() || m_blank[m_next_blank] != m_written++) return false;
        ++m_next_blank;
        return true;
    }

    const uint64_t m_bus_bytes;
    const unsigned m_row_bits;
    const bool m_record;
    BankRows& m_rows;
    uint64_t m_run_end = ~0ULL;
    std::vector<uint64_t> m_blank;
    size_t m_next_blank = 0;
    uint64_t m_written = 0;
    std::vector<Entry> m_entries;
    std::vector<Repetition> m_repetitions;
};

}  // namespace brownout::cycles
