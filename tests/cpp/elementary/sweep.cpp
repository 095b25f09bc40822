// Every float through every elementary function, against the C library in double; for double, random arguments against
// long double. Prints the table of docs/elementary.md. Minutes, therefore no part of ctest.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "functions.hpp"

namespace {

using namespace elementary;

constexpr std::size_t block = 4096;

template <class T> struct Worst {
  double ulps = 0;
  T at = 0;

  void see(double error, T x) {
    if (!(error <= ulps)) {
      ulps = error;
      at = x;
    }
  }
};

template <class T, class Wide, class Argument>
std::vector<Worst<T>> sweep(int function, std::uint64_t blocks, unsigned thread, unsigned threads, Argument argument) {
  const auto types = available();
  std::vector<Worst<T>> worst(types.size());
  std::vector<T> x(block), y(block);
  std::vector<Wide> expected(block);
  for (std::uint64_t b = thread; b < blocks; b += threads) {
    for (std::size_t i = 0; i < block; ++i) {
      x[i] = argument(b * block + i);
      expected[i] = reference<Wide>(function, static_cast<Wide>(x[i]));
    }
    for (std::size_t k = 0; k < types.size(); ++k) {
      types[k]->of<T>(function)(block, x.data(), y.data());
      for (std::size_t i = 0; i < block; ++i)
        if (static_cast<Wide>(y[i]) != expected[i]) worst[k].see(ulps(y[i], expected[i]), x[i]);
    }
  }
  return worst;
}

template <class T, class Wide, class Make> void report(const char* format, std::uint64_t blocks, Make make) {
  const unsigned threads = std::max(1u, std::thread::hardware_concurrency());
  for (int function = 0; function < count; ++function) {
    std::vector<std::vector<Worst<T>>> parts(threads);
    std::vector<std::thread> running;
    for (unsigned t = 0; t < threads; ++t)
      running.emplace_back([&, t] { parts[t] = sweep<T, Wide>(function, blocks, t, threads, make(function, t)); });
    for (std::thread& thread : running) thread.join();
    std::printf("| %s | %s |", names[function], format);
    for (std::size_t k = 0; k < parts[0].size(); ++k) {
      Worst<T> worst;
      for (const auto& part : parts) worst.see(part[k].ulps, part[k].at);
      std::printf(" %.3f at %a |", worst.ulps, static_cast<double>(worst.at));
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}

/// Where the function is neither constant nor its argument: mostly there, and now and then any bit pattern.
double random_argument(int function, std::mt19937_64& random) {
  constexpr double low[count] = {-746, -40, 0, -1, -20, -7}, high[count] = {710, 710, 4, 4, 20, 27.3};
  const auto r = random();
  if (r % 8 == 0) return std::bit_cast<double>(random());
  const double unit = static_cast<double>(random() >> 11) * 0x1p-53;
  // Half of them in a range that ends near zero, at all its scales.
  const double scale = r % 8 < 4 ? std::ldexp(1.0, -static_cast<int>(r >> 8 & 31)) : 1.0;
  return (low[function] + (high[function] - low[function]) * unit) * scale;
}

} // namespace

int main(int arguments, char** argument) {
  // Blocks of 4096 double arguments; 0 leaves them out.
  const std::uint64_t doubles = arguments > 1 ? std::strtoull(argument[1], nullptr, 10) : 12000;
  std::printf("| function | format |");
  for (const auto* f : available()) std::printf(" %s |", f->isa);
  std::printf("\n|-|-|");
  for (std::size_t i = 0; i < available().size(); ++i) std::printf("-|");
  std::printf("\n");
  if (doubles)
    report<double, long double>("float64", doubles, [](int function, unsigned thread) {
      return [function, random = std::mt19937_64(thread)](std::uint64_t) mutable {
        return random_argument(function, random);
      };
    });
  if (arguments <= 2)
    report<float, double>("float32", (std::uint64_t(1) << 32) / block, [](int, unsigned) {
      return [](std::uint64_t i) { return std::bit_cast<float>(static_cast<std::uint32_t>(i)); };
    });
}
