// One look at rows of a product somebody claims to have computed: what pyengine/checks/staged/screen.py compares with
// its limits, from one pass over the memory.
#pragma once

#include <stddef.h>

#include "../kernel_table.hpp"
#include "lanes.inl.hpp"

namespace pyengine::ops {

template <class V> struct Screens {
  using T = typename V::Scalar;
  static constexpr ptrdiff_t tile = screen_terms, group = 64;
  static_assert(tile % V::lanes == 0 && group <= tile);

  struct Totals {
    V top = V::zero(), low = V::zero(), beyond = V::zero();
  };

  /// The numbers of a row of a tile, and the sums of the tile's columns over a group of rows.
  struct Tile {
    T r[tile], z[tile], v[tile], ratio[tile];
    T columns[screen_column_sums][tile];
  };

  static void rows(const Screening<T>& s, ptrdiff_t begin, ptrdiff_t end, double* columns, ScreenFound<T>& found) {
    Tile t;
    Totals totals;
    for (ptrdiff_t i = begin; i < end; ++i)
      for (int k = 0; k < screen_row_sums; ++k) s.row_sums[k * s.m + i] = 0;
    for (ptrdiff_t k = 0; k < screen_column_sums * s.n; ++k) columns[k] = 0;
    for (ptrdiff_t j = 0; j < s.n; j += tile) {
      const ptrdiff_t width = s.n - j < tile ? s.n - j : tile;
      for (ptrdiff_t first = begin; first < end; first += group) {
        const ptrdiff_t past = first + group < end ? first + group : end;
        for (auto& sums : t.columns)
          for (T& sum : sums) sum = 0;
        for (ptrdiff_t i = first; i < past; ++i) row(s, i, j, width, t, totals, found);
        for (int k = 0; k < screen_column_sums; ++k)
          for (ptrdiff_t c = 0; c < width; ++c) columns[k * s.n + j + c] += static_cast<double>(t.columns[k][c]);
      }
    }
    const auto larger = [](T a, T b) { return a < b ? b : a; };
    found.top = reduce(totals.top, larger);
    found.low = reduce(totals.low, larger) > T(0);
  }

 private:
  static void row(const Screening<T>& s, ptrdiff_t i, ptrdiff_t j, ptrdiff_t width, Tile& t, Totals& totals,
                  ScreenFound<T>& found) {
    const T *claimed = s.claimed + i * s.n + j, *q = s.q + i * s.n + j;
    const double* z = s.z + i * s.n + j;
    const T on_q = s.on_q;
    if (s.bias) {
      const double* bias = s.bias + j;
      const T* bias_v = s.bias_v + j;
      for (ptrdiff_t c = 0; c < width; ++c) {
        const double product = z[c] * s.up, exact = product + bias[c];
        t.v[c] = q[c] * on_q + static_cast<T>(product * product) + bias_v[c];
        t.r[c] = static_cast<T>((static_cast<double>(claimed[c]) * s.down - exact) * s.unit);
        t.z[c] = static_cast<T>(exact);
      }
    } else {
      for (ptrdiff_t c = 0; c < width; ++c) {
        const double exact = z[c] * s.up;
        t.v[c] = q[c] * on_q;
        t.r[c] = static_cast<T>((static_cast<double>(claimed[c]) * s.down - exact) * s.unit);
        t.z[c] = static_cast<T>(exact);
      }
    }
    for (ptrdiff_t c = width; c % V::lanes != 0; ++c) t.r[c] = t.z[c] = t.v[c] = 0;
    sums(s, i, j, width, t, totals, found);
  }

  static void sums(const Screening<T>& s, ptrdiff_t i, ptrdiff_t j, ptrdiff_t width, Tile& t, Totals& totals,
                   ScreenFound<T>& found) {
    const V on_z = V::broadcast(s.on_z), smallest = V::broadcast(s.smallest), limit = V::broadcast(s.limit);
    V sum[screen_row_sums];
    for (V& one : sum) one = V::zero();
    V beyond = V::zero();
    for (ptrdiff_t c = 0; c < width; c += V::lanes) {
      const V r = V::load(t.r + c), z = V::load(t.z + c), zz = z * z, rr = r * r, rz = r * z;
      V v = V::load(t.v + c) + on_z * zz;
      totals.low = at_least(totals.low, select(v < smallest, abs(r), V::zero()));
      v = at_least(v, smallest);
      const V zzv = zz * v, ratio = rr / v;
      const V of_column[screen_column_sums] = {rz, zzv, rr, zz};
#pragma GCC unroll 4
      for (int k = 0; k < screen_column_sums; ++k) {
        sum[k] = sum[k] + of_column[k];
        (V::load(t.columns[k] + c) + of_column[k]).store(t.columns[k] + c);
      }
      const ptrdiff_t left = width - c;
      sum[4] = sum[4] + (left >= V::lanes ? v : select(iota<V>() < V::broadcast(static_cast<T>(left)), v, V::zero()));
#pragma GCC unroll 4
      for (int k = 0; k < screen_signs; ++k)
        sum[5 + k] = sum[5 + k] + r * load_part(s.signs + k * s.n + j + c, left, V::zero());
      const Mask<V> within = (ratio < limit) | (ratio == limit);
      totals.top = at_least(totals.top, select(within, ratio, V::zero()));
      beyond = select(within, beyond, V::broadcast(1));
      ratio.store(t.ratio + c);
    }
    const auto plus = [](T a, T b) { return a + b; };
#pragma GCC unroll 16
    for (int k = 0; k < screen_row_sums; ++k) s.row_sums[k * s.m + i] += static_cast<double>(reduce(sum[k], plus));
    if (reduce(beyond, plus) > T(0)) each_beyond(s, i * s.n + j, width, t, found);
  }

  static void each_beyond(const Screening<T>& s, ptrdiff_t at, ptrdiff_t width, const Tile& t, ScreenFound<T>& found) {
    constexpr T infinite = static_cast<T>(__builtin_huge_val());
    for (ptrdiff_t c = 0; c < width; ++c) {
      if (t.ratio[c] <= s.limit) continue;
      if (!(t.ratio[c] < infinite))
        found.infinite = true;
      else if (found.count++ < found.room) {
        found.at[found.count - 1] = at + c;
        found.r[found.count - 1] = t.r[c];
      }
    }
  }
};

} // namespace pyengine::ops
