#include "dram.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace brownout {

Dram::Dram(unsigned bus_bytes)
    : m_bus_bytes(bus_bytes), m_beat_tokens(uint64_t(bus_bytes) << TOKEN_FRACTION_BITS), m_checker(bus_bytes) {
    resize_banks();
    reset();
}

Dram::~Dram() {
    if (m_memory) munmap(m_memory, m_size_bytes);
}

bool Dram::map(int fd, uint64_t size_bytes) {
    const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
    void* memory = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (memory == MAP_FAILED) return false;
    if (m_memory) munmap(m_memory, m_size_bytes);
    m_memory = static_cast<uint8_t*>(memory);
    m_size_bytes = m_checker.size_bytes = size_bytes;
    return true;
}

uint64_t* Dram::parameter(const std::string& name) {
    if (name == "latency_cycles") return &m_latency_cycles;
    if (name == "bandwidth") return &m_bandwidth;
    if (name == "read_queue") return &m_read_queue_limit;
    if (name == "write_queue") return &m_write_queue_limit;
    if (name == "banks") return &m_banks;
    if (name == "row_bytes") return &m_row_bytes;
    if (name == "stall_aw") return &m_stall_aw;
    if (name == "stall_w") return &m_stall_w;
    if (name == "stall_b") return &m_stall_b;
    if (name == "stall_ar") return &m_stall_ar;
    if (name == "stall_r") return &m_stall_r;
    if (name == "seed") return &m_random;
    if (name == "hang") return &m_hang;
    if (name == "slverr_base") return &m_slverr_base;
    if (name == "slverr_limit") return &m_slverr_limit;
    if (name == "wrong_id_base") return &m_wrong_id_base;
    if (name == "wrong_id_limit") return &m_wrong_id_limit;
    if (name == "short_reads") return &m_short_reads;
    if (name == "surplus_r") return &m_surplus_r;
    if (name == "surplus_b") return &m_surplus_b;
    if (name == "row_activations") return &m_row_activations;
    if (name == "read_beats") return &m_read_beats;
    if (name == "write_beats") return &m_write_beats;
    return nullptr;
}

bool Dram::set(const std::string& name, uint64_t value) {
    if (name == "check_axi") {
        m_checker.enabled = value != 0;
    } else if (name == "check_bounds") {
        m_checker.bounds_enabled = value != 0;
    } else if (name == "bytes_per_cycle") {
        m_bandwidth = value << TOKEN_FRACTION_BITS;
    } else if (name == "open_row") {
        m_open_rows[value & (m_banks - 1)] = value;
        m_last_row = ~0ULL;
    } else if (uint64_t* target = parameter(name)) {
        *target = value;
    } else {
        return false;
    }
    // The generator must not start at zero, and neighbouring seeds must not give neighbouring sequences.
    if (name == "seed") m_random = (value + 1) * 0x9E3779B97F4A7C15ULL | 1;
    if (name == "banks" || name == "row_bytes") resize_banks();
    m_active = true;  // a knob may change ready although nothing is in flight
    return true;
}

bool Dram::get(const std::string& name, uint64_t& value) const {
    if (name == "violations") {
        value = m_checker.violations();
    } else if (name == "size_bytes") {
        value = m_size_bytes;
    } else if (const uint64_t* source = const_cast<Dram*>(this)->parameter(name)) {
        value = *source;
    } else {
        return false;
    }
    return true;
}

void Dram::resize_banks() {
    m_open_rows.assign(m_banks, ~0ULL);
    m_last_row = ~0ULL;
}

void Dram::reset() {
    m_reads.clear();
    m_writes.clear();
    m_responses.clear();
    m_buffer_head = m_buffer_count = 0;
    m_tokens = 0;
    m_served_read_last = false;
    m_out = SlavePins{};
    m_checker.reset();
    m_active = true;
}

bool Dram::stall(uint64_t probability) {
    if (!probability) return false;
    m_random ^= m_random << 13;
    m_random ^= m_random >> 7;
    m_random ^= m_random << 17;
    return (m_random >> 40 & ((1u << hw::STALL_PROBABILITY_BITS) - 1)) < probability;
}

uint8_t Dram::response_at(uint64_t address) const {
    if (address >= m_size_bytes || m_bus_bytes > m_size_bytes - address) return RESP_DECERR;
    if (address < m_slverr_limit && address + m_bus_bytes > m_slverr_base) return RESP_SLVERR;
    return RESP_OKAY;
}

bool Dram::wrong_id_at(uint64_t address) const {
    return address < m_wrong_id_limit && address + m_bus_bytes > m_wrong_id_base;
}

void Dram::touch_row(uint64_t address) {
    const uint64_t row = address / m_row_bytes;
    if (row == m_last_row) return;  // that row is open: nothing was opened since
    m_last_row = row;
    uint64_t& open_row = m_open_rows[row & (m_banks - 1)];
    if (open_row != row) {
        open_row = row;
        ++m_row_activations;
    }
}

