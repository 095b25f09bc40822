// The functions of the vector types F (float) and D (double), for the file that includes this after their definition.
#pragma once

#include "functions.hpp"
#include "ops/math.inl.hpp"

namespace {

template <class V, V (*f)(V)> void apply(std::size_t n, const typename V::Scalar* x, typename V::Scalar* y) {
  using namespace pyengine::ops;
  for (std::size_t i = 0; i < n; i += V::lanes) {
    const auto left = static_cast<std::ptrdiff_t>(n - i);
    store_part(f(load_part(x + i, left, V::zero())), y + i, left);
  }
}

template <class F, class D> constexpr elementary::Functions all(const char* isa, bool (*available)()) {
  using M = pyengine::ops::Math<F>;
  using N = pyengine::ops::Math<D>;
  return {isa,
          available,
          {apply<F, M::exp>, apply<F, M::expm1>, apply<F, M::log>, apply<F, M::log1p>, apply<F, M::tanh>,
           apply<F, M::erfc>},
          {apply<D, N::exp>, apply<D, N::expm1>, apply<D, N::log>, apply<D, N::log1p>, apply<D, N::tanh>,
           apply<D, N::erfc>}};
}

} // namespace
