// Threads that wait for work, and the word by which tasks are claimed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>

#include "parallel.hpp"
#include "placement.hpp"

namespace pyengine::detail {

/// Threads that live as long as the process and serve one call at a time. The caller works too, as thread 0.
class Workers {
 public:
  /// False, and nothing was run, if another call has the workers.
  bool serve_call(int threads, std::span<const int> tasks, Run run, const void* body);

 private:
  void start(int threads);
  void serve(int thread);
  bool claim_and_run(int thread);
  void publish(std::size_t phase, int tasks);

  std::mutex one_call_;
  int started_ = 1; // the caller's own
  Placement placement_;

  // The phase number above, the tasks not yet claimed below. What describes a phase is written only while nothing can
  // be claimed, and a claim succeeds only if this word is still the one read before the description: so a thread that
  // was held back, even past the end of its call, can neither claim from a later phase by mistake nor touch its
  // caller's memory.
  alignas(64) std::atomic<std::uint64_t> unclaimed_{0};
  std::atomic<int> threads_{0}, tasks_{0};
  std::atomic<std::size_t> phase_{0};
  std::atomic<Run> run_{nullptr};
  std::atomic<const void*> body_{nullptr};

  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<int> asleep_{0};
  std::atomic<std::uint32_t> alarm_{0};
};

} // namespace pyengine::detail
