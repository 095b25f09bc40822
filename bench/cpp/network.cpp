// The whole network: all per-loss gradients and their weighted sum in one call, or the sum alone.
#include "network.hpp"

#include "run.hpp"
#include "sparse_network.hpp"

namespace pyengine::bench {
namespace {

enum class Want { per_loss_and_summed, summed };

template <class T> struct NetworkPass {
  Network network;
  int batch;
  Numbers<T> params, x, first_target, values;
  std::vector<std::int64_t> classes;
  std::vector<Numbers<T>> per_loss;
  Numbers<T> summed;
  std::vector<double> losses;
  GradientCall<T> call{};

  NetworkPass(const Example& e, Want want, Loss first)
      : network(make_net(e, first)), batch(e.batch), params(sparse_parameters<T>(net())),
        x(whole<T>(to_size(e.batch) * to_size(e.n_in), 2)),
        first_target(whole<T>(to_size(e.batch) * to_size(e.classes.back()), 3)),
        values(whole<T>(to_size(e.batch) * to_size(e.values.back()), 4)), summed(net().size), losses(2) {
    for (int i = 0; i < batch; ++i) classes.push_back(i % e.classes.back());
    const bool by_class = first == Loss::softmax_cross_entropy;
    call.params = params.data();
    call.x = x.data();
    call.batch = batch;
    call.targets = {{by_class ? classes.data() : nullptr, by_class ? nullptr : first_target.data(), nullptr, divisor},
                    {nullptr, values.data(), nullptr, divisor}};
    if (want == Want::per_loss_and_summed)
      for (std::size_t k = 0; k < 2; ++k) {
        per_loss.emplace_back(net().trunk_size + net().head_size(k));
        call.per_loss.push_back(per_loss[k].data());
      }
    call.summed = summed.data();
    call.losses = losses.data();
  }

  // A power of two keeps everything exact.
  static constexpr double divisor = 1024;

  const Net& net() const { return network.net(); }
  void run() { network.gradients(call); }

  double flops(Want want) const {
    return make_plan(net(), kernels().of<T>(), batch, want == Want::summed ? Wanted::summed : Wanted::per_loss).flops;
  }
};

/// Compares one layer's gradient, weight at `weight` and bias at `bias`, with the sum of the images.
template <class T> bool agrees(const T* weight, const T* bias, const Image& image) {
  const Layer& layer = *image.layer;
  return times(layer.n_out, layer.n_in, weight, layer_vector(layer)) == image.weight &&
         std::equal(image.bias.begin(), image.bias.end(), bias,
                    [](double a, T b) { return a == static_cast<double>(b); });
}

void add_scaled(std::vector<double>& to, double factor, const std::vector<double>& from) {
  to.resize(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) to[i] += factor * from[i];
}

/// With the absolute error in the softmax's place, whose derivatives are whole: compares every gradient with ==.
template <class T> void check(const Example& e, Want want) {
  NetworkPass<T> pass(e, want, Loss::mae);
  const Net& net = pass.net();
  pass.run();
  std::vector<double> expected_losses(2);
  std::vector<std::vector<Image>> routes;
  for (std::size_t k = 0; k < 2; ++k)
    routes.push_back(
        SparseRoute<T>(net, k, pass.params.data(), pass.x.data(), pass.batch)
            .images(k == 0 ? pass.first_target.data() : pass.values.data(), 1 / pass.divisor, &expected_losses[k]));

  require("a loss", [&] { return pass.losses == expected_losses; }, pass.losses[1]);
  for (std::size_t k = 0; k < pass.per_loss.size(); ++k) {
    T* const gradient = pass.per_loss[k].data();
    for (const Image& image : routes[k]) {
      const bool in_trunk = image.layer->weight < net.trunk_size;
      const std::size_t shift = in_trunk ? 0 : net.head_begin(k) - net.trunk_size;
      T* const weight = gradient + (image.layer->weight - shift);
      require(
          "a per-loss gradient", [&] { return agrees(weight, gradient + (image.layer->bias - shift), image); },
          *weight);
    }
  }
  auto require_sum = [&](const Image& image) {
    T* const weight = pass.summed.data() + image.layer->weight;
    require(
        "the summed gradient", [&] { return agrees(weight, pass.summed.data() + image.layer->bias, image); }, *weight);
  };
  for (std::size_t k = 0; k < 2; ++k)
    for (const Image& image : routes[k]) {
      const bool in_trunk = image.layer->weight < net.trunk_size;
      if (in_trunk && k == 1) continue;
      Image sum{image.layer, {}, {}};
      for (std::size_t s = 0; s < 2; ++s)
        for (const Image& part : routes[s])
          if (part.layer == image.layer) {
            add_scaled(sum.weight, net.heads[s].weight, part.weight);
            add_scaled(sum.bias, net.heads[s].weight, part.bias);
          }
      require_sum(sum);
    }
}

template <class T> std::unique_ptr<NetworkPass<T>> checked(const Example& e, Want want) {
  check<T>(e, want);
  return std::make_unique<NetworkPass<T>>(e, want, Loss::softmax_cross_entropy);
}

void add_network(const Example& e, Want want) {
  add(std::string("network/") + e.name + (want == Want::summed ? "/summed" : "/per-loss+summed"),
      [=]<class T>(benchmark::State& state, const Setting& on) {
        auto& pass = kept<NetworkPass<T>>(on.name, [&] { return checked<T>(e, want); });
        measure<T>(state, on, {pass.flops(want), 0}, [&] { pass.run(); });
      });
}

} // namespace

void add_networks() {
  for (const Example& e : examples)
    for (const Want want : {Want::per_loss_and_summed, Want::summed}) add_network(e, want);
}

} // namespace pyengine::bench
