// Products of few columns, and inner products: the lanes lie along the numbers that are added up. Templates over V for
// the reason given in gemm.inl.hpp.
#pragma once

#include <stddef.h>
#include <string.h>

#include "../kernel_table.hpp"
#include "pack.inl.hpp"

namespace pyengine::ops {

template <class V> struct Narrow {
  using T = typename V::Scalar;
  static constexpr auto least = Panelled<V>::least;

  /// Few columns would leave most lanes of a tile idle. Here the lanes lie along k, and as many rows as there are lanes
  /// are added up across them at once.
  static void product(const Product<T>& p) {
    for (int r = 0; r < p.rows; r += p.a.per_segment) {
      const int rows = least(p.a.per_segment, p.rows - r);
      for (int i = 0; i < rows; i += V::lanes)
        some_rows(p, least(V::lanes, rows - i), p.a.row(r) + i * p.a.stride, p.c.row(r) + i * p.c.stride);
    }
  }

  static void some_rows(const Product<T>& p, int rows, const T* a, T* c) {
    const T* row[V::lanes];
    for (int i = 0; i < V::lanes; ++i) row[i] = a + least(i, rows - 1) * p.a.stride;
    for (int j = 0; j < p.n; ++j) {
      V sums = inner_products(p.k, row, p.b + static_cast<ptrdiff_t>(j) * p.k);
      if (p.bias) sums = sums + V::broadcast(p.bias[j]);
      if (p.c.stride == 1) {
        store_part(sums, c + j * p.c_step, rows);
        continue;
      }
      T each[V::lanes];
      sums.store(each);
      for (int i = 0; i < rows; ++i) c[i * p.c.stride + j * p.c_step] = each[i];
    }
  }

  /// Lane i: the inner product of k numbers at a[i] with those at b.
  static V inner_products(int k, const T* const (&a)[V::lanes], const T* b) {
    V sum[V::lanes];
#pragma GCC unroll 16
    for (int i = 0; i < V::lanes; ++i) sum[i] = V::zero();
    for (int step = 0; step < k; step += V::lanes) {
      const V right = load_part(b + step, k - step, V::zero());
#pragma GCC unroll 16
      for (int i = 0; i < V::lanes; ++i) sum[i] = fma(load_part(a[i] + step, k - step, V::zero()), right, sum[i]);
    }
    return sums_across(sum);
  }

  /// Most of the time goes into making doubles: each number is made one once, for all three products.
  static Dots dots(size_t count, const T* a, const T* b) {
    DotSums even, odd;
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
      even.add(a + i, b + i);
      odd.add(a + i + 4, b + i + 4);
    }
    for (; i < count; i += 4) {
      const size_t n = count - i < 4 ? count - i : 4;
      T left[4] = {}, right[4] = {};
      memcpy(left, a + i, n * sizeof(T));
      memcpy(right, b + i, n * sizeof(T));
      even.add(left, right);
    }
    const auto total = [](const Doubles& x, const Doubles& y) {
      const Doubles s = x + y;
      return (s[0] + s[1]) + (s[2] + s[3]);
    };
    return {total(even.aa, odd.aa), total(even.ab, odd.ab), total(even.bb, odd.bb)};
  }

  typedef double Doubles __attribute__((vector_size(32)));

  struct DotSums {
    Doubles aa = {}, ab = {}, bb = {};

    [[gnu::always_inline]] void add(const T* a, const T* b) {
      typedef T Four __attribute__((vector_size(4 * sizeof(T))));
      Four left, right;
      memcpy(&left, a, sizeof left);
      memcpy(&right, b, sizeof right);
      const Doubles l = __builtin_convertvector(left, Doubles), r = __builtin_convertvector(right, Doubles);
      aa += l * l;
      ab += l * r;
      bb += r * r;
    }
  };
};

} // namespace pyengine::ops