void Dram::take_handshakes(const MasterPins& pins) {
    const uint64_t alignment = ~uint64_t(m_bus_bytes - 1);
    if (pins.ar.valid && m_out.arready)
        m_reads.push_back({pins.ar.address & alignment, m_cycle + m_latency_cycles, pins.ar.length + 1u, pins.ar.id, RESP_OKAY});
    if (pins.aw.valid && m_out.awready)
        m_writes.push_back({pins.aw.address & alignment, 0, pins.aw.length + 1u, pins.aw.id, RESP_OKAY});
    if (pins.wvalid && m_out.wready) {
        Beat& beat = m_write_buffer[(m_buffer_head + m_buffer_count++) % WRITE_BUFFER_BEATS];
        std::memcpy(beat.data, pins.wdata, m_bus_bytes);
        std::memcpy(beat.strobe, pins.wstrb, (m_bus_bytes + 31) / 32 * 4);
    }
    if (m_out.rvalid && pins.rready) m_out.rvalid = m_out.rlast = false;
    if (m_out.bvalid && pins.bready) m_out.bvalid = false;
}

bool Dram::read_candidate() const {
    return !m_out.rvalid && !m_reads.empty() && m_reads.front().ready_at <= m_cycle;
}

bool Dram::write_candidate() const { return m_buffer_count && !m_writes.empty(); }

void Dram::perform_read() {
    Burst& burst = m_reads.front();
    m_out.rvalid = true;
    m_out.rid = uint8_t(burst.id ^ wrong_id_at(burst.address));
    m_out.rresp = response_at(burst.address);
    if (burst.beats_left == 2 && m_short_reads) {
        --m_short_reads;
        burst.beats_left = 1;
    }
    m_out.rlast = burst.beats_left == 1;
    if (m_out.rresp == RESP_OKAY) {
        std::memcpy(m_read_data, m_memory + burst.address, m_bus_bytes);
        touch_row(burst.address);
    } else {
        std::memset(m_read_data, 0xEE, m_bus_bytes);
    }
    burst.address += m_bus_bytes;
    ++m_read_beats;
    if (--burst.beats_left == 0) m_reads.pop_front();
}

void Dram::perform_write() {
    Burst& burst = m_writes.front();
    const Beat& beat = m_write_buffer[m_buffer_head];
    m_buffer_head = (m_buffer_head + 1) % WRITE_BUFFER_BEATS;
    --m_buffer_count;
    const uint8_t response = response_at(burst.address);
    burst.response = std::max(burst.response, response);
    burst.wrong_id |= wrong_id_at(burst.address);
    if (response == RESP_OKAY) {
        uint8_t* target = m_memory + burst.address;
        bool any = false;
        for (unsigned base = 0; base < m_bus_bytes; base += 4) {
            const uint32_t strobe = beat.strobe[base / 32] >> base % 32 & 0xF;
            any |= strobe != 0;
            if (strobe == 0xF) {
                std::memcpy(target + base, beat.data + base, 4);
            } else {
                for (unsigned i = 0; i < 4; ++i)
                    if (strobe >> i & 1) target[base + i] = beat.data[base + i];
            }
        }
        if (any) touch_row(burst.address);
    }
    burst.address += m_bus_bytes;
    ++m_write_beats;
    if (--burst.beats_left == 0) {
        m_responses.push_back({m_cycle + m_latency_cycles, uint8_t(burst.id ^ burst.wrong_id), burst.response});
        m_writes.pop_front();
    }
}

void Dram::update_outputs() {
    if (!m_out.bvalid && !m_responses.empty() && m_responses.front().ready_at <= m_cycle && !stall(m_stall_b)) {
        m_out.bvalid = true;
        m_out.bid = m_responses.front().id;
        m_out.bresp = m_responses.front().response;
        m_responses.pop_front();
    }
    if (m_surplus_b && !m_out.bvalid && m_responses.empty() && m_writes.empty()) {
        --m_surplus_b;
        m_out.bvalid = true;
        m_out.bresp = RESP_OKAY;
    }
    if (m_surplus_r && !m_out.rvalid && m_reads.empty()) {
        --m_surplus_r;
        m_out.rvalid = m_out.rlast = true;
        m_out.rresp = RESP_OKAY;
    }
    m_out.arready = m_reads.size() < m_read_queue_limit && !stall(m_stall_ar);
    m_out.awready = m_writes.size() < m_write_queue_limit && !stall(m_stall_aw);
    m_out.wready = m_buffer_count < WRITE_BUFFER_BEATS && !stall(m_stall_w);
}

const SlavePins& Dram::cycle(const MasterPins& pins) {
    if (m_checker.enabled) m_checker.observe(pins, m_out);
    ++m_cycle;
    take_handshakes(pins);
    if (m_hang) {
        m_out.arready = m_out.awready = m_out.wready = false;
        m_active = true;
        return m_out;
    }
    m_tokens = std::min(m_tokens, m_beat_tokens - 1) + m_bandwidth;
    const bool read_first = !m_served_read_last;
    for (const bool read : {read_first, !read_first}) {
        if (m_tokens < m_beat_tokens) break;
        if (!(read ? read_candidate() && !stall(m_stall_r) : write_candidate())) continue;
        if (read) perform_read();
        else perform_write();
        m_tokens -= m_beat_tokens;
        m_served_read_last = read;
    }
    update_outputs();
    // Once nothing is in flight, ready is high and the tokens are at their limit, further edges change nothing.
    const bool idle = m_reads.empty() && m_writes.empty() && m_responses.empty() && !m_buffer_count && !m_out.rvalid
                      && !m_out.bvalid && m_tokens >= m_beat_tokens - 1 && !m_checker.waiting()
                      && !(m_stall_aw | m_stall_w | m_stall_ar | m_surplus_r | m_surplus_b);
    m_active = !idle;
    return m_out;
}

}  // namespace brownout
