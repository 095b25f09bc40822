// Each activation beside its derivative. At a kink the derivative is the one from the left:
// relu'(0) = 0, leaky_relu'(0) = slope, elu'(0) = slope. NaN passes through all of them.
#pragma once

#include <stddef.h>

#include "../kernel_table.hpp"
#include "scalar_math.inl.hpp"

namespace pyengine::ops {

// Each struct: f(z), and df(z, h), the derivative from z or from h = f(z) as derivative_needs_z() says; whole vectors.

template <class V> struct Activations {
  using T = typename V::Scalar;
  using M = Math<V>;

  static V of(T x) { return V::broadcast(x); }

  struct Relu {
    V f(V z) const { return select(z < of(0), of(0), z); }
    V df(V, V h) const { return select(h > of(0), of(1), of(0)); }
  };

  struct LeakyRelu {
    T slope;
    V f(V z) const { return select(z > of(0), z, of(slope) * z); }
    V df(V z, V) const { return select(z > of(0), of(1), of(slope)); }
  };

  struct Elu {
    T alpha;
    V f(V z) const { return select(z > of(0), z, of(alpha) * M::expm1(z)); }
    V df(V z, V) const { return select(z > of(0), of(1), of(alpha) * M::exp(z)); }
  };

  struct Tanh {
    V f(V z) const { return M::tanh(z); }
    V df(V, V h) const { return (of(1) - h) * (of(1) + h); }
  };

  struct Sigmoid {
    V f(V z) const { return sigmoid(z); }
    V df(V, V h) const { return h * (of(1) - h); }
  };

  struct Softplus {
    V f(V z) const { return select(z > of(0), z, of(0)) + M::log1p(M::exp(-abs(z))); }
    V df(V z, V) const { return sigmoid(z); }
  };

  struct Silu {
    V f(V z) const { return z * sigmoid(z); }
    V df(V z, V) const {
      const V s = sigmoid(z);
      return s + z * s * sigmoid(-z);
    }
  };

  struct Gelu {
    static constexpr T sqrt_half = T(0.70710678118654752440);
    static constexpr T inv_sqrt_two_pi = T(0.39894228040143267794);

    // erfc, not 1 + erf: the left tail keeps its relative accuracy.
    static V cdf(V z) { return of(T(0.5)) * M::erfc(of(-sqrt_half) * z); }
    V f(V z) const { return z * cdf(z); }
    V df(V z, V) const { return cdf(z) + z * of(inv_sqrt_two_pi) * M::exp(of(T(-0.5)) * z * z); }
  };

  struct GeluTanh {
    static constexpr T two_sqrt_two_over_pi = T(1.59576912160573071176);
    static constexpr T cubic = T(0.044715);
    // Beyond this |z| the function is max(z, 0) to all digits of a double, and z³ could overflow below.
    static constexpr T far = T(50);

    // (1 + tanh a)/2 = sigmoid(2a), which does not cancel on the left.
    static V inner(V z) { return of(two_sqrt_two_over_pi) * (z + of(cubic) * z * z * z); }
    V f(V z) const { return select(abs(z) > of(far), Relu{}.f(z), z * sigmoid(inner(z))); }
    V df(V z, V) const {
      const V a = inner(z), s = sigmoid(a);
      const V near = s + z * s * sigmoid(-a) * of(two_sqrt_two_over_pi) * (of(1) + of(T(3) * cubic) * z * z);
      return select(abs(z) > of(far), Relu{}.df(z, z), near);
    }
  };
};

template <class V> struct Elementwise {
  using T = typename V::Scalar;
  using A = Activations<V>;

  /// h = f(z); z and h may be the same memory. A number gets the same bits wherever it stands: the last few take the
  /// same way as full vectors, beside zeros.
  template <class F> static void apply_forward(F f, size_t count, const T* z, T* h) {
    for (size_t i = 0; i < count; i += V::lanes) {
      const ptrdiff_t left = static_cast<ptrdiff_t>(count - i);
      store_part(f.f(load_part(z + i, left, V::zero())), h + i, left);
    }
  }

  /// g_s = g_s·f'(z) for every stream: the derivative is evaluated once for all losses.
  template <class F>
  static void apply_backward(F f, size_t count, const T* z, const T* h, int streams, T* g, ptrdiff_t stride) {
    for (size_t i = 0; i < count; i += V::lanes) {
      const ptrdiff_t left = static_cast<ptrdiff_t>(count - i);
      const V derivative = f.df(load_part(z + i, left, V::zero()), load_part(h + i, left, V::zero()));
      T* to = g + i;
      for (int s = 0; s < streams; ++s, to += stride) store_part(load_part(to, left, V::zero()) * derivative, to, left);
    }
  }

  /// 0·x is 0, unless x is infinite or NaN.
  static bool all_finite(size_t count, const T* x) {
    constexpr size_t together = 4;
    V sum[together] = {V::zero(), V::zero(), V::zero(), V::zero()};
    size_t i = 0;
    for (; i + together * V::lanes <= count; i += together * V::lanes)
#pragma GCC unroll 4
      for (size_t j = 0; j < together; ++j) sum[j] = fma(V::load(x + i + j * V::lanes), V::zero(), sum[j]);
    for (; i < count; i += V::lanes)
      sum[0] = fma(load_part(x + i, static_cast<ptrdiff_t>(count - i), V::zero()), V::zero(), sum[0]);
    return reduce((sum[0] + sum[1]) + (sum[2] + sum[3]), [](T a, T b) { return a + b; }) == 0;
  }

  template <class Visit> static void select(Activation kind, double slope, Visit visit) {
    switch (kind) {
    case Activation::linear:
      return;
    case Activation::relu:
      return visit(typename A::Relu{});
    case Activation::leaky_relu:
      return visit(typename A::LeakyRelu{static_cast<T>(slope)});
    case Activation::elu:
      return visit(typename A::Elu{static_cast<T>(slope)});
    case Activation::tanh:
      return visit(typename A::Tanh{});
    case Activation::sigmoid:
      return visit(typename A::Sigmoid{});
    case Activation::softplus:
      return visit(typename A::Softplus{});
    case Activation::silu:
      return visit(typename A::Silu{});
    case Activation::gelu:
      return visit(typename A::Gelu{});
    case Activation::gelu_tanh:
      return visit(typename A::GeluTanh{});
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
