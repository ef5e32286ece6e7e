// DRAM behind an AXI4 slave port: the whole model, called once per rising clock edge.
//
// Timing rules (a cycle is a rising edge; all outputs are registers, so what is decided at edge t is seen by the
// master at edge t+1). At every edge, in this order:
//
//  1. Handshakes of this edge are taken: a read address enters the read queue with `ready at t + latency_cycles`; a write
//     address enters the write queue; a write beat enters the write buffer; a taken read beat frees the R register and a
//     taken response frees the B register.
//  2. tokens = min(tokens, beat - 1) + bandwidth. Tokens are 2^-16 byte, `bandwidth` is in tokens per cycle, and a beat,
//     read or write, costs beat = bus_bytes * 2^16 tokens. So what is left of a beat is never lost while bursts wait, and
//     what is saved while none does is less than a beat. With a whole number of bytes per cycle the fraction decides
//     nothing: performed is what bytes = min(bytes, bus_bytes - 1) + bytes_per_cycle, at bus_bytes a beat, would perform.
//  3. Candidates: the next read beat, if the oldest read burst is ready and the R register is free; the next write beat,
//     if the write queue and the write buffer hold one. The kind that was not served last goes first (reads after
//     reset), then the other; each is performed if the tokens suffice. So at most one read and one write beat per edge.
//     A read beat loads the R register; a write beat changes memory; the last write beat of a burst queues a response
//     that is ready at t + latency_cycles. A burst leaves its queue when its last beat is performed.
//  4. The B register, if free, takes the oldest response that is ready.
//  5. Ready for the next edge: ARREADY = read queue shorter than read_queue; AWREADY = write queue shorter than
//     write_queue; WREADY = fewer than WRITE_BUFFER_BEATS in the write buffer.
//
// Everything is in order. Row activations (open page: bank = row mod banks) are counted as beats are performed and cost
// no time; write beats without any strobe do not count.

#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "axi_checker.h"
#include "axi_pins.h"

namespace brownout {

class Dram {
public:
    static constexpr unsigned WRITE_BUFFER_BEATS = hw::WRITE_BUFFER_BEATS;
    static constexpr unsigned TOKEN_FRACTION_BITS = hw::BANDWIDTH_FRACTION_BITS;

    explicit Dram(unsigned bus_bytes);
    ~Dram();
    Dram(const Dram&) = delete;
    Dram& operator=(const Dram&) = delete;

    // Maps `size_bytes` of the file open as `fd` (shared), or private zeroed memory when `fd` is negative.
    // Returns false with errno set when that fails.
    bool map(int fd, uint64_t size_bytes);

    // Sets a parameter of timing, a test knob or a statistic by name; false if there is none of that name. `bandwidth`
    // can also be set in whole bytes, as `bytes_per_cycle`.
    // `open_row` opens a row without counting it.
    bool set(const std::string& name, uint64_t value);
    // Reads a parameter or statistic by name; false if there is none of that name.
    bool get(const std::string& name, uint64_t& value) const;

    // Forgets everything in flight (reset pin); memory, parameters and statistics stay.
    void reset();

    // One rising edge. `pins` are the master's outputs as sampled by it.
    const SlavePins& cycle(const MasterPins& pins);

    uint8_t* memory() { return m_memory; }
    const uint8_t* read_data() const { return m_read_data; }
    // True while the model has to be called even if the master asserts no valid.
    bool active() const { return m_active; }
    AxiChecker& checker() { return m_checker; }

private:
    struct Burst {
        uint64_t address;
        uint64_t ready_at;
        uint32_t beats_left;
        uint8_t id;
        uint8_t response;
        bool wrong_id = false;
    };
    struct Beat {
        alignas(16) uint8_t data[MAX_BUS_BYTES];
        uint32_t strobe[MAX_BUS_BYTES / 32];
    };
    struct Response {
        uint64_t ready_at;
        uint8_t id;
        uint8_t response;
    };

    uint64_t* parameter(const std::string& name);
    void take_handshakes(const MasterPins& pins);
    bool read_candidate() const;
    bool write_candidate() const;
    void perform_read();
    void perform_write();
    void update_outputs();
    uint8_t response_at(uint64_t address) const;
    bool wrong_id_at(uint64_t address) const;
    void touch_row(uint64_t address);
    bool stall(uint64_t probability);
    void resize_banks();

    const unsigned m_bus_bytes;
    const uint64_t m_beat_tokens;
    uint8_t* m_memory = nullptr;
    uint64_t m_size_bytes = 0;

    // Timing (MemoryConfig, MemoryTiming of cosim/dram.py).
    uint64_t m_latency_cycles = hw::DEFAULT_LATENCY_CYCLES;
    uint64_t m_bandwidth = uint64_t(hw::DEFAULT_BYTES_PER_CYCLE) << TOKEN_FRACTION_BITS;
    uint64_t m_read_queue_limit = hw::DEFAULT_READ_QUEUE;
    uint64_t m_write_queue_limit = hw::DEFAULT_WRITE_QUEUE;
    uint64_t m_banks = hw::DEFAULT_BANKS;
    uint64_t m_row_bytes = hw::DEFAULT_ROW_BYTES;

    // Test knobs. Stall probabilities are in 2^-STALL_PROBABILITY_BITS per cycle.
    uint64_t m_stall_aw = 0, m_stall_w = 0, m_stall_b = 0, m_stall_ar = 0, m_stall_r = 0;
    uint64_t m_random = 1;
    uint64_t m_hang = 0;
    uint64_t m_slverr_base = 0, m_slverr_limit = 0;
    uint64_t m_wrong_id_base = 0, m_wrong_id_limit = 0;
    uint64_t m_short_reads = 0, m_surplus_r = 0, m_surplus_b = 0;  // so many more: bursts, beats, responses

    // Statistics.
    uint64_t m_row_activations = 0, m_read_beats = 0, m_write_beats = 0;

    // State.
    uint64_t m_cycle = 0;
    uint64_t m_tokens = 0;
    bool m_served_read_last = false;
    bool m_active = true;
    std::deque<Burst> m_reads, m_writes;
    std::deque<Response> m_responses;
    Beat m_write_buffer[WRITE_BUFFER_BEATS];
    unsigned m_buffer_head = 0, m_buffer_count = 0;
    uint64_t m_last_row = ~0ULL;
    std::vector<uint64_t> m_open_rows;
    SlavePins m_out{};
    alignas(16) uint8_t m_read_data[MAX_BUS_BYTES]{};
    AxiChecker m_checker;
};

}  // namespace brownout
