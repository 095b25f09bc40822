// Where workers run: never on the caller's processor. Left alone, the scheduler of Linux wakes a worker beside its
// caller while another processor is idle, and lets it wait there for milliseconds.
#pragma once

#include <thread>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace pyengine::detail {

class Placement {
 public:
  using Thread = std::thread::native_handle_type;

#if defined(__linux__)
  /// A thread that never ends, started by the caller, whose processors it may use.
  void add(Thread worker) {
    if (workers_.empty() && sched_getaffinity(0, sizeof allowed_, &allowed_) != 0) CPU_ZERO(&allowed_);
    workers_.push_back(worker);
    away_from_ = -1;
  }

  /// Called by the caller before it shares work; costs nothing unless the caller has moved.
  void make_way() {
    const int here = sched_getcpu();
    if (here == away_from_ || here < 0 || here >= CPU_SETSIZE) return;
    away_from_ = here;
    cpu_set_t others = allowed_;
    CPU_CLR(static_cast<unsigned>(here), &others);
    if (CPU_COUNT(&others) == 0) return;
    for (const Thread worker : workers_) pthread_setaffinity_np(worker, sizeof others, &others);
  }

 private:
  std::vector<Thread> workers_;
  cpu_set_t allowed_{};
  int away_from_ = -1;
#else
  void add(Thread) {}
  void make_way() {}
#endif
};

} // namespace pyengine::detail
