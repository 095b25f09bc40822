// The most multiplications and additions that a processor does in registers. Compiled once for each instruction set:
// with FMA the sum below becomes one instruction, without it two.
#pragma once

#include "peak.hpp"

namespace pyengine::bench {
namespace {

template <class T, int bytes> struct Probe {
  typedef T Lanes __attribute__((vector_size(bytes)));

  // Latency times pipes is 8 to 16 on the processors since 2011; 15 and the operand fill 16 registers.
  static constexpr int chains = 15;
  static constexpr double flops_per_step = 2.0 * chains * bytes / sizeof(T);

  static T run(long steps, T operand) {
    const Lanes c = Lanes{} + operand;
    Lanes chain[chains];
#pragma GCC unroll 16
    for (int i = 0; i < chains; ++i) chain[i] = c + T(i);
    for (long step = 0; step < steps; ++step)
#pragma GCC unroll 16
      for (int i = 0; i < chains; ++i) chain[i] = chain[i] * c + c;
    T sum = 0;
    for (int i = 0; i < chains; ++i)
      for (unsigned long j = 0; j < bytes / sizeof(T); ++j) sum += chain[i][j];
    return sum;
  }
};

template <int bytes> constexpr Burst burst() {
  return {Probe<float, bytes>::flops_per_step, Probe<double, bytes>::flops_per_step, Probe<float, bytes>::run,
          Probe<double, bytes>::run};
}

} // namespace
} // namespace pyengine::bench
