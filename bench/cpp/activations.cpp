// The activations and their derivatives, on numbers that stay in the first-level cache.
#include <cmath>
#include <limits>

#include "exact.hpp"
#include "run.hpp"

namespace pyengine::bench {
namespace {

using Exact = long double;

constexpr Exact slope = 0.25L;

Exact sigmoid(Exact z) { return 1 / (1 + std::exp(-z)); }
Exact normal_cdf(Exact z) { return std::erfc(-z / std::sqrt(2.0L)) / 2; }
Exact normal_pdf(Exact z) { return std::exp(-z * z / 2) / std::sqrt(2 * std::acos(-1.0L)); }
Exact gelu_argument(Exact z) { return std::sqrt(8 / std::acos(-1.0L)) * (z + 0.044715L * z * z * z); }
Exact gelu_slope(Exact z) { return std::sqrt(8 / std::acos(-1.0L)) * (1 + 3 * 0.044715L * z * z); }

/// f(z) and f'(z) by definition, and their error bounds E_f and E_f' in units of u: docs/tolerances.md, section 3.
struct Value {
  Exact f, df, f_error, df_error;
};

Value define(Activation kind, Exact z) {
  const Exact s = sigmoid(z), size = std::abs(z), e = std::exp(z);
  const Exact tanh_half = std::tanh(gelu_argument(z) / 2);
  switch (kind) {
  case Activation::linear:
    return {z, 1, 0, 0};
  case Activation::relu:
    return {z > 0 ? z : 0, Exact(z > 0), 0, 0};
  case Activation::leaky_relu:
    return z > 0 ? Value{z, 1, 0, 0} : Value{slope * z, slope, 2 * slope * size, slope};
  case Activation::elu: {
    if (z > 0) return {z, 1, 0, 0};
    const Exact f = slope * (e - 1), error = 8 * slope * e + 11 * std::abs(f);
    return {f, slope * e, error, error + 10 * slope * e + 2 * slope};
  }
  case Activation::tanh: {
    const Exact h = std::tanh(z);
    return {h, 1 - h * h, 8 * std::abs(h), 3 + 16 * h * h};
  }
  case Activation::sigmoid:
    return {s, s * (1 - s), 4 * s + 7 * s * (1 - s), 4 * s + 14 * s * (1 - s)};
  case Activation::softplus: {
    const Exact tail = std::log1p(std::exp(-size)), f = (z > 0 ? z : 0) + tail, error = 11 * f + 7 * tail;
    return {f, s, error, s * (20 + error + std::log1p(std::exp(-z)))};
  }
  case Activation::silu:
    return {z * s, s + z * s * (1 - s), 13 * size * s, 15 * s * (1 + size)};
  case Activation::gelu: {
    const Exact df = normal_cdf(z) + z * normal_pdf(z);
    return {z * normal_cdf(z), df, 8 * size, 7 + 5 * std::abs(df)};
  }
  case Activation::gelu_tanh: {
    // With v = gelu_argument / 2: f = z(1 + tanh v)/2.
    const Exact dv = gelu_slope(z) / 2;
    return {z * (1 + tanh_half) / 2, (1 + tanh_half) / 2 + z * (1 - tanh_half * tanh_half) * dv / 2, 8 * size,
            6 + 12 * std::min(size, Exact(9)) * dv};
  }
  }
  throw WrongAnswer("an activation without definition");
}

template <class T> struct Row {
  Numbers<T> z = dyadic<T>(4096, 1), h = z, g = z;

  void forward(Activation kind) { h = z, run_forward(kind); }
  void run_forward(Activation kind) {
    kernels().of<T>().activation_forward(kind, double(slope), z.size(), z.data(), h.data());
  }
  void backward(Activation kind, int streams = 1) {
    kernels().of<T>().activation_backward(kind, double(slope), z.size(), z.data(), h.data(), streams, g.data(), 0);
  }

  bool within(Activation kind, const Numbers<T>& got, bool derivative) const {
    constexpr Exact u = std::numeric_limits<T>::epsilon() / 2;
    bool holds = true;
    for (std::size_t i = 0; i < z.size(); ++i) {
      const Value v = define(kind, static_cast<Exact>(z[i]));
      const Exact error = std::abs(static_cast<Exact>(got[i]) - (derivative ? v.df : v.f));
      holds = holds && error <= u * (derivative ? v.df_error + 2 * std::abs(v.df) : v.f_error);
    }
    return holds;
  }
};

template <class T> std::unique_ptr<Row<T>> checked(Activation kind) {
  auto row = std::make_unique<Row<T>>();
  row->forward(kind);
  require("an activation", [&] { return row->within(kind, row->h, false); }, row->h[100]);
  std::fill(row->g.begin(), row->g.end(), T(1));
  row->backward(kind);
  require("a derivative", [&] { return row->within(kind, row->g, true); }, row->g[100]);
  // Numbers that repeated products with a derivative turn neither huge nor subnormal.
  std::fill(row->g.begin(), row->g.end(), T(0));
  return row;
}

} // namespace

void add_activations() {
  const std::pair<const char*, Activation> all[] = {{"relu", Activation::relu},
                                                    {"leaky_relu", Activation::leaky_relu},
                                                    {"elu", Activation::elu},
                                                    {"tanh", Activation::tanh},
                                                    {"sigmoid", Activation::sigmoid},
                                                    {"softplus", Activation::softplus},
                                                    {"silu", Activation::silu},
                                                    {"gelu", Activation::gelu},
                                                    {"gelu_tanh", Activation::gelu_tanh}};
  for (const auto& [name, kind] : all)
    for (const bool backward : {false, true})
      add(std::string("activation/") + name + (backward ? "/backward" : "/forward"),
          [=, kind = kind]<class T>(benchmark::State& state, const Setting& on) {
            auto& row = kept<Row<T>>(on.name, [&] { return checked<T>(kind); });
            measure<T>(state, on, {0, double(row.z.size())},
                       [&] { backward ? row.backward(kind) : row.run_forward(kind); });
          },
          {1});
}

} // namespace pyengine::bench
