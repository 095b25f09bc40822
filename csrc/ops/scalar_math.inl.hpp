// One lane: the C library's functions. The naive table uses them, so that the tests have something to compare with.
// Templates over V for the reason given in gemm.inl.hpp: an inline std::exp(float) compiled here for AVX-512 could be
// linked into code that runs without it.
#pragma once

#include <math.h>

#include "lanes.inl.hpp"
#include "math.inl.hpp"

namespace pyengine::ops {

template <class V>
  requires(V::lanes == 1 && sizeof(typename V::Scalar) == sizeof(float))
struct Math<V> {
  static V exp(V x) { return {::expf(x.v)}; }
  static V expm1(V x) { return {::expm1f(x.v)}; }
  static V log(V x) { return {::logf(x.v)}; }
  static V log1p(V x) { return {::log1pf(x.v)}; }
  static V tanh(V x) { return {::tanhf(x.v)}; }
  static V erfc(V x) { return {::erfcf(x.v)}; }
};

template <class V>
  requires(V::lanes == 1 && sizeof(typename V::Scalar) == sizeof(double))
struct Math<V> {
  static V exp(V x) { return {::exp(x.v)}; }
  static V expm1(V x) { return {::expm1(x.v)}; }
  static V log(V x) { return {::log(x.v)}; }
  static V log1p(V x) { return {::log1p(x.v)}; }
  static V tanh(V x) { return {::tanh(x.v)}; }
  static V erfc(V x) { return {::erfc(x.v)}; }
};

/// 1 / (1 + exp(-z)) without overflow and without cancellation at either end.
template <Lanes V> [[gnu::noinline]] V sigmoid(V z) {
  const V one = V::broadcast(1), e = Math<V>::exp(-abs(z));
  return select(z < V::zero(), e, one) / (one + e);
}

} // namespace pyengine::ops
