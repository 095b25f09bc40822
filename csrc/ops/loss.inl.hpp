// Each loss beside its gradient, sample by sample. The terms of a sample's loss are added in double: they are few, and
// the reported loss is then as good as its terms.
#pragma once

#include <stddef.h>

#include "../kernel_table.hpp"
#include "scalar_math.inl.hpp"

namespace pyengine::ops {

template <class V> struct Losses {
  using T = typename V::Scalar;
  using M = Math<V>;

  /// One sample's target over the classes, smoothed: y_j = (1 - s)·given_j + s/n.
  struct Smoothed {
    const T* given; // null for an integer class
    ptrdiff_t label;
    T keep, spread;

    Smoothed(const LossRows<T>& r, ptrdiff_t i)
        : given(r.classes ? nullptr : r.target + i * r.n_out),
          label(r.classes ? static_cast<ptrdiff_t>(r.classes[i]) : -1), keep(static_cast<T>(1.0 - r.label_smoothing)),
          spread(static_cast<T>(r.label_smoothing / r.n_out)) {}

    T at(ptrdiff_t j) const { return keep * (given ? given[j] : (j == label ? T(1) : T(0))) + spread; }
  };

  /// p = softmax(z), with m = max z and l = log Σ exp(z - m), so that log p_j = (z_j - m) - l. Cannot overflow.
  struct Softmax {
    T max, log_sum;

    Softmax(int n, const T* z, T* p) : max(z[0]) {
      for (int j = 1; j < n; ++j) max = z[j] > max ? z[j] : max;
      T sum = T(0);
      for (int j = 0; j < n; ++j) {
        p[j] = M::exp(z[j] - max);
        sum += p[j];
      }
      log_sum = M::log(sum);
      for (int j = 0; j < n; ++j) p[j] /= sum;
    }

    T log_p(T z) const { return (z - max) - log_sum; }
  };

  // Each function returns l and leaves ∂l/∂z in d.

  /// l = -Σ y_j·log p_j;  ∂l/∂z_j = p_j·Σy - y_j.
  static double softmax_cross_entropy(const LossRows<T>& r, ptrdiff_t i, const T* z, T* d) {
    const Smoothed y(r, i);
    const Softmax s(r.n_out, z, d);
    double l = 0, total = 0;
    for (int j = 0; j < r.n_out; ++j) {
      const T y_j = y.at(j);
      // A class without target has no part in the loss, whatever its logit.
      if (y_j != T(0)) l -= static_cast<double>(y_j * s.log_p(z[j]));
      total += static_cast<double>(y_j);
    }
    const T sum = r.classes ? T(1) : static_cast<T>(total);
    for (int j = 0; j < r.n_out; ++j) d[j] = d[j] * sum - y.at(j);
    return l;
  }

  /// l = -Σ y_j·log clip(p_j);  with U the unclipped classes, ∂l/∂z_j = p_j·Σ_U y - [j in U]·y_j.
  static double clipped_cross_entropy(const LossRows<T>& r, ptrdiff_t i, const T* z, T* d) {
    const T low = static_cast<T>(1e-7), high = static_cast<T>(1.0 - 1e-7);
    const Smoothed y(r, i);
    const Softmax s(r.n_out, z, d);
    double l = 0, unclipped = 0;
    for (int j = 0; j < r.n_out; ++j) {
      const T y_j = y.at(j), p = d[j];
      if (p < low || p > high) {
        l -= static_cast<double>(y_j * M::log(p < low ? low : high));
      } else {
        if (y_j != T(0)) l -= static_cast<double>(y_j * s.log_p(z[j]));
        unclipped += static_cast<double>(y_j);
      }
    }
    const T sum = static_cast<T>(unclipped);
    for (int j = 0; j < r.n_out; ++j) {
      const T p = d[j];
      d[j] = p * sum - (p < low || p > high ? T(0) : y.at(j));
    }
    return l;
  }

  /// l_j = max(z, 0) - z·y + log(1 + exp(-|z|));  ∂l/∂z = sigmoid(z) - y.
  static double binary_cross_entropy(const LossRows<T>& r, ptrdiff_t i, const T* z, T* d) {
    const T* y = r.target + i * r.n_out;
    double l = 0;
    for (int j = 0; j < r.n_out; ++j) {
      const T positive = z[j] < T(0) ? T(0) : z[j];
      l += static_cast<double>(positive - z[j] * y[j] + M::log1p(M::exp(-M::abs(z[j]))));
      d[j] = sigmoid<V>(z[j]) - y[j];
    }
    return l;
  }

  /// l_j = (z - y)²;  ∂l/∂z = 2·(z - y).
  static double mse(const LossRows<T>& r, ptrdiff_t i, const T* z, T* d) {
    const T* y = r.target + i * r.n_out;
    double l = 0;
    for (int j = 0; j < r.n_out; ++j) {
      const T e = z[j] - y[j];
      l += static_cast<double>(e * e);
      d[j] = e + e;
    }
    return l;
  }

  /// l_j = |z - y|;  ∂l/∂z = sign(z - y), 0 where they are equal.
  static double mae(const LossRows<T>& r, ptrdiff_t i, const T* z, T* d) {
    const T* y = r.target + i * r.n_out;
    double l = 0;
    for (int j = 0; j < r.n_out; ++j) {
      const T e = z[j] - y[j];
      l += static_cast<double>(M::abs(e));
      d[j] = e > T(0) ? T(1) : e < T(0) ? T(-1) : e;
    }
    return l;
  }

  /// With e = z - y: l_j = e²/2 where |e| ≤ δ, else δ·(|e| - δ/2);  ∂l/∂z = e clipped to ±δ.
  static double huber(const LossRows<T>& r, ptrdiff_t i, const T* z, T* d) {
    const T* y = r.target + i * r.n_out;
    const T delta = static_cast<T>(r.huber_delta);
    double l = 0;
    for (int j = 0; j < r.n_out; ++j) {
      const T e = z[j] - y[j];
      const T size = M::abs(e);
      if (size > delta) {
        l += static_cast<double>(delta * (size - T(0.5) * delta));
        d[j] = e > T(0) ? delta : -delta;
      } else {
        l += static_cast<double>(T(0.5) * e * e);
        d[j] = e;
      }
    }
    return l;
  }

  template <class Sample> static void each(const LossRows<T>& r, Sample sample) {
    for (ptrdiff_t i = 0; i < r.rows; ++i) {
      T* d = r.delta + i * r.n_out;
      r.losses[i] = r.coefficient[i] * sample(r, i, r.z + i * r.n_out, d);
      const T scale = static_cast<T>(r.scale * r.coefficient[i]);
      for (int j = 0; j < r.n_out; ++j) d[j] *= scale;
    }
  }

  static void rows(const LossRows<T>& r) {
    switch (r.kind) {
    case Loss::softmax_cross_entropy:
      return each(r, softmax_cross_entropy);
    case Loss::clipped_cross_entropy:
      return each(r, clipped_cross_entropy);
    case Loss::binary_cross_entropy:
      return each(r, binary_cross_entropy);
    case Loss::mse:
      return each(r, mse);
    case Loss::mae:
      return each(r, mae);
    case Loss::huber:
      return each(r, huber);
    }
  }
};

} // namespace pyengine::ops
