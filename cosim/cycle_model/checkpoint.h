// What a repetition is recognised by, and how it is carried out.

#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "trace.h"

namespace brownout::cycles {

// Writes down what the future depends on.
class KeyWriter {
public:
    KeyWriter(Cycle now, std::string& key) : m_now(now), m_key(key) {}
    void value(uint64_t x) { m_key.append(reinterpret_cast<const char*>(&x), sizeof(uint32_t)); }
    // What is due is due, however long.
    void time(Cycle t) { value(t >= NEVER ? ~0U : uint64_t(std::max<Cycle>(t - m_now, 0))); }
    void absolute(uint64_t&) {}
    void address(uint64_t&, Operand) {}

private:
    const Cycle m_now;
    std::string& m_key;
};

// What advances linearly when a stretch is repeated, and the addresses in flight.
struct Snapshot {
    std::vector<uint64_t> absolutes;
    std::vector<std::pair<uint64_t, Operand>> addresses;

    // Whether all that was in flight is in flight `later` as well, moved by `shift`. Otherwise some of it is left over
    // from a block elsewhere.
    bool precedes(const Snapshot& later, const Trace::Shift& shift) const {
        for (size_t i = 0; i < addresses.size(); ++i)
            if (later.addresses[i].first - addresses[i].first != uint64_t(shift.by[addresses[i].second])) return false;
        return true;
    }
};

class SnapshotWriter {
public:
    explicit SnapshotWriter(Snapshot& snapshot) : m_snapshot(snapshot) {}
    void value(uint64_t) {}
    void time(Cycle) {}
    void absolute(uint64_t& x) { m_snapshot.absolutes.push_back(x); }
    void address(uint64_t& x, Operand operand) { m_snapshot.addresses.emplace_back(x, operand); }

private:
    Snapshot& m_snapshot;
};

// Repeats the stretch since a snapshot.
class Repeater {
public:
    Repeater(const Snapshot& before, const Trace::Shift& shift, uint64_t times, Cycle stretch)
        : m_before(before.absolutes.data()), m_shift(shift), m_times(times), m_delay(Cycle(times) * stretch) {}
    void value(uint64_t) {}
    void time(Cycle& t) {
        if (t < NEVER) t += m_delay;
    }
    void absolute(uint64_t& x) { x += m_times * (x - *m_before++); }
    void address(uint64_t& x, Operand operand) { x += m_times * uint64_t(m_shift.by[operand]); }

private:
    const uint64_t* m_before;
    const Trace::Shift m_shift;
    const uint64_t m_times;
    const Cycle m_delay;
};

}  // namespace brownout::cycles
