// First-in first-out queues, and credits that are on their way.

#pragma once

#include <utility>

#include "types.h"

namespace brownout::cycles {

// A first-in first-out queue of fixed capacity.
template <class T, unsigned CAPACITY>
class Ring {
public:
    bool empty() const { return !m_size; }
    unsigned size() const { return m_size; }
    T& front() { return m_items[m_head]; }
    const T& front() const { return m_items[m_head]; }
    T& operator[](unsigned i) { return m_items[(m_head + i) % CAPACITY]; }
    void push(const T& item) { m_items[(m_head + m_size++) % CAPACITY] = item; }
    void pop() {
        m_head = (m_head + 1) % CAPACITY;
        --m_size;
    }

private:
    static_assert((CAPACITY & (CAPACITY - 1)) == 0, "index arithmetic is meant to be a mask");
    T m_items[CAPACITY]{};
    unsigned m_head = 0, m_size = 0;
};

// A counter of credits and the pulses on their way to it. The owner looks only when it may act, hence the times.
struct Credits {
    uint32_t count = 0;
    Cycle since = 0;  // if count != 0: since when it has not been 0
    Cycle latest = 0;  // when the last one came
    Ring<Cycle, 64> coming;

    void send(Cycle visible) { coming.push(visible); }
    void receive(Cycle now) {
        while (!coming.empty() && coming.front() <= now) {
            if (!count++) since = coming.front();
            latest = coming.front();
            coming.pop();
        }
    }
    Cycle next() const { return coming.empty() ? NEVER : coming.front(); }

    template <class V>
    void visit(V& v) {
        v.value(count);
        if (count) v.time(since);
        v.value(coming.size());
        for (unsigned i = 0; i < coming.size(); ++i) v.time(coming[i]);
    }
};

// Vectors of the activation buffer that are free, and those on their way to be.
struct Room {
    uint64_t vectors = 0;
    Ring<std::pair<Cycle, uint32_t>, 64> coming;

    void send(Cycle visible, uint64_t count) { coming.push({visible, uint32_t(count)}); }
    void receive(Cycle now) {
        while (!coming.empty() && coming.front().first <= now) {
            vectors += coming.front().second;
            coming.pop();
        }
    }
    Cycle next() const { return coming.empty() ? NEVER : coming.front().first; }

    template <class V>
    void visit(V& v) {
        v.value(vectors);
        v.value(coming.size());
        for (unsigned i = 0; i < coming.size(); ++i) {
            v.time(coming[i].first);
            v.value(coming[i].second);
        }
    }
};

// What SyncFIFOBuffered of Amaranth does with its levels: the output register is filled one cycle after a write.
struct FifoLevels {
    uint32_t inner = 0;
    bool readable = false;

    bool writable(unsigned depth) const { return inner != depth - 1; }
    // Returns whether anything moved.
    bool edge(bool write, bool read_enable) {
        const bool inner_read = inner && (!readable || read_enable);
        const bool was_readable = readable;
        inner = inner + write - inner_read;
        if (inner_read) readable = true;
        else if (read_enable) readable = false;
        return write || inner_read || readable != was_readable;
    }

    template <class V>
    void visit(V& v) {
        v.value(inner);
        v.value(readable);
    }
};

}  // namespace brownout::cycles
