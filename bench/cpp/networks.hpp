// The four networks that the project's measurements speak of.
#pragma once

#include <string>
#include <vector>

#include "net.hpp"

namespace pyengine::bench {

struct Example {
  const char* name;
  int batch, n_in;
  std::vector<int> trunk, classes, values; // widths; the heads end in a softmax and in values
};

inline const std::vector<Example> examples = {
    {"tiny", 32, 16, {32}, {4}, {1}},
    {"small", 128, 64, {128, 128}, {10}, {1}},
    {"medium", 256, 784, {512, 512}, {128, 10}, {128, 1}},
    {"large", 1024, 1024, {2048, 2048}, {512, 1000}, {512, 64}},
};

/// ReLU between layers, the heads' last layer linear, the second loss with weight 1/2.
inline Net make_net(const Example& e, Loss first = Loss::softmax_cross_entropy) {
  auto layers = [](int n_in, const std::vector<int>& widths, bool ends) {
    std::vector<Layer> all;
    for (const int n_out : widths) {
      all.push_back({n_in, n_out, Activation::relu, 0, true, 0, 0});
      n_in = n_out;
    }
    if (ends) all.back().activation = Activation::linear;
    return all;
  };
  Net net;
  net.n_in = e.n_in;
  net.trunk = layers(e.n_in, e.trunk, false);
  net.heads = {Head{layers(e.trunk.back(), e.classes, true), first, Reduction::mean, 0, 0, 1.0},
               Head{layers(e.trunk.back(), e.values, true), Loss::mse, Reduction::mean, 0, 0, 0.5}};
  net.lay_out();
  return net;
}

} // namespace pyengine::bench
