// Every table of kernels that can run here, and those that cannot in emulation (emulation/).
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "dispatch.hpp"

extern const pyengine::Kernels emulated_avx512;

namespace {

template <class T> std::vector<pyengine::KernelTable<T>> all_tables() {
  std::vector<pyengine::KernelTable<T>> tables;
  for (const std::string& isa : pyengine::available_isas()) {
    pyengine::choose_isa(isa);
    tables.push_back(pyengine::kernels().of<T>());
  }
  pyengine::choose_isa(pyengine::available_isas().front());
  tables.push_back(emulated_avx512.of<T>());
  return tables;
}

/// Multiples of 1/8 up to 2: products of two have six fractional bits, so that sums of a few thousand of them are exact
/// in float, in any order, and results can be compared with ==.
template <class T> std::vector<T> dyadic(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> eighths(-16, 16);
  std::vector<T> numbers(count);
  for (T& x : numbers) x = static_cast<T>(eighths(random)) / T(8);
  return numbers;
}

template <class I> std::size_t to_size(I n) { return static_cast<std::size_t>(n); }

} // namespace
