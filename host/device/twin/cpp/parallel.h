// A loop over independent tasks, on a few threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace brownout {

/// Calls `work(task)` for every task in 0..tasks-1, in any order.
///
/// With OpenMP the threads are those of PyTorch, whose library of that name is loaded already: between two products
/// they wait by spinning, and threads of our own would have to compete with them for the cores.
template <typename Work>
void parallel_for(int64_t tasks, int threads, const Work &work) {
    threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, tasks)));
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t task = 0; task < tasks; ++task) work(task);
#else
    std::atomic<int64_t> next{0};
    auto loop = [&] {
        for (int64_t task; (task = next.fetch_add(1)) < tasks;) work(task);
    };
    std::vector<std::thread> others;
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(loop);
    loop();
    for (std::thread &other : others) other.join();
#endif
}

}  // namespace brownout
