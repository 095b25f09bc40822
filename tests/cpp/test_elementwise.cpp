#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <utility>

#include "tables.hpp"

using namespace pyengine;

namespace {

constexpr Activation activations[] = {
    Activation::linear,  Activation::relu,     Activation::leaky_relu, Activation::elu,  Activation::tanh,
    Activation::sigmoid, Activation::softplus, Activation::silu,       Activation::gelu, Activation::gelu_tanh};

template <class T> struct Value {
  T h, df;
};

template <class T> Value<T> evaluate(const KernelTable<T>& table, Activation kind, T z, double slope = 0.25) {
  T h = z;
  table.activation_forward(kind, slope, 1, &z, &h);
  T g = 1;
  table.activation_backward(kind, slope, 1, &z, &h, 1, &g, 1);
  return {h, g};
}

} // namespace

TEST_CASE_TEMPLATE("derivatives at a kink are the ones from the left", T, float, double) {
  for (const KernelTable<T>& table : all_tables<T>())
    for (const T zero : {T(0), -T(0)}) {
      CHECK(evaluate(table, Activation::relu, zero).df == T(0));
      CHECK(evaluate(table, Activation::leaky_relu, zero).df == T(0.25));
      CHECK(evaluate(table, Activation::elu, zero).df == T(0.25));
    }
}

TEST_CASE_TEMPLATE("a negative slope keeps its derivative", T, float, double) {
  for (const KernelTable<T>& table : all_tables<T>()) {
    CHECK(evaluate(table, Activation::leaky_relu, T(-2), -0.5).h == T(1));
    CHECK(evaluate(table, Activation::leaky_relu, T(-2), -0.5).df == T(-0.5));
  }
}

TEST_CASE_TEMPLATE("no activation turns a finite number into NaN or infinity", T, float, double) {
  const T most = std::numeric_limits<T>::max();
  for (const KernelTable<T>& table : all_tables<T>())
    for (const Activation kind : activations)
      for (const T z : {T(0), T(1e-30), T(5), T(51), T(1e4), T(1e19), T(1e30), most})
        for (const T sign : {T(1), T(-1)}) {
          const auto [h, df] = evaluate(table, kind, sign * z);
          INFO(table.isa << " " << int(kind) << " at " << sign * z);
          CHECK(std::isfinite(h));
          CHECK(std::isfinite(df));
        }
}

TEST_CASE_TEMPLATE("NaN passes through every activation", T, float, double) {
  for (const KernelTable<T>& table : all_tables<T>())
    for (const Activation kind : activations)
      CHECK(std::isnan(evaluate(table, kind, std::numeric_limits<T>::quiet_NaN()).h));
}

TEST_CASE_TEMPLATE("one number that is not finite is seen wherever it stands", T, float, double) {
  using Limits = std::numeric_limits<T>;
  for (const KernelTable<T>& table : all_tables<T>())
    for (const std::size_t count : {1, 2, 15, 16, 17, 63, 64, 65, 200}) {
      std::vector<T> x(count, Limits::max()); // of which the sum would overflow
      CHECK(table.all_finite(count, x.data()));
      for (T& number : x)
        for (const T bad : {Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN()}) {
          const T before = std::exchange(number, bad);
          CHECK(!table.all_finite(count, x.data()));
          number = before;
        }
    }
}

TEST_CASE_TEMPLATE("the derivative multiplies every stream alike and leaves the space between them", T, float, double) {
  constexpr std::size_t count = 300, stride = 310;
  const auto z = dyadic<T>(count, 1);
  for (const KernelTable<T>& table : all_tables<T>())
    for (const Activation kind : activations) {
      std::vector<T> h = z, g(2 * stride, T(1));
      table.activation_forward(kind, 0.25, count, z.data(), h.data());
      table.activation_backward(kind, 0.25, count, z.data(), h.data(), 2, g.data(), stride);
      // Bits, wherever a number stands.
      for (std::size_t i = 0; i < count; ++i) CHECK(h[i] == evaluate(table, kind, z[i]).h);
      for (std::size_t i = 0; i < stride; ++i) {
        const T one = i < count ? evaluate(table, kind, z[i]).df : T(1);
        CHECK(g[i] == one);
        CHECK(g[stride + i] == one);
      }
    }
}
