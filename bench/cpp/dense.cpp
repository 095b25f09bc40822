// One dense layer, forward and backward: packing, X·Wᵀ + b, ReLU and its derivative, D·W, Dᵀ·X, Σ D.
#include "layer.hpp"
#include "run.hpp"

namespace pyengine::bench {
namespace {

template <class T> bool relu_holds(const LayerPass<T>& l, const Numbers<T>& delta) {
  bool holds = true;
  for (std::size_t i = 0; i < l.z.size(); ++i) {
    const bool on = l.z[i] > T(0);
    holds = holds && l.h[i] == (on ? l.z[i] : T(0)) && l.delta[i] == (on ? delta[i] : T(0));
  }
  return holds;
}

template <class T> bool bias_holds(const LayerPass<T>& l) {
  const std::vector<double> ones(to_size(l.batch), 1.0);
  const auto expected = transposed_times(l.batch, l.n_out, l.delta.data(), ones);
  return std::equal(l.db.begin(), l.db.end(), expected.begin(),
                    [](T a, double b) { return static_cast<double>(a) == b; });
}

constexpr Parts all{.pack = true, .forward = true, .activation = true, .backward = true, .weights = true};

template <class T> std::unique_ptr<LayerPass<T>> checked(int batch, int n_in, int n_out) {
  auto pass = std::make_unique<LayerPass<T>>(batch, n_in, n_out, true);
  const Numbers<T> before = pass->delta;
  pass->run(all);
  require("X·Wᵀ + b", [&] { return forward_holds(*pass); }, pass->z[pass->z.size() / 2]);
  require("ReLU", [&] { return relu_holds(*pass, before); }, pass->h[pass->h.size() / 2]);
  require("the derivative of ReLU", [&] { return relu_holds(*pass, before); }, pass->delta[pass->delta.size() / 2]);
  require("D·W", [&] { return backward_holds(*pass); }, pass->dx[pass->dx.size() / 2]);
  require("Dᵀ·X", [&] { return weights_hold(*pass); }, pass->dw[pass->dw.size() / 2]);
  require("Σ D", [&] { return bias_holds(*pass); }, pass->db[pass->db.size() / 2]);
  return pass;
}

} // namespace

void add_dense() {
  for (const auto& [batch, n_in, n_out] :
       {std::tuple{32, 16, 32}, {128, 128, 128}, {256, 784, 512}, {1024, 2048, 2048}})
    add(
        "dense/" + std::to_string(batch) + "x" + std::to_string(n_in) + "x" + std::to_string(n_out),
        [=, b = batch, k = n_in, n = n_out]<class T>(benchmark::State& state, const Setting& on) {
          auto& pass = kept<LayerPass<T>>(on.name, [&] { return checked<T>(b, k, n); });
          measure<T>(state, on, {3 * pass.flops(), 0}, [&] { pass.run(all); });
        },
        thread_counts(batch, n_in, n_out));
}

} // namespace pyengine::bench
