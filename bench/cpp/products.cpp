// The three products of a layer, alone: on the layers of the four networks, and square.
#include <set>
#include <tuple>

#include "layer.hpp"
#include "networks.hpp"
#include "run.hpp"

namespace pyengine::bench {
namespace {

using Shape = std::tuple<int, int, int>; // batch, n_in, n_out

std::vector<Shape> shapes() {
  std::vector<Shape> all;
  std::set<Shape> seen;
  auto add = [&](int batch, int n_in, int n_out) {
    const Shape shape{batch, n_in, n_out};
    if (seen.insert(shape).second) all.push_back(shape);
  };
  for (const Example& e : examples) {
    const Net net = make_net(e);
    for (const Layer& layer : net.trunk) add(e.batch, layer.n_in, layer.n_out);
    for (const Head& head : net.heads)
      for (const Layer& layer : head.layers) add(e.batch, layer.n_in, layer.n_out);
  }
  for (const int n : {128, 256, 512, 1024, 2048}) add(n, n, n);
  return all;
}

template <class T> std::unique_ptr<LayerPass<T>> checked(Shape shape) {
  const auto [batch, n_in, n_out] = shape;
  auto pass = std::make_unique<LayerPass<T>>(batch, n_in, n_out, false);
  pass->run({.pack = true, .forward = true, .backward = true, .weights = true});
  require("X·Wᵀ", [&] { return forward_holds(*pass); }, pass->z[pass->z.size() / 2]);
  require("D·W", [&] { return backward_holds(*pass); }, pass->dx[pass->dx.size() / 2]);
  require("Dᵀ·X", [&] { return weights_hold(*pass); }, pass->dw[pass->dw.size() / 2]);
  return pass;
}

void add_product(const char* name, Shape shape, Parts parts) {
  const auto [batch, n_in, n_out] = shape;
  const std::string size = std::to_string(batch) + "x" + std::to_string(n_in) + "x" + std::to_string(n_out);
  add(
      std::string(name) + "/" + size,
      [=]<class T>(benchmark::State& state, const Setting& on) {
        auto& pass = kept<LayerPass<T>>(on.name, [&] { return checked<T>(shape); });
        measure<T>(state, on, {pass.flops(), 0}, [&] { pass.run(parts); });
      },
      thread_counts(batch, n_in, n_out));
}

} // namespace

void add_products() {
  for (const Shape& shape : shapes()) {
    add_product("product/forward", shape, {.forward = true});
    add_product("product/pack+forward", shape, {.pack = true, .forward = true});
    add_product("product/backward", shape, {.backward = true});
    add_product("product/pack+backward", shape, {.pack = true, .backward = true});
    add_product("product/weights", shape, {.weights = true});
  }
}

} // namespace pyengine::bench
