#include "workers.hpp"

#include <chrono>
#include <system_error>
#include <thread>

namespace pyengine::detail {
namespace {

constexpr std::uint64_t tasks_mask = 0xffffffffu;
constexpr std::uint64_t one_phase = tasks_mask + 1;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

/// How long an idle worker looks for work before it sleeps: longer than the gap between two phases, too short to be
/// felt by a framework that computes between two calls.
constexpr std::chrono::microseconds awake{50};

class Patience {
 public:
  bool is_over() {
    pause();
    return ++looks_ % 64 == 0 && std::chrono::steady_clock::now() - since_ > awake;
  }

 private:
  std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();
  unsigned looks_ = 0;
};

} // namespace

bool Workers::claim_and_run(int thread) {
  std::uint64_t word = unclaimed_.load(std::memory_order_seq_cst);
  while (word & tasks_mask) {
    const Run run = run_.load(std::memory_order_relaxed);
    const void* const body = body_.load(std::memory_order_relaxed);
    const std::size_t phase = phase_.load(std::memory_order_relaxed);
    const int task = tasks_.load(std::memory_order_relaxed) - static_cast<int>(word & tasks_mask);
    if (thread >= threads_.load(std::memory_order_relaxed)) return false;
    if (unclaimed_.compare_exchange_weak(word, word - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      run(body, phase, task, thread);
      done_.fetch_add(1, std::memory_order_release);
      return true;
    }
  }
  return false;
}

void Workers::serve(int thread) {
  for (;;) {
    Patience patience;
    while (!patience.is_over())
      if (claim_and_run(thread)) patience = {};
    const std::uint32_t heard = alarm_.load(std::memory_order_seq_cst);
    asleep_.fetch_add(1, std::memory_order_seq_cst);
    // The caller publishes before it looks for sleepers, this thread does it the other way round: one sees the other.
    if (!claim_and_run(thread)) alarm_.wait(heard, std::memory_order_seq_cst);
    asleep_.fetch_sub(1, std::memory_order_relaxed);
  }
}

void Workers::start(int threads) {
  for (; started_ < threads; ++started_) {
    try {
      std::thread worker([this, thread = started_] { serve(thread); });
      placement_.add(worker.native_handle());
      worker.detach();
    } catch (const std::system_error&) {
      return; // fewer threads do the same work
    }
  }
}

void Workers::publish(std::size_t phase, int tasks) {
  done_.store(0, std::memory_order_relaxed);
  tasks_.store(tasks, std::memory_order_relaxed);
  phase_.store(phase, std::memory_order_relaxed);
  const std::uint64_t next = (unclaimed_.load(std::memory_order_relaxed) & ~tasks_mask) + one_phase;
  unclaimed_.store(next | static_cast<std::uint64_t>(tasks), std::memory_order_seq_cst);
  if (tasks > 1 && asleep_.load(std::memory_order_seq_cst) > 0) {
    alarm_.fetch_add(1, std::memory_order_seq_cst);
    alarm_.notify_all();
  }
}

bool Workers::serve_call(int threads, std::span<const int> tasks, Run run, const void* body) {
  const std::unique_lock only(one_call_, std::try_to_lock);
  if (!only.owns_lock()) return false;
  start(threads);
  placement_.make_way();
  threads_.store(threads, std::memory_order_relaxed);
  run_.store(run, std::memory_order_relaxed);
  body_.store(body, std::memory_order_relaxed);
  for (std::size_t phase = 0; phase < tasks.size(); ++phase) {
    if (tasks[phase] == 0) continue;
    publish(phase, tasks[phase]);
    while (claim_and_run(0)) {
    }
    Patience patience;
    while (done_.load(std::memory_order_acquire) < tasks[phase])
      // The thread that holds the last task may need this processor.
      if (patience.is_over()) std::this_thread::yield();
  }
  return true;
}

void run_shared(int threads, std::span<const int> tasks, Run run, const void* body) {
  // Never destroyed: its threads may outlive static objects.
  static Workers& workers = *new Workers;
  if (workers.serve_call(threads, tasks, run, body)) return;
  for (std::size_t phase = 0; phase < tasks.size(); ++phase)
    for (int task = 0; task < tasks[phase]; ++task) run(body, phase, task, 0);
}

} // namespace pyengine::detail
