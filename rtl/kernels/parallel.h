// A loop over independent tasks, on a few threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace brownout {

/// Calls `work(task, thread)` for every task in 0..tasks-1, in any order.
template <typename Work>
void parallel_for(int64_t tasks, int threads, const Work &work) {
    threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, tasks)));
    std::atomic<int64_t> next{0};
    auto loop = [&](int thread) {
        for (int64_t task; (task = next.fetch_add(1)) < tasks;) work(task, thread);
    };
    std::vector<std::thread> others;
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(loop, thread);
    loop(0);
    for (std::thread &other : others) other.join();
}

}  // namespace brownout
