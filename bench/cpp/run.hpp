// How a benchmark is named, checked, timed and reported.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "peak/peak.hpp"

namespace pyengine::bench {

/// What a benchmark runs on.
struct Setting {
  std::string name, isa;
  int threads;
};

/// PYENGINE_ISA alone where it is set, else all that this processor has; the naive loops only on request.
std::vector<std::string> chosen_isas();

/// One, and as many as the kernel would use: PYENGINE_NUM_THREADS, else all processors.
std::vector<int> thread_counts();

/// Those that a layer of this size is worth, counting its three products.
std::vector<int> thread_counts(int batch, int n_in, int n_out);

/// Whether a check failed in this run.
bool& any_failed();

struct WrongAnswer : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Checks an answer, then that the check notices when one number of it is off: a check that cannot fail is none.
template <class Check, class T> void require(const char* what, Check holds, T& number) {
  if (!holds()) throw WrongAnswer(std::string(what) + " is wrong");
  const T right = number;
  number = right + T(1);
  const bool noticed = !holds();
  number = right;
  if (!noticed) throw WrongAnswer(std::string("the check of ") + what + " notices no wrong number");
}

/// Times run() and reports medians and bests, as GFLOP/s and in percent of the peak measured just before; without a
/// number of operations, as `count` numbers per nanosecond.
struct Work {
  double flops, count;
};
struct Times {
  std::vector<double> seconds; // of one call, as timed again and again
  double cpu_seconds;          // of one call, all threads together, on average
};
void report(benchmark::State& state, Times times, Work work, const Peak& peak);

template <class T, class Run> void measure(benchmark::State& state, const Setting& on, Work work, Run run) {
  using Clock = std::chrono::steady_clock;
  const Peak& peak = measure_peak(on.isa, sizeof(T) == sizeof(float), on.threads);
  auto timed = [&](benchmark::IterationCount times) {
    const auto start = Clock::now();
    for (benchmark::IterationCount i = 0; i < times; ++i) run();
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  // Long enough for the clock: its own cost is some tens of nanoseconds.
  constexpr double long_enough = 20e-6;
  double once = timed(1);
  if (once < long_enough) once = timed(1);
  const auto times = static_cast<benchmark::IterationCount>(std::clamp(long_enough / once, 1.0, 1e4));
  Times all{};
  const std::clock_t cpu_start = std::clock();
  while (state.KeepRunningBatch(times)) {
    const double elapsed = timed(times);
    state.SetIterationTime(elapsed);
    all.seconds.push_back(elapsed / static_cast<double>(times));
  }
  all.cpu_seconds = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC /
                    static_cast<double>(all.seconds.size()) / static_cast<double>(times);
  report(state, std::move(all), work, peak);
}

/// Google Benchmark calls a benchmark several times, to find how often to repeat it. Its problem is made, and its
/// answer checked, in the first of them.
template <class Problem, class Make> Problem& kept(const std::string& name, Make make) {
  static std::string of;
  static std::unique_ptr<Problem> problem;
  if (of != name) {
    problem.reset();
    of.clear();
    problem = make();
    of = name;
  }
  return *problem;
}

template <class T, class Body>
void add_one(const std::string& subject, const std::string& isa, int threads, Body body) {
  const Setting on{subject + "/" + isa + (sizeof(T) == sizeof(float) ? "/float32" : "/float64") +
                       "/threads:" + std::to_string(threads),
                   isa, threads};
  benchmark::RegisterBenchmark(on.name.c_str(),
                               [=](benchmark::State& state) {
                                 choose_isa(isa);
                                 set_num_threads(threads);
                                 try {
                                   body.template operator()<T>(state, on);
                                 } catch (const WrongAnswer& wrong) {
                                   any_failed() = true;
                                   state.SkipWithError(wrong.what());
                                 }
                               })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

/// Registers body<T>(state, setting) for every instruction set, both types and the given numbers of threads.
template <class Body>
void add(const std::string& subject, Body body, const std::vector<int>& threads = thread_counts()) {
  for (const std::string& isa : chosen_isas())
    for (const int n : threads) {
      add_one<float>(subject, isa, n, body);
      add_one<double>(subject, isa, n, body);
    }
}

// Each in the file of its name.
void add_products();
void add_dense();
void add_networks();
void add_activations();
void add_losses();

} // namespace pyengine::bench
