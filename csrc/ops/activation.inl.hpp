// Each activation beside its derivative. At a kink the derivative is the one from the left:
// relu'(0) = 0, leaky_relu'(0) = slope, elu'(0) = slope. NaN passes through all of them.
#pragma once

#include <stddef.h>

#include "../kernel_table.hpp"
#include "scalar_math.inl.hpp"

namespace pyengine::ops {

// Each struct: f(z), and df(z, h), the derivative from z or from h = f(z) as derivative_needs_z() says.

template <class V> struct Relu {
  using T = typename V::Scalar;
  T f(T z) const { return z < T(0) ? T(0) : z; }
  T df(T, T h) const { return h > T(0) ? T(1) : T(0); }
};

template <class V> struct LeakyRelu {
  using T = typename V::Scalar;
  T slope;
  T f(T z) const { return z > T(0) ? z : slope * z; }
  T df(T z, T) const { return z > T(0) ? T(1) : slope; }
};

template <class V> struct Elu {
  using T = typename V::Scalar;
  T alpha;
  T f(T z) const { return z > T(0) ? z : alpha * Math<V>::expm1(z); }
  T df(T z, T) const { return z > T(0) ? T(1) : alpha * Math<V>::exp(z); }
};

template <class V> struct Tanh {
  using T = typename V::Scalar;
  T f(T z) const { return Math<V>::tanh(z); }
  T df(T, T h) const { return (T(1) - h) * (T(1) + h); }
};

template <class V> struct Sigmoid {
  using T = typename V::Scalar;
  T f(T z) const { return sigmoid<V>(z); }
  T df(T, T h) const { return h * (T(1) - h); }
};

template <class V> struct Softplus {
  using T = typename V::Scalar;
  T f(T z) const { return (z > T(0) ? z : T(0)) + Math<V>::log1p(Math<V>::exp(-Math<V>::abs(z))); }
  T df(T z, T) const { return sigmoid<V>(z); }
};

template <class V> struct Silu {
  using T = typename V::Scalar;
  T f(T z) const { return z * sigmoid<V>(z); }
  T df(T z, T) const {
    const T s = sigmoid<V>(z);
    return s + z * s * sigmoid<V>(-z);
  }
};

template <class V> struct Gelu {
  using T = typename V::Scalar;
  static constexpr T sqrt_half = T(0.70710678118654752440);
  static constexpr T inv_sqrt_two_pi = T(0.39894228040143267794);

  // erfc, not 1 + erf: the left tail keeps its relative accuracy.
  static T cdf(T z) { return T(0.5) * Math<V>::erfc(-z * sqrt_half); }
  T f(T z) const { return z * cdf(z); }
  T df(T z, T) const { return cdf(z) + z * inv_sqrt_two_pi * Math<V>::exp(T(-0.5) * z * z); }
};

template <class V> struct GeluTanh {
  using T = typename V::Scalar;
  static constexpr T two_sqrt_two_over_pi = T(1.59576912160573071176);
  static constexpr T cubic = T(0.044715);
  // Beyond this |z| the function is max(z, 0) to all digits of a double, and z³ could overflow below.
  static constexpr T far = T(50);

  // (1 + tanh a)/2 = sigmoid(2a), which does not cancel on the left.
  T f(T z) const {
    if (Math<V>::abs(z) > far) return z > T(0) ? z : T(0);
    return z * sigmoid<V>(two_sqrt_two_over_pi * (z + cubic * z * z * z));
  }
  T df(T z, T) const {
    if (Math<V>::abs(z) > far) return z > T(0) ? T(1) : T(0);
    const T a = two_sqrt_two_over_pi * (z + cubic * z * z * z);
    const T s = sigmoid<V>(a);
    return s + z * s * sigmoid<V>(-a) * two_sqrt_two_over_pi * (T(1) + T(3) * cubic * z * z);
  }
};

template <class V> struct Elementwise {
  using T = typename V::Scalar;

  /// h = f(z); z and h may be the same memory.
  template <class F> static void apply_forward(F f, size_t count, const T* z, T* h) {
    for (size_t i = 0; i < count; ++i) h[i] = f.f(z[i]);
  }

  /// g_s = g_s·f'(z) for every stream: the derivative is evaluated once for all losses.
  template <class F>
  static void apply_backward(F f, size_t count, const T* z, const T* h, int streams, T* g, ptrdiff_t stride) {
    constexpr size_t run = 256;
    T derivative[run];
    for (size_t i0 = 0; i0 < count; i0 += run) {
      const size_t n = count - i0 < run ? count - i0 : run;
      for (size_t i = 0; i < n; ++i) derivative[i] = f.df(z[i0 + i], h[i0 + i]);
      for (int s = 0; s < streams; ++s) {
        T* to = g + s * stride + i0;
        for (size_t i = 0; i < n; ++i) to[i] *= derivative[i];
      }
    }
  }

  template <class Visit> static void select(Activation kind, double slope, Visit visit) {
    switch (kind) {
    case Activation::linear:
      return;
    case Activation::relu:
      return visit(Relu<V>{});
    case Activation::leaky_relu:
      return visit(LeakyRelu<V>{static_cast<T>(slope)});
    case Activation::elu:
      return visit(Elu<V>{static_cast<T>(slope)});
    case Activation::tanh:
      return visit(Tanh<V>{});
    case Activation::sigmoid:
      return visit(Sigmoid<V>{});
    case Activation::softplus:
      return visit(Softplus<V>{});
    case Activation::silu:
      return visit(Silu<V>{});
    case Activation::gelu:
      return visit(Gelu<V>{});
    case Activation::gelu_tanh:
      return visit(GeluTanh<V>{});
    }
  }

  static void forward(Activation kind, double slope, size_t count, const T* z, T* h) {
    select(kind, slope, [=](auto f) { apply_forward(f, count, z, h); });
  }

  static void backward(Activation kind, double slope, size_t count, const T* z, const T* h, int streams, T* g,
                       ptrdiff_t stride) {
    select(kind, slope, [=](auto f) { apply_backward(f, count, z, h, streams, g, stride); });
  }
};

} // namespace pyengine::ops
