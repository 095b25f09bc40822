// The measured peak: what a fraction in these benchmarks is a fraction of.
#pragma once

#include <deque>
#include <string>
#include <vector>

namespace pyengine::bench {

/// `steps` rounds of x = x·operand + operand on enough independent vectors to keep every pipe busy.
struct Burst {
  double f32_flops, f64_flops; // of a step
  float (*f32)(long steps, float operand);
  double (*f64)(long steps, double operand);
};

// Sixteen bytes, whatever the baseline has; the others as named.
extern const Burst baseline_burst, avx2_burst, avx512_burst;

struct Peak {
  std::string isa;
  bool f32;
  int threads;
  std::vector<double> gflops; // of every burst so far

  double best() const;
  double median() const;
};

/// The peak of one instruction set, type and number of threads, measured again now, in bursts of a millisecond. A burst
/// that another job disturbs reads low and none reads high, so the best of the whole run counts.
const Peak& measure_peak(const std::string& isa, bool f32, int threads);

/// All peaks measured so far.
const std::deque<Peak>& measured_peaks();

} // namespace pyengine::bench
