// The activations and losses by number: the one thing that every part of the kernel shares.
#pragma once

namespace pyengine {

enum class Activation : unsigned char { linear, relu, leaky_relu, elu, tanh, sigmoid, softplus, silu, gelu, gelu_tanh };

enum class Loss : unsigned char {
  softmax_cross_entropy,
  clipped_cross_entropy,
  binary_cross_entropy,
  mse,
  mae,
  huber,
  clipped_binary_cross_entropy
};

enum class Reduction : unsigned char { mean, sum, weighted_mean };

/// Whether f'(z) needs z itself; the others recover it from h = f(z), so that z and h may share memory.
constexpr bool derivative_needs_z(Activation kind) {
  switch (kind) {
  case Activation::leaky_relu: // a negative slope turns the sign
  case Activation::elu:
  case Activation::softplus:
  case Activation::silu:
  case Activation::gelu:
  case Activation::gelu_tanh:
    return true;
  default:
    return false;
  }
}

} // namespace pyengine
