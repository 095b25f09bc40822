// Each loss beside its gradient, sample by sample. The terms of a sample's loss are added in double: they are few, and
// the reported loss is then as good as its terms. A row begins at the first lane, wherever it lies, and ends beside
// padding: its result depends on nothing but its numbers.
#pragma once

#include <stddef.h>

#include "../kernel_table.hpp"
#include "scalar_math.inl.hpp"

namespace pyengine::ops {

template <class V> struct Losses {
  using T = typename V::Scalar;
  using M = Math<V>;
  static constexpr T infinity = __builtin_huge_valf();

  [[gnu::always_inline]] static inline V of(T x) { return V::broadcast(x); }

  /// Σ of numbers of type T, in double: a sum a lane, then the lanes in their order.
  struct Sum {
    double lane[V::lanes] = {};

    [[gnu::always_inline]] void add(V terms) {
      T term[V::lanes];
      terms.store(term);
#pragma GCC unroll 16
      for (int i = 0; i < V::lanes; ++i) lane[i] += static_cast<double>(term[i]);
    }
    double total() const {
      double sum = 0;
      for (int i = 0; i < V::lanes; ++i) sum += lane[i];
      return sum;
    }
  };

  /// visit(j, left) for the vectors of a row: they begin at j, the last has left < lanes numbers in it.
  template <class Visit> [[gnu::always_inline]] static inline void sweep(ptrdiff_t n, Visit visit) {
    for (ptrdiff_t j = 0; j < n; j += V::lanes) visit(j, n - j);
  }

  /// Numbers beyond the end of the row become `padding`.
  [[gnu::always_inline]] static inline V within(ptrdiff_t left, V a, V padding) {
    return left >= V::lanes ? a : select(iota<V>() < of(static_cast<T>(left)), a, padding);
  }

  /// One sample's target over the classes, smoothed: y_j = (1 - s)·given_j + s/n.
  struct Smoothed {
    const T* given; // null for an integer class
    ptrdiff_t label;
    T keep, spread;
    bool one_hot; // an integer class, not smoothed

    Smoothed(const LossRows<T>& r, ptrdiff_t i)
        : given(r.classes ? nullptr : r.target + i * r.n_out),
          label(r.classes ? static_cast<ptrdiff_t>(r.classes[i]) : -1), keep(static_cast<T>(1.0 - r.label_smoothing)),
          spread(static_cast<T>(r.label_smoothing / r.n_out)), one_hot(r.classes && r.label_smoothing == 0) {}

    /// 0 beyond the end of the row.
    V at(ptrdiff_t j, ptrdiff_t left) const {
      const ptrdiff_t here = label - j;
      const V y = given ? load_part(given + j, left, V::zero())
                        : select(iota<V>() == of(here >= 0 && here < V::lanes ? static_cast<T>(here) : T(-1)), of(1),
                                 V::zero());
      return within(left, of(keep) * y + of(spread), V::zero());
    }
  };

  /// m = max z, s = Σ exp(z - m) and l = log s, so that p_j = exp(z_j - m)/s and log p_j = (z_j - m) - l. Cannot
  /// overflow. Leaves exp(z - m) in e.
  struct Softmax {
    V max, sum, log_sum;

    Softmax(int n, const T* z, T* e) : max(of(z[0])), sum(V::zero()) {
      const V first = max;
      sweep(n, [&](ptrdiff_t j, ptrdiff_t left) { max = at_least(max, load_part(z + j, left, first)); });
      max = of(reduce(max, [](T a, T b) { return b > a ? b : a; }));
      sweep(n, [&](ptrdiff_t j, ptrdiff_t left) {
        const V x = M::exp(load_part(z + j, left, of(-infinity)) - max);
        store_part(x, e + j, left);
        sum = sum + x;
      });
      sum = of(reduce(sum, [](T a, T b) { return a + b; }));
      log_sum = M::log(sum);
    }

    V log_p(V z) const { return (z - max) - log_sum; }
  };

  // Each function returns l and leaves ∂l/∂z times the scale in d.

  /// l = -Σ y_j·log p_j;  ∂l/∂z_j = p_j·Σy - y_j.
  static double softmax_cross_entropy(const LossRows<T>& r, ptrdiff_t i, const T* z, T* d, T scale) {
    const Smoothed y(r, i);
    const Softmax s(r.n_out, z, d);
    if (y.one_hot) {
      const V p = of(d[y.label]) / s.sum;
      sweep(r.n_out, [&](ptrdiff_t j, ptrdiff_t left) {
        store_part(load_part(d + j, left, V::zero()) / s.sum * of(scale), d + j, left);
      });
      store_part((p - of(1)) * of(scale), d + y.label, 1);
      T log_p;
      store_part(s.log_p(of(z[y.label])), &log_p, 1);
      return -static_cast<double>(log_p);
    }
    Sum l, mass;
    sweep(r.n_out, [&](ptrdiff_t j, ptrdiff_t left) {
      const V y_j = y.at(j, left);
      // A class without target has no part in the loss, whatever its logit.
      l.add(select(y_j == V::zero(), V::zero(), y_j * s.log_p(load_part(z + j, left, V::zero()))));
      mass.add(y_j);
    });
    const V total = of(r.classes ? T(1) : static_cast<T>(mass.total()));
    sweep(r.n_out, [&](ptrdiff_t j, ptrdiff_t left) {
      const V p = load_part(d + j, left, V::zero()) / s.sum;
      store_part((p * total - y.at(j, left)) * of(scale), d + j, left);
    });
    return -l.total();
  }

  /// l = -Σ y_j·log clip(p_j);  with U the unclipped classes, ∂l/∂z_j = p_j·Σ_U y - [j in U]·y_j.
  static double clipped_cross_entropy(const LossRows<T>& r, ptrdiff_t i, const T* z, T* d, T scale) {
    const V low = of(static_cast<T>(1e-7)), high = of(static_cast<T>(1.0 - 1e-7));
    const V log_low = M::log(low), log_high = M::log(high);
    const Smoothed y(r, i);
    const Softmax s(r.n_out, z, d);
    Sum l, unclipped;
    sweep(r.n_out, [&](ptrdiff_t j, ptrdiff_t left) {
      const V y_j = y.at(j, left), p = load_part(d + j, left, V::zero()) / s.sum;
      store_part(p, d + j, left);
      const Mask<V> below = p < low, outside = below | (p > high);
      const V log_q = select(below, log_low, select(outside, log_high, s.log_p(load_part(z + j, left, V::zero()))));
      l.add(select(y_j == V::zero(), V::zero(), y_j * log_q));
      unclipped.add(select(outside, V::zero(), y_j));
    });
    const V total = of(static_cast<T>(unclipped.total()));
    sweep(r.n_out, [&](ptrdiff_t j, ptrdiff_t left) {
      const V p = load_part(d + j, left, V::zero());
      const V y_j = select((p < low) | (p > high), V::zero(), y.at(j, left));
      store_part((p * total - y_j) * of(scale), d + j, left);
    });
    return -l.total();
  }

  /// l_j = max(z, 0) - z·y + log(1 + exp(-|z|));  ∂l/∂z = sigmoid(z) - y.
  struct BinaryCrossEntropy {
    V l(V z, V y) const { return select(z < of(0), of(0), z) - z * y + M::log1p(M::exp(-abs(z))); }
    V d(V z, V y) const { return sigmoid(z) - y; }
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
    each_sample(r, [each](const LossRows<T>& rows, ptrdiff_t i, const T* z, T* d, T scale) {
      const T* y = rows.target + i * rows.n_out;
      Sum l;
      sweep(rows.n_out, [&](ptrdiff_t j, ptrdiff_t left) {
        const V z_j = load_part(z + j, left, V::zero()), y_j = load_part(y + j, left, V::zero());
        l.add(within(left, each.l(z_j, y_j), V::zero()));
        store_part(each.d(z_j, y_j) * of(scale), d + j, left);
      });
      return l.total();
    });
  }

  template <class Sample> static void each_sample(const LossRows<T>& r, Sample sample) {
    for (ptrdiff_t i = 0; i < r.rows; ++i) {
      const T scale = static_cast<T>(r.scale * r.coefficient[i]);
      r.losses[i] = r.coefficient[i] * sample(r, i, r.z + i * r.n_out, r.delta + i * r.n_out, scale);
    }
  }

  static void rows(const LossRows<T>& r) {
    switch (r.kind) {
    case Loss::softmax_cross_entropy:
      return each_sample(r, softmax_cross_entropy);
    case Loss::clipped_cross_entropy:
      return each_sample(r, clipped_cross_entropy);
    case Loss::binary_cross_entropy:
      return each_output(r, BinaryCrossEntropy{});
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
