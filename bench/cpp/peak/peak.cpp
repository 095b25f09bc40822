#include "peak.hpp"

#include <algorithm>
#include <chrono>

#include "parallel.hpp"

namespace pyengine::bench {
namespace {

constexpr long steps = 20000;
constexpr int tasks_per_thread = 8, fewest_bursts = 10;
constexpr double most_seconds = 0.2;

std::deque<Peak>& peaks() {
  static std::deque<Peak> all;
  return all;
}

const Burst& burst_of([[maybe_unused]] const std::string& isa) {
#ifdef PYENGINE_HAVE_X86
  if (isa == "avx2") return avx2_burst;
  if (isa == "avx512") return avx512_burst;
#endif
  return baseline_burst;
}

// Read and written at run time, so that nothing is computed before it or left out.
volatile double half = 0.5, result;

double one_burst(const Burst& burst, bool f32, int threads) {
  const double operand = half;
  const int tasks[] = {tasks_per_thread * threads};
  const auto start = std::chrono::steady_clock::now();
  run_phases(threads, tasks, [&](std::size_t, int, int) {
    result = f32 ? static_cast<double>(burst.f32(steps, static_cast<float>(operand))) : burst.f64(steps, operand);
  });
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return (f32 ? burst.f32_flops : burst.f64_flops) * static_cast<double>(steps) * tasks[0] / elapsed.count() / 1e9;
}

} // namespace

double Peak::best() const { return *std::max_element(gflops.begin(), gflops.end()); }

double Peak::median() const {
  std::vector<double> sorted = gflops;
  std::sort(sorted.begin(), sorted.end());
  return sorted[sorted.size() / 2];
}

const Peak& measure_peak(const std::string& isa, bool f32, int threads) {
  // Where other jobs want the processors too, most bursts of several threads are disturbed: ask for n times one thread,
  // and give up after a while, since processors may clock lower together.
  const double one = threads > 1 ? measure_peak(isa, f32, 1).best() : 0;
  constexpr double nearly = 0.95;
  auto at = std::find_if(peaks().begin(), peaks().end(),
                         [&](const Peak& p) { return p.isa == isa && p.f32 == f32 && p.threads == threads; });
  if (at == peaks().end()) at = peaks().insert(peaks().end(), Peak{isa, f32, threads, {}});
  const auto start = std::chrono::steady_clock::now();
  auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  for (int i = 0; i < fewest_bursts || (at->best() < nearly * threads * one && elapsed() < most_seconds); ++i)
    at->gflops.push_back(one_burst(burst_of(isa), f32, threads));
  return *at;
}

const std::deque<Peak>& measured_peaks() { return peaks(); }

} // namespace pyengine::bench
