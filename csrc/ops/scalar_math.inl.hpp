// The C library's functions under one name for both precisions. Templates over V for the reason given in gemm.inl.hpp:
// an inline std::exp(float) compiled here for AVX-512 could be linked into code that runs without it.
#pragma once

#include <math.h>

namespace pyengine::ops {

template <class V, class T = typename V::Scalar> struct Math;

template <class V> struct Math<V, float> {
  static float exp(float x) { return ::expf(x); }
  static float expm1(float x) { return ::expm1f(x); }
  static float log(float x) { return ::logf(x); }
  static float log1p(float x) { return ::log1pf(x); }
  static float tanh(float x) { return ::tanhf(x); }
  static float erfc(float x) { return ::erfcf(x); }
  static float abs(float x) { return ::fabsf(x); }
};

template <class V> struct Math<V, double> {
  static double exp(double x) { return ::exp(x); }
  static double expm1(double x) { return ::expm1(x); }
  static double log(double x) { return ::log(x); }
  static double log1p(double x) { return ::log1p(x); }
  static double tanh(double x) { return ::tanh(x); }
  static double erfc(double x) { return ::erfc(x); }
  static double abs(double x) { return ::fabs(x); }
};

/// 1 / (1 + exp(-z)) without overflow and without cancellation at either end.
template <class V> inline typename V::Scalar sigmoid(typename V::Scalar z) {
  using T = typename V::Scalar;
  const T e = Math<V>::exp(-Math<V>::abs(z));
  return (z < T(0) ? e : T(1)) / (T(1) + e);
}

} // namespace pyengine::ops
