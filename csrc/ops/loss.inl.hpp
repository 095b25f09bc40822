// Each loss beside its gradient, over rows held in vectors in either of two ways (rows.inl.hpp). The terms of a
// sample's loss are added in double: they are few, and the reported loss is then as good as its terms.
#pragma once

#include <stddef.h>

#include "../kernel_table.hpp"
#include "rows.inl.hpp"
#include "scalar_math.inl.hpp"

namespace pyengine::ops {

template <class V> struct Losses {
  using T = typename V::Scalar;
  using M = Math<V>;
  static constexpr T infinity = __builtin_huge_valf();

  [[gnu::always_inline]] static inline V of(T x) { return V::broadcast(x); }

  /// Label smoothing: y_j = (1 - s)·given_j + s/n.
  struct Smoothed {
    V keep, spread;

    explicit Smoothed(const LossRows<T>& r)
        : keep(of(static_cast<T>(1.0 - r.label_smoothing))), spread(of(static_cast<T>(r.label_smoothing / r.n_out))) {}

    /// 0 beyond the end of the row.
    template <class Row> V at(const Row& row, ptrdiff_t j) const {
      return row.within(j, keep * row.target(j) + spread, V::zero());
    }
  };

  /// m = max z, s = Σ exp(z - m) and l = log s, so that p_j = exp(z_j - m)/s and log p_j = (z_j - m) - l. Cannot
  /// overflow. Leaves exp(z - m) in e.
  struct Softmax {
    V max, sum, log_sum;

    template <class Row> explicit Softmax(Row& row) : max(row.first()), sum(V::zero()) {
      const V first = max;
      row.sweep([&](ptrdiff_t j) { max = at_least(max, row.z(j, first)); });
      max = row.greatest(max);
      row.sweep([&](ptrdiff_t j) {
        const V e = M::exp(row.z(j, of(-infinity)) - max);
        row.put(j, e);
        sum = sum + e;
      });
      sum = row.sum(sum);
      log_sum = M::log(sum);
    }

    V log_p(V z) const { return (z - max) - log_sum; }
  };

  // Each function takes rows to their losses and leaves ∂l/∂z times the row's scale behind.

  /// l = -log p of the class;  ∂l/∂z_j = p_j - y_j.
  template <class Row> static void one_hot_cross_entropy(const LossRows<T>&, Row& row) {
    const Softmax s(row);
    V z = V::zero();
    row.sweep([&](ptrdiff_t j) {
      const V y = row.target(j);
      z = z + select(y == V::zero(), V::zero(), row.z(j, V::zero()));
      row.put(j, (row.got(j) / s.sum - y) * row.scale());
    });
    row.loss(-s.log_p(row.sum(z)));
  }

  /// l = -Σ y_j·log p_j;  ∂l/∂z_j = p_j·Σy - y_j.
  template <class Row> static void softmax_cross_entropy(const LossRows<T>& r, Row& row) {
    if (r.classes && r.label_smoothing == 0) return one_hot_cross_entropy(r, row);
    const Smoothed smoothed(r);
    const Softmax s(row);
    Sum<V> l, mass;
    row.sweep([&](ptrdiff_t j) {
      const V y = smoothed.at(row, j);
      // A class without target has no part in the loss, whatever its logit.
      l.add(select(y == V::zero(), V::zero(), -(y * s.log_p(row.z(j, V::zero())))));
      mass.add(y);
    });
    const V total = r.classes ? of(1) : row.total(mass);
    row.sweep([&](ptrdiff_t j) { row.put(j, (row.got(j) / s.sum * total - smoothed.at(row, j)) * row.scale()); });
    row.loss(l);
  }

  /// l = -Σ y_j·log clip(p_j);  with U the unclipped classes, ∂l/∂z_j = p_j·Σ_U y - [j in U]·y_j.
  template <class Row> static void clipped_cross_entropy(const LossRows<T>& r, Row& row) {
    const V low = of(static_cast<T>(1e-7)), high = of(static_cast<T>(1.0 - 1e-7));
    const V log_low = M::log(low), log_high = M::log(high);
    const Smoothed smoothed(r);
    const Softmax s(row);
    Sum<V> l, unclipped;
    row.sweep([&](ptrdiff_t j) {
      const V y = smoothed.at(row, j), p = row.got(j) / s.sum;
      row.put(j, p);
      const Mask<V> below = p < low, outside = below | (p > high);
      const V log_q = select(below, log_low, select(outside, log_high, s.log_p(row.z(j, V::zero()))));
      l.add(select(y == V::zero(), V::zero(), -(y * log_q)));
      unclipped.add(select(outside, V::zero(), y));
    });
    const V total = row.total(unclipped);
    row.sweep([&](ptrdiff_t j) {
      const V p = row.got(j);
      const V y = select((p < low) | (p > high), V::zero(), smoothed.at(row, j));
      row.put(j, (p * total - y) * row.scale());
    });
    row.loss(l);
  }

  /// l_j = max(z, 0) - z·y + log(1 + exp(-|z|));  ∂l/∂z = sigmoid(z) - y.
  struct BinaryCrossEntropy {
    V l(V z, V y) const { return select(z < of(0), of(0), z) - z * y + M::log1p(M::exp(-abs(z))); }
    V d(V z, V y) const { return sigmoid(z) - y; }
  };

  /// With p = sigmoid(z) and q = clip(p): l_j = -y·log q - (1 - y)·log(1 - q);  ∂l/∂z = p - y, 0 where p is clipped.
  struct ClippedBinaryCrossEntropy {
    V low = of(static_cast<T>(1e-7)), high = of(static_cast<T>(1.0 - 1e-7));

    V l(V z, V y) const {
      const V p = sigmoid(z), log_p = at_most(z, of(0)) - M::log1p(M::exp(-abs(z)));
      const Mask<V> below = p<low, above = p> high;
      const V log_q = select(below, M::log(low), select(above, M::log(high), log_p));
      const V log_rest = select(below, M::log(of(1) - low), select(above, M::log(of(1) - high), log_p - z));
      return -(y * log_q) - (of(1) - y) * log_rest;
    }
    V d(V z, V y) const {
      const V p = sigmoid(z);
      return select((p < low) | (p > high), V::zero(), p - y);
    }
  };

  /// l_j = (z - y)²;  ∂l/∂z = 2·(z - y).
  struct Mse {
    V l(V z, V y) const { return (z - y) * (z - y); }
    V d(V z, V y) const { return (z - y) + (z - y); }
  };

  /// l_j = |z - y|;  ∂l/∂z = sign(z - y), 0 where they are equal.
  struct Mae {
    V l(V z, V y) const { return abs(z - y); }
    V d(V z, V y) const {
      const V e = z - y;
      return select(e > of(0), of(1), select(e < of(0), of(-1), e));
    }
  };

  /// With e = z - y: l_j = e²/2 where |e| ≤ δ, else δ·(|e| - δ/2);  ∂l/∂z = e clipped to ±δ.
  struct Huber {
    V delta;
    V l(V z, V y) const {
      const V e = z - y, half = of(T(0.5));
      return select(abs(e) > delta, delta * (abs(e) - half * delta), half * e * e);
    }
    V d(V z, V y) const { return at_least(at_most(z - y, delta), -delta); }
  };

  /// The losses that are a sum over a sample's outputs, each beside its derivative.
  template <class Each> static void each_output(const LossRows<T>& r, Each each) {
    // One output a row lies the same both ways.
    if (r.n_out <= ShortRows<V>::longest && (!r.across || r.n_out == 1)) return each_output_of_short_rows(r, each);
    each_row<V>(r, [each](auto& row) {
      Sum<V> l;
      row.sweep([&](ptrdiff_t j) {
        const V z = row.z(j, V::zero()), y = row.target(j);
        l.add(row.within(j, each.l(z, y), V::zero()));
        row.put(j, each.d(z, y) * row.scale());
      });
      row.loss(l);
    });
  }

  /// Output by output, regardless of where a row ends; then row by row.
  template <class Each> static void each_output_of_short_rows(const LossRows<T>& r, Each each) {
    constexpr ptrdiff_t run = 512;
    T terms[run];
    const ptrdiff_t n = r.n_out, step = run / n;
    for (ptrdiff_t begin = 0; begin < r.rows; begin += step) {
      const ptrdiff_t end = r.rows - begin < step ? r.rows : begin + step, count = (end - begin) * n;
      const T *z = r.z + begin * n, *y = r.target + begin * n;
      T* d = r.delta + begin * n;
      for (ptrdiff_t j = 0; j < count; j += V::lanes) {
        const V z_j = load_part(z + j, count - j, V::zero()), y_j = load_part(y + j, count - j, V::zero());
        each.l(z_j, y_j).store(terms + j);
        store_part(each.d(z_j, y_j), d + j, count - j);
      }
      const T* term = terms;
      for (ptrdiff_t i = begin; i < end; ++i, term += n, d += n) {
        const T scale = static_cast<T>(r.scale * r.coefficient[i]);
        double l = 0;
        for (ptrdiff_t j = 0; j < n; ++j) {
          l += static_cast<double>(term[j]);
          d[j] *= scale;
        }
        r.losses[i] = r.coefficient[i] * l;
      }
    }
  }

  static void rows(const LossRows<T>& r) {
    switch (r.kind) {
    case Loss::softmax_cross_entropy:
      return each_row<V>(r, [&r](auto& row) { softmax_cross_entropy(r, row); });
    case Loss::clipped_cross_entropy:
      return each_row<V>(r, [&r](auto& row) { clipped_cross_entropy(r, row); });
    case Loss::binary_cross_entropy:
      return each_output(r, BinaryCrossEntropy{});
    case Loss::clipped_binary_cross_entropy:
      return each_output(r, ClippedBinaryCrossEntropy{});
    case Loss::mse:
      return each_output(r, Mse{});
    case Loss::mae:
      return each_output(r, Mae{});
    case Loss::huber:
      return each_output(r, Huber{of(static_cast<T>(r.huber_delta))});
    }
  }
};

} // namespace pyengine::ops
