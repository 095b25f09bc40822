// Threads: the only ones in the project.
//
// A pass is a list of phases; a phase is a number of independent tasks, cut by the sizes of the work alone. Threads
// claim tasks; which thread runs one cannot change a bit of the result, because every number has one owning task and a
// fixed order of summation. A phase ends when its tasks are done, not when every thread has arrived: a thread that the
// operating system holds back delays only the task it holds, and nobody waits for one that holds none. This is why the
// workers are our own: the barrier that ends an `omp parallel` region waits for all, and beside a busy process that
// made calls of 66 µs last 8 to 16 ms. OpenMP only tells how many threads the user wants.
#pragma once

#include <cstddef>
#include <span>

namespace pyengine {

/// Threads that a pass may use: set_num_threads, else PYENGINE_NUM_THREADS, else OpenMP's number (OMP_NUM_THREADS, or
/// the processors given to this process). 1 in a process forked from this one, where the workers do not exist.
int num_threads();
void set_num_threads(int n);

constexpr bool has_openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

namespace detail {

using Run = void (*)(const void* body, std::size_t phase, int task, int thread);

/// Runs the phases on at most `threads` threads; on the caller's alone while another call has the workers.
void run_shared(int threads, std::span<const int> tasks, Run run, const void* body);

} // namespace detail

/// Runs body(phase, task, thread) for every task of every phase, phase by phase; thread < threads; body must not throw.
template <class Body> void run_phases(int threads, std::span<const int> tasks, Body body) {
  if (threads > 1)
    return detail::run_shared(
        threads, tasks,
        [](const void* b, std::size_t phase, int task, int thread) {
          (*static_cast<const Body*>(b))(phase, task, thread);
        },
        &body);
  for (std::size_t phase = 0; phase < tasks.size(); ++phase)
    for (int task = 0; task < tasks[phase]; ++task) body(phase, task, 0);
}

} // namespace pyengine
