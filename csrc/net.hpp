// The shape of a network, and where its parameters lie in the flat vector:
// trunk layers, then each head's layers; of each layer the weight (n_out, n_in), then the bias (n_out).
#pragma once

#include <cstddef>
#include <vector>

#include "kinds.hpp"

namespace pyengine {

struct Layer {
  int n_in, n_out;
  Activation activation;
  double slope;
  bool has_bias;
  std::size_t weight, bias; // offsets into the flat vector

  std::size_t weight_size() const { return static_cast<std::size_t>(n_in) * static_cast<std::size_t>(n_out); }
  std::size_t size() const { return weight_size() + (has_bias ? static_cast<std::size_t>(n_out) : 0); }
};

struct Head {
  std::vector<Layer> layers;
  Loss loss;
  Reduction reduction;
  double label_smoothing, delta;
  double weight;

  int n_out() const { return layers.back().n_out; }
};

struct Net {
  int n_in;
  std::vector<Layer> trunk;
  std::vector<Head> heads;
  std::size_t trunk_size = 0;

  /// Assigns the offsets; call once, when all layers are in place.
  void lay_out() {
    std::size_t next = 0;
    auto place = [&next](Layer& layer) {
      layer.weight = next;
      layer.bias = next + layer.weight_size();
      next += layer.size();
    };
    for (Layer& layer : trunk) place(layer);
    trunk_size = next;
    for (Head& head : heads)
      for (Layer& layer : head.layers) place(layer);
    size = next;
  }

  std::size_t size = 0;

  /// Offset of a head's first parameter. A per-loss gradient holds the trunk, then that head:
  /// an offset o of the head lies there at trunk_size + (o - head_begin).
  std::size_t head_begin(std::size_t head) const { return heads[head].layers.front().weight; }
  std::size_t head_size(std::size_t head) const {
    return (head + 1 < heads.size() ? head_begin(head + 1) : size) - head_begin(head);
  }
};

} // namespace pyengine
