#include "parallel.hpp"

#include <atomic>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace pyengine {
namespace {

constexpr int most_threads = 1024;

int initial_threads() {
  if (const char* given = std::getenv("PYENGINE_NUM_THREADS"); given && *given) {
    int n = 0;
    const char* end = given + std::strlen(given);
    const auto [stop, error] = std::from_chars(given, end, n);
    if (error != std::errc{} || stop != end || n < 1 || n > most_threads)
      throw std::invalid_argument("`PYENGINE_NUM_THREADS` is '" + std::string(given) +
                                  "'; expected a whole number from 1 to " + std::to_string(most_threads) +
                                  ". Unset it to use all processors.");
    return n;
  }
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  const unsigned processors = std::thread::hardware_concurrency();
  return processors > 0 ? static_cast<int>(processors) : 1;
#endif
}

std::atomic<int> chosen{0};
std::atomic<bool> forked{false};

[[maybe_unused]] void in_child() { forked.store(true, std::memory_order_relaxed); }

[[maybe_unused]] const bool fork_is_watched = [] {
#if defined(__unix__) || defined(__APPLE__)
  return pthread_atfork(nullptr, nullptr, in_child) == 0;
#else
  return false;
#endif
}();

} // namespace

int num_threads() {
  int n = chosen.load(std::memory_order_relaxed);
  if (n == 0) {
    n = initial_threads();
    chosen.store(n, std::memory_order_relaxed);
  }
  return forked.load(std::memory_order_relaxed) ? 1 : n;
}

void set_num_threads(int n) {
  if (n < 1 || n > most_threads)
    throw std::invalid_argument("`n` is " + std::to_string(n) + "; expected a whole number from 1 to " +
                                std::to_string(most_threads) + ". Use 1 for no threads beside the caller's.");
  chosen.store(n, std::memory_order_relaxed);
}

} // namespace pyengine
