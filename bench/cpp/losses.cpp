// The losses with their gradients, by rows of 10 and of 1000 outputs.
#include <cmath>
#include <limits>

#include "exact.hpp"
#include "run.hpp"

namespace pyengine::bench {
namespace {

using Exact = long double;

constexpr double huber_delta = 0.5;

template <class T> struct LossPass {
  Loss kind;
  int rows, n_out;
  Numbers<T> z, y, delta;
  std::vector<std::int64_t> classes;
  std::vector<double> coefficient, losses;

  LossPass(Loss which, int row_count, int width)
      : kind(which), rows(row_count), n_out(width), z(dyadic<T>(to_size(rows) * to_size(n_out), 1)),
        y(dyadic<T>(z.size(), 2)), delta(z.size()), coefficient(to_size(rows), 1.0), losses(to_size(rows)) {
    for (int i = 0; i < rows; ++i) classes.push_back((7 * i) % n_out);
    if (kind == Loss::binary_cross_entropy || kind == Loss::clipped_binary_cross_entropy)
      for (T& target : y) target = target > T(0) ? T(1) : T(0);
  }

  bool has_classes() const { return kind == Loss::softmax_cross_entropy || kind == Loss::clipped_cross_entropy; }

  void run() {
    kernels().of<T>().loss({kind, 0, huber_delta, rows, n_out, z.data(), has_classes() ? classes.data() : nullptr,
                            has_classes() ? nullptr : y.data(), coefficient.data(), 1.0, delta.data(), losses.data()});
  }
};

/// ∂l/∂z_j by definition, and its error bound in units of u: docs/tolerances.md, section 4, with z exact. No p comes
/// near a clip bound here, so both cross-entropies are the same function.
struct Value {
  Exact d, error;
};

template <class T> void define_softmax(const LossPass<T>& p, int row, std::vector<Value>& values) {
  const T* z = p.z.data() + std::ptrdiff_t(row) * p.n_out;
  const Exact n = p.n_out, max = *std::max_element(z, z + p.n_out);
  Exact sum = 0, spread = 0;
  for (int j = 0; j < p.n_out; ++j) sum += std::exp(z[j] - max);
  for (int j = 0; j < p.n_out; ++j) spread += std::exp(z[j] - max) / sum * (max - z[j] + 8);
  for (int j = 0; j < p.n_out; ++j) {
    const Exact m = z[j] - max, share = std::exp(m) / sum, y = p.classes[to_size(row)] == j;
    const Exact log_error = -m - std::log(share) + n + 8 * std::log(n) + 18 + spread;
    const Exact division = p.kind == Loss::clipped_cross_entropy ? (3 * n + 16) * share + 8 * (share + y) : 0;
    values[to_size(j)] = {share - y, share * log_error + 4 * (share + y) + division};
  }
}

template <class T> Value define(const LossPass<T>& p, std::size_t i) {
  const Exact z = p.z[i], y = p.y[i], e = z - y;
  switch (p.kind) {
  case Loss::mse:
    return {2 * e, 0};
  case Loss::mae:
    return {Exact((e > 0) - (e < 0)), 0};
  case Loss::huber:
    return {std::clamp(e, Exact(-huber_delta), Exact(huber_delta)), 0};
  case Loss::clipped_binary_cross_entropy:
  case Loss::binary_cross_entropy: {
    const Exact s = 1 / (1 + std::exp(-z));
    return {s - y, 2 * (4 * s + 7 * s * (1 - s)) + 4 * (s + y)};
  }
  default:
    throw WrongAnswer("a loss without definition");
  }
}

template <class T> bool holds(const LossPass<T>& p) {
  constexpr Exact u = std::numeric_limits<T>::epsilon() / 2;
  bool within = true;
  std::vector<Value> values(to_size(p.n_out));
  for (int row = 0; row < p.rows; ++row) {
    const std::size_t begin = to_size(row) * to_size(p.n_out);
    if (p.has_classes()) define_softmax(p, row, values);
    for (std::size_t j = 0; j < values.size(); ++j) {
      const Value v = p.has_classes() ? values[j] : define(p, begin + j);
      within = within && std::abs(static_cast<Exact>(p.delta[begin + j]) - v.d) <= u * v.error;
    }
  }
  return within;
}

template <class T> std::unique_ptr<LossPass<T>> checked(Loss kind, int rows, int n_out) {
  auto pass = std::make_unique<LossPass<T>>(kind, rows, n_out);
  pass->run();
  require("the gradient of a loss", [&] { return holds(*pass); }, pass->delta[3]);
  return pass;
}

} // namespace

void add_losses() {
  const std::pair<const char*, Loss> all[] = {{"softmax_cross_entropy", Loss::softmax_cross_entropy},
                                              {"clipped_cross_entropy", Loss::clipped_cross_entropy},
                                              {"binary_cross_entropy", Loss::binary_cross_entropy},
                                              {"clipped_binary_cross_entropy", Loss::clipped_binary_cross_entropy},
                                              {"mse", Loss::mse},
                                              {"mae", Loss::mae},
                                              {"huber", Loss::huber}};
  for (const auto& [name, kind] : all)
    for (const auto& [rows, n_out] : {std::pair{256, 10}, {16, 1000}})
      add(std::string("loss/") + name + "/" + std::to_string(rows) + "x" + std::to_string(n_out),
          [=, kind = kind, rows = rows, n_out = n_out]<class T>(benchmark::State& state, const Setting& on) {
            auto& pass = kept<LossPass<T>>(on.name, [&] { return checked<T>(kind, rows, n_out); });
            measure<T>(state, on, {0, double(pass.z.size())}, [&] { pass.run(); });
          },
          {1});
}

} // namespace pyengine::bench
