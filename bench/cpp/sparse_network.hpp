// A network whose gradients are exact, evaluated by their definition at a small part of the cost: each unit reads four
// inputs with weight ±1, all numbers are small and whole, and both losses have whole derivatives.
#pragma once

#include <cmath>

#include "exact.hpp"
#include "networks.hpp"

namespace pyengine::bench {

constexpr int inputs_of_a_unit = 4;

template <class T> Numbers<T> sparse_parameters(const Net& net) {
  std::mt19937 random(1);
  Numbers<T> params(net.size);
  auto fill = [&](const Layer& layer) {
    for (int i = 0; i < layer.n_out; ++i) {
      T* row = params.data() + layer.weight + std::ptrdiff_t(i) * layer.n_in;
      for (int j = 0; j < inputs_of_a_unit; ++j) row[random() % to_size(layer.n_in)] = random() % 2 ? T(1) : T(-1);
      if (layer.has_bias) params[layer.bias + to_size(i)] = static_cast<T>(static_cast<int>(random() % 3) - 1);
    }
  };
  for (const Layer& layer : net.trunk) fill(layer);
  for (const Head& head : net.heads)
    for (const Layer& layer : head.layers) fill(layer);
  return params;
}

template <class T> Numbers<T> whole(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  Numbers<T> numbers(count);
  for (T& x : numbers) x = static_cast<T>(static_cast<int>(random() % 5) - 2);
  return numbers;
}

/// The gradients of one loss, layer by layer, as what they make of a random vector: dW·v and db.
struct Image {
  const Layer* layer;
  std::vector<double> weight, bias;
};

inline std::vector<double> layer_vector(const Layer& layer) { return random_vector(layer.n_in, 8); }

/// One route through the network, trunk then one head, in textbook form over the weights that are not zero.
template <class T> class SparseRoute {
 public:
  SparseRoute(const Net& net, std::size_t head, const T* params, const T* x, int batch)
      : batch_(batch), params_(params), head_(net.heads[head]) {
    for (const Layer& layer : net.trunk) layers_.push_back(&layer);
    for (const Layer& layer : head_.layers) layers_.push_back(&layer);
    h_.emplace_back(x, x + std::ptrdiff_t(batch) * net.n_in);
    for (const Layer* layer : layers_) forward(*layer);
  }

  /// From ∂l/∂z = coefficient·(2(z - y), or sign(z - y)) down to the first layer.
  std::vector<Image> images(const T* target, double coefficient, double* loss) {
    std::vector<double> delta(h_.back().size());
    *loss = 0;
    for (std::size_t i = 0; i < delta.size(); ++i) {
      const double e = h_.back()[i] - static_cast<double>(target[i]);
      const bool squared = head_.loss == Loss::mse;
      delta[i] = coefficient * (squared ? 2 * e : (e > 0) - (e < 0));
      *loss += coefficient * (squared ? e * e : std::abs(e));
    }
    std::vector<Image> all;
    for (std::size_t l = layers_.size(); l-- > 0;) {
      const Layer& layer = *layers_[l];
      if (layer.activation == Activation::relu)
        for (std::size_t i = 0; i < delta.size(); ++i) delta[i] = h_[l + 1][i] > 0 ? delta[i] : 0;
      const auto hv = times(batch_, layer.n_in, h_[l].data(), layer_vector(layer));
      all.push_back({&layer, transposed_times(batch_, layer.n_out, delta.data(), hv),
                     transposed_times(batch_, layer.n_out, delta.data(), std::vector<double>(to_size(batch_), 1.0))});
      if (l > 0) delta = backward(layer, delta);
    }
    return all;
  }

 private:
  template <class Visit> void each_weight(const Layer& layer, Visit visit) const {
    const T* weight = params_ + layer.weight;
    for (int i = 0; i < layer.n_out; ++i)
      for (int j = 0; j < layer.n_in; ++j, ++weight)
        if (*weight != T(0)) visit(to_size(i), to_size(j), static_cast<double>(*weight));
  }

  void forward(const Layer& layer) {
    const std::vector<double>& x = h_.back();
    const std::size_t n_in = to_size(layer.n_in), n_out = to_size(layer.n_out), batch = to_size(batch_);
    std::vector<double> z(batch * n_out);
    for (std::size_t i = 0; i < z.size(); ++i) z[i] = static_cast<double>(params_[layer.bias + i % n_out]);
    each_weight(layer, [&](std::size_t i, std::size_t j, double w) {
      for (std::size_t r = 0; r < batch; ++r) z[r * n_out + i] += w * x[r * n_in + j];
    });
    if (layer.activation == Activation::relu)
      for (double& number : z) number = number > 0 ? number : 0;
    h_.push_back(std::move(z));
  }

  std::vector<double> backward(const Layer& layer, const std::vector<double>& delta) const {
    const std::size_t n_in = to_size(layer.n_in), n_out = to_size(layer.n_out), batch = to_size(batch_);
    std::vector<double> below(batch * n_in);
    each_weight(layer, [&](std::size_t i, std::size_t j, double w) {
      for (std::size_t r = 0; r < batch; ++r) below[r * n_in + j] += w * delta[r * n_out + i];
    });
    return below;
  }

  int batch_;
  const T* params_;
  const Head& head_;
  std::vector<const Layer*> layers_;
  std::vector<std::vector<double>> h_;
};

} // namespace pyengine::bench
