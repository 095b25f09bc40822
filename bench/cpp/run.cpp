#include "run.hpp"

#include <cstdlib>

namespace pyengine::bench {

std::vector<std::string> chosen_isas() {
  if (const char* forced = std::getenv("PYENGINE_ISA"); forced && *forced) return {kernels().f32.isa};
  auto isas = available_isas();
  if (isas.size() > 1) std::erase(isas, "naive");
  return isas;
}

std::vector<int> thread_counts() {
  // Before any benchmark chose a number.
  static const int most = num_threads();
  return most > 1 ? std::vector<int>{1, most} : std::vector<int>{1};
}

std::vector<int> thread_counts(int batch, int n_in, int n_out) {
  constexpr double worth_a_thread = 5e5; // as in network.cpp
  return 6.0 * batch * n_in * n_out < worth_a_thread ? std::vector<int>{1} : thread_counts();
}

bool& any_failed() {
  static bool failed = false;
  return failed;
}

void report(benchmark::State& state, Times times, Work work, const Peak& peak) {
  std::vector<double>& seconds = times.seconds;
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  const double median = *middle, best = *std::min_element(seconds.begin(), seconds.end());
  state.counters["best_us"] = best * 1e6;
  state.counters["median_us"] = median * 1e6;
  if (work.flops > 0) {
    state.counters["GFLOP/s"] = work.flops / median / 1e9;
    state.counters["peak"] = peak.best();
    // Several threads slower than one: every burst was disturbed, and a share of that would say nothing.
    for (const Peak& one : measured_peaks())
      if (one.isa == peak.isa && one.f32 == peak.f32 && one.threads == 1 && one.best() > peak.best()) return;
    state.counters["%peak"] = 100 * work.flops / median / 1e9 / peak.best();
    if (times.cpu_seconds > 0)
      state.counters["%peak_cpu"] = 100 * work.flops / (times.cpu_seconds / peak.threads) / 1e9 / peak.best();
    state.counters["%peak_best"] = 100 * work.flops / best / 1e9 / peak.best();
  } else {
    state.counters["per_ns"] = work.count / median / 1e9;
  }
}

} // namespace pyengine::bench
