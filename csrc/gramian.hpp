// Inner products of the per-loss gradients over the trunk, two ways: from the gradients themselves, or from the rows of
// which they are made.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "pass.hpp"

namespace pyengine {

/// Sums of partial Gramians (lower triangles), one a task, added in the order of the tasks.
class PartialGramians {
 public:
  PartialGramians(std::size_t losses, std::size_t tasks) : losses_(losses), sums_(tasks * losses * losses) {}

  double* of(std::size_t task) { return sums_.data() + task * losses_ * losses_; }

  void finish(double* gramian) const {
    for (std::size_t i = 0; i < losses_; ++i)
      for (std::size_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (std::size_t at = i * losses_ + j; at < sums_.size(); at += losses_ * losses_) sum += sums_[at];
        gramian[i * losses_ + j] = gramian[j * losses_ + i] = sum;
      }
  }

 private:
  std::size_t losses_;
  std::vector<double> sums_;
};

/// From the gradients of a call that has computed them: block by block of the trunk's parameters.
template <class T> class GradientGramian {
 public:
  GradientGramian(const Net& net, const KernelTable<T>& kernels, const GradientCall<T>& call)
      : losses_(net.heads.size()), size_(net.trunk_size), kernels_(kernels), call_(call),
        partial_(losses_, static_cast<std::size_t>(tasks())) {}

  int tasks() const { return call_.gramian ? static_cast<int>((size_ + block - 1) / block) : 0; }

  void run(int task) {
    const std::size_t begin = static_cast<std::size_t>(task) * block;
    const std::size_t count = std::min(block, size_ - begin);
    double* to = partial_.of(static_cast<std::size_t>(task));
    const auto dots = [&](std::size_t i, std::size_t j) {
      return kernels_.dots(count, call_.per_loss[i] + begin, call_.per_loss[j] + begin);
    };
    if (losses_ == 1) to[0] = dots(0, 0).aa;
    // A pair gives its entries on the diagonal as well.
    for (std::size_t i = 1; i < losses_; ++i)
      for (std::size_t j = 0; j < i; ++j) {
        const Dots pair = dots(i, j);
        to[i * losses_ + i] = pair.aa;
        to[i * losses_ + j] = pair.ab;
        to[j * losses_ + j] = pair.bb;
      }
  }

  void finish() const {
    if (call_.gramian) partial_.finish(call_.gramian);
  }

 private:
  static constexpr std::size_t block = 16384;

  std::size_t losses_, size_;
  const KernelTable<T>& kernels_;
  const GradientCall<T>& call_;
  PartialGramians partial_;
};

/// From the rows: with dW_k = D_kᵀ·X, ⟨dW_k, dW_l⟩ = Σ_ij (X·Xᵀ)_ij·(D_k·D_lᵀ)_ij, and a bias adds 1 to every (X·Xᵀ)_ij
/// (its input is 1). No gradient is formed. Needs the whole batch in one chunk, forward and backward done.
template <class T> class RowGramian {
 public:
  /// Whether the products of rows take fewer operations than the gradients would.
  static bool is_cheaper(const Net& net, std::ptrdiff_t batch) {
    if (batch > chunk_rows) return false;
    const double b = static_cast<double>(batch), losses = static_cast<double>(net.heads.size());
    const double pairs = losses * (losses + 1) / 2;
    double by_rows = 0, by_gradients = 0;
    for (const Layer& layer : net.trunk) {
      by_rows += b * b * (layer.n_in + pairs * layer.n_out);
      by_gradients += (losses * b + pairs) * static_cast<double>(layer.weight_size());
    }
    return by_rows < by_gradients;
  }

  RowGramian(const Net& net, const Workspace<T>& workspace, const Pass<T>& pass, int rows)
      : kernels_(*workspace.kernels), pass_(pass), losses_(net.heads.size()), layers_(net.trunk.size()), rows_(rows),
        partial_(losses_, layers_ * static_cast<std::size_t>(blocks())) {
    for (std::size_t l = 0; l < layers_; ++l) {
      const Layer& layer = net.trunk[l];
      inputs_.push_back(place(layer.n_in));
      for (std::size_t k = 0; k < losses_; ++k) deltas_.push_back(place(layer.n_out));
    }
    memory_.resize(size_);
    const auto square = static_cast<std::size_t>(block) * static_cast<std::size_t>(rows);
    squares_.resize(2 * square * static_cast<std::size_t>(workspace.threads));
  }

  int pack_tasks() const { return static_cast<int>(layers_ * (1 + losses_)); }

  void pack(int task) {
    const auto l = static_cast<std::size_t>(task) / (1 + losses_),
               which = static_cast<std::size_t>(task) % (1 + losses_);
    const LayerPlan& p = pass_.layer(static_cast<int>(l));
    const auto pack = [&](int width, const T* from, std::size_t to) {
      kernels_.pack({width, rows_, from, true, memory_.data() + to}, 0, kernels_.pieces(width, rows_));
    };
    if (which == 0)
      pack(p.layer->n_in, pass_.input_of(static_cast<int>(l)), inputs_[l]);
    else
      pack(p.layer->n_out, pass_.delta_of(p, which - 1), deltas_[l * losses_ + which - 1]);
  }

  int tasks() const { return static_cast<int>(layers_) * blocks(); }

  void run(int task, int thread) {
    const auto l = static_cast<std::size_t>(task / blocks());
    const int begin = task % blocks() * block, count = std::min(block, rows_ - begin);
    const LayerPlan& p = pass_.layer(static_cast<int>(l));
    const Layer& layer = *p.layer;
    const auto square = static_cast<std::size_t>(block) * static_cast<std::size_t>(rows_);
    T* const inputs = squares_.data() + 2 * square * static_cast<std::size_t>(thread);
    T* const deltas = inputs + square;
    const auto used = static_cast<std::size_t>(count) * static_cast<std::size_t>(rows_);

    const auto outer = [&](int n, const T* a, std::size_t packed, T* to) {
      kernels_.product({count,
                        n,
                        rows_,
                        {a + static_cast<std::ptrdiff_t>(begin) * n, n, count, 0},
                        memory_.data() + packed,
                        {to, rows_, count, 0},
                        nullptr,
                        false},
                       pass_.scratch(thread));
    };
    outer(layer.n_in, pass_.input_of(static_cast<int>(l)), inputs_[l], inputs);
    if (layer.has_bias)
      for (std::size_t i = 0; i < used; ++i) inputs[i] += T(1);
    double* to = partial_.of(static_cast<std::size_t>(task));
    for (std::size_t i = 0; i < losses_; ++i)
      for (std::size_t j = 0; j <= i; ++j) {
        outer(layer.n_out, pass_.delta_of(p, i), deltas_[l * losses_ + j], deltas);
        to[i * losses_ + j] = kernels_.dots(used, inputs, deltas).ab;
      }
  }

  void finish(double* gramian) const { partial_.finish(gramian); }

 private:
  static constexpr int block = 32;

  int blocks() const { return (rows_ + block - 1) / block; }

  std::size_t place(int width) {
    const std::size_t at = size_;
    size_ += kernels_.packed_size(width, rows_);
    return at;
  }

  const KernelTable<T>& kernels_;
  const Pass<T>& pass_;
  std::size_t losses_, layers_;
  int rows_;
  PartialGramians partial_;
  std::vector<std::size_t> inputs_, deltas_; // where each packed operand begins
  std::size_t size_ = 0;
  std::vector<T> memory_, squares_;
};

} // namespace pyengine
