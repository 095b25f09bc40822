// Sums down the columns of a matrix, in double, one row after the other.
#pragma once

#include <algorithm>
#include <cstddef>

#include "parallel.hpp"

namespace pyengine {

/// sums (3, n): Σa, Σ|a| and Σa² over the rows of a = scale·x, x (m, n).
template <class T> void column_sums(std::ptrdiff_t m, std::ptrdiff_t n, const T* x, double scale, double* sums) {
  constexpr std::ptrdiff_t tile = 256, worth_a_thread = 1 << 16;
  const int tasks[] = {static_cast<int>((n + tile - 1) / tile)};
  run_phases(m * n > worth_a_thread ? num_threads() : 1, tasks, [&](std::size_t, int task, int) {
    const std::ptrdiff_t begin = task * tile, width = std::min(n - begin, tile);
    double a_sum[tile] = {}, size[tile] = {}, square[tile] = {};
    for (std::ptrdiff_t i = 0; i < m; ++i) {
      const T* row = x + i * n + begin;
      for (std::ptrdiff_t c = 0; c < width; ++c) {
        const double a = scale * static_cast<double>(row[c]);
        a_sum[c] += a;
        size[c] += a < 0 ? -a : a;
        square[c] += a * a;
      }
    }
    std::copy_n(a_sum, width, sums + begin);
    std::copy_n(size, width, sums + n + begin);
    std::copy_n(square, width, sums + 2 * n + begin);
  });
}

} // namespace pyengine
