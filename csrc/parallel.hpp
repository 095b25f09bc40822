// The only OpenMP in the project.
//
// A pass is a list of phases; a phase is a number of independent tasks, cut by the sizes of the work alone. Threads
// claim tasks; which thread runs one cannot change a bit of the result, because every number has one owning task and a
// fixed order of summation. A phase ends when its tasks are done, not when every thread has arrived: a thread that the
// operating system holds back delays only the task it holds.
#pragma once

#include <atomic>
#include <span>

#ifdef _OPENMP
#include <omp.h>
#include <sched.h>
#endif

namespace pyengine {

/// Threads that a pass may use: set_num_threads, else PYENGINE_NUM_THREADS, else the processors of this machine.
/// 1 in a process forked after threads were started, since those threads do not exist there.
int num_threads();
void set_num_threads(int n);

constexpr bool has_openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

constexpr std::size_t max_phases = 4;

namespace detail {

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

struct alignas(64) Claims {
  std::atomic<int> next{0};
  std::atomic<int> done{0};
};

} // namespace detail

/// Runs body(phase, task, thread) for every task of every phase, phase by phase; body must not throw.
template <class Body> void run_phases(int threads, std::span<const int> tasks, Body body) {
#ifdef _OPENMP
  if (threads > 1) {
    detail::Claims claims[max_phases];
#pragma omp parallel num_threads(threads)
    {
      const int thread = omp_get_thread_num();
      for (std::size_t phase = 0; phase < tasks.size(); ++phase) {
        detail::Claims& claim = claims[phase];
        const int count = tasks[phase];
        for (int task; (task = claim.next.fetch_add(1, std::memory_order_relaxed)) < count;) {
          body(phase, task, thread);
          claim.done.fetch_add(1, std::memory_order_release);
        }
        for (int spins = 0; claim.done.load(std::memory_order_acquire) < count; ++spins) {
          // The thread that holds the last task may need this processor.
          if (spins < 10000)
            detail::pause();
          else
            sched_yield();
        }
      }
    }
    return;
  }
#else
  (void)threads;
#endif
  for (std::size_t phase = 0; phase < tasks.size(); ++phase)
    for (int task = 0; task < tasks[phase]; ++task) body(phase, task, 0);
}

} // namespace pyengine
