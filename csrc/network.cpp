#include "network.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "parallel.hpp"

namespace pyengine {
namespace {

// Below this, waking a second thread costs more than it brings.
constexpr double worth_a_thread = 5e5;

constexpr std::size_t gramian_block = 16384;

/// One chunk of rows of one call, cut into tasks: pack the weights; take each block of rows forward, through the losses
/// and back; then the weight gradients.
template <class T> class Pass {
 public:
  Pass(const Net& net, Workspace<T>& workspace, const T* params)
      : net_(net), w_(workspace), plan_(workspace.plan), kernels_(*workspace.kernels), params_(params) {}

  void set_chunk(const T* x, std::ptrdiff_t begin, int rows) {
    x_ = x;
    begin_ = begin;
    rows_ = rows;
  }

  int row_tasks() const { return (rows_ + plan_.row_block - 1) / plan_.row_block; }

  void pack(const PackTask& task) const {
    const LayerPlan& p = plan_.layers[static_cast<std::size_t>(task.layer)];
    const Layer& layer = *p.layer;
    const T* weight = params_ + layer.weight;
    if (task.forward)
      kernels_.pack({layer.n_in, layer.n_out, weight, true, w_.at(p.forward_weights)}, task.panel_begin,
                    task.panel_end);
    else
      kernels_.pack({layer.n_out, layer.n_in, weight, false, w_.at(p.backward_weights)}, task.panel_begin,
                    task.panel_end);
  }

  // ---- a block of rows ------------------------------------------------------------------------------------------

  struct Block {
    int begin, rows;
    T* scratch;
  };

  Block block(int task, int thread) const {
    const int begin = task * plan_.row_block;
    return {begin, std::min(plan_.row_block, rows_ - begin), w_.scratch(thread)};
  }

  /// Where the block's rows of a buffer (rows, n_out) begin.
  T* rows_of(std::size_t buffer, const LayerPlan& p, const Block& b) const {
    return w_.at(buffer) + static_cast<std::ptrdiff_t>(b.begin) * p.layer->n_out;
  }

  std::ptrdiff_t stream_stride(const LayerPlan& p) const {
    return static_cast<std::ptrdiff_t>(plan_.rows) * p.layer->n_out;
  }

  void forward_layer(const LayerPlan& p, const T* input, const Block& b) const {
    const Layer& layer = *p.layer;
    T* z = rows_of(p.z, p, b);
    kernels_.product({b.rows,
                      layer.n_in,
                      layer.n_out,
                      {input, layer.n_in, b.rows, 0},
                      w_.at(p.forward_weights),
                      {z, layer.n_out, b.rows, 0},
                      layer.has_bias ? params_ + layer.bias : nullptr,
                      false},
                     b.scratch);
    kernels_.activation_forward(layer.activation, layer.slope, count(p, b), z, rows_of(p.h, p, b));
  }

  /// Turns ∂L/∂h in the layer's delta into ∂L/∂z, for all its streams.
  void backward_activation(const LayerPlan& p, const Block& b) const {
    kernels_.activation_backward(p.layer->activation, p.layer->slope, count(p, b), rows_of(p.z, p, b),
                                 rows_of(p.h, p, b), p.streams, rows_of(p.delta, p, b), stream_stride(p));
  }

  /// From a layer's delta to ∂L/∂h of the layer below, `stream` being the first stream written there.
  void backward_layer(const LayerPlan& p, const LayerPlan& below, int stream, bool accumulate, const Block& b) const {
    const Layer& layer = *p.layer;
    T* to = rows_of(below.delta, below, b) + stream * stream_stride(below);
    kernels_.product({b.rows * p.streams,
                      layer.n_out,
                      layer.n_in,
                      {rows_of(p.delta, p, b), layer.n_out, b.rows, stream_stride(p)},
                      w_.at(p.backward_weights),
                      {to, layer.n_in, b.rows, stream_stride(below)},
                      nullptr,
                      accumulate},
                     b.scratch);
  }

  void forward(const Block& b) const {
    const T* input = x_ + static_cast<std::ptrdiff_t>(b.begin) * net_.n_in;
    const T* h = input;
    for (int i = 0; i < plan_.trunk_end(); ++i) h = step(i, h, b);
    const T* const shared = h;
    for (std::size_t k = 0; k < net_.heads.size(); ++k) {
      h = shared;
      for (int i = plan_.head_first[k]; i < plan_.head_end(k); ++i) h = step(i, h, b);
    }
  }

  void backward(const GradientCall<T>& call, const Block& b) const {
    const bool one_stream = plan_.wanted == Wanted::summed;
    for (std::size_t k = 0; k < net_.heads.size(); ++k) {
      const int first = plan_.head_first[k];
      int i = plan_.head_end(k) - 1;
      loss(call.targets[k], k, at(i), one_stream ? net_.heads[k].weight : 1.0, b);
      backward_activation(at(i), b);
      for (; i > first; --i) {
        backward_layer(at(i), at(i - 1), 0, false, b);
        backward_activation(at(i - 1), b);
      }
      if (plan_.trunk_end() > 0)
        backward_layer(at(first), at(plan_.trunk_end() - 1), one_stream ? 0 : static_cast<int>(k), one_stream && k > 0,
                       b);
    }
    for (int i = plan_.trunk_end() - 1; i >= 0; --i) {
      backward_activation(at(i), b);
      if (i > 0) backward_layer(at(i), at(i - 1), 0, false, b);
    }
  }

  void copy_outputs(const std::vector<T*>& outputs, const Block& b) const {
    for (std::size_t k = 0; k < net_.heads.size(); ++k) {
      const LayerPlan& p = at(plan_.head_end(k) - 1);
      const T* from = rows_of(p.h, p, b);
      std::copy(from, from + count(p, b), outputs[k] + (begin_ + b.begin) * p.layer->n_out);
    }
  }

  // ---- weight and bias gradients --------------------------------------------------------------------------------

  void weights(const GradientCall<T>& call, const WeightTask& task, bool first, bool last, int thread) const {
    const LayerPlan& p = plan_.layers[static_cast<std::size_t>(task.layer)];
    const Layer& layer = *p.layer;
    const std::size_t offset = task.bias ? layer.bias : layer.weight;
    const T* delta = w_.at(p.delta);

    // Where only the sum is wanted, the sum's own vector takes the one stream.
    T* const* grad = &call.summed;
    std::size_t grad_offset = offset;
    T* summed = nullptr;
    const double* weight = w_.weights.data();
    if (plan_.wanted == Wanted::per_loss) {
      grad = call.per_loss.data();
      if (p.head >= 0) {
        const auto k = static_cast<std::size_t>(p.head);
        grad += k;
        weight += k;
        grad_offset = net_.trunk_size + offset - net_.head_begin(k);
      }
      if (call.summed) summed = call.summed + offset;
    }
    if (task.bias)
      kernels_.bias_gradient({rows_, layer.n_out, task.n_begin, task.n_end, p.streams, delta, stream_stride(p), grad,
                              grad_offset, summed, weight, first, last});
    else
      kernels_.weight_gradient({rows_, layer.n_out, layer.n_in, task.m_begin, task.m_end, task.n_begin, task.n_end,
                                input_of(task.layer), p.streams, delta, stream_stride(p), grad, grad_offset, summed,
                                weight, first, last},
                               w_.scratch(thread));
  }

 private:
  const LayerPlan& at(int i) const { return plan_.layers[static_cast<std::size_t>(i)]; }

  static std::size_t count(const LayerPlan& p, const Block& b) {
    return static_cast<std::size_t>(b.rows) * static_cast<std::size_t>(p.layer->n_out);
  }

  const T* step(int i, const T* input, const Block& b) const {
    forward_layer(at(i), input, b);
    return rows_of(at(i).h, at(i), b);
  }

  /// The whole chunk's input of a layer.
  const T* input_of(int i) const {
    const bool opens_head = at(i).head >= 0 && i == plan_.head_first[static_cast<std::size_t>(at(i).head)];
    const int below = opens_head ? plan_.trunk_end() - 1 : i - 1;
    return below >= 0 ? w_.at(at(below).h) : x_;
  }

  void loss(const HeadTarget<T>& t, std::size_t k, const LayerPlan& p, double scale, const Block& b) const {
    const Head& head = net_.heads[k];
    const std::size_t row = k * static_cast<std::size_t>(plan_.rows) + static_cast<std::size_t>(b.begin);
    const std::ptrdiff_t sample = begin_ + b.begin;
    double* coefficient = w_.coefficients.data() + row;
    for (int r = 0; r < b.rows; ++r) coefficient[r] = (t.weights ? t.weights[sample + r] : 1.0) / t.divisor;
    kernels_.loss({head.loss, head.label_smoothing, head.delta, b.rows, p.layer->n_out, rows_of(p.h, p, b),
                   t.classes ? t.classes + sample : nullptr, t.target ? t.target + sample * p.layer->n_out : nullptr,
                   coefficient, scale, rows_of(p.delta, p, b), w_.row_losses.data() + row});
  }

  const Net& net_;
  Workspace<T>& w_;
  const Plan& plan_;
  const KernelTable<T>& kernels_;
  const T* params_;
  const T* x_ = nullptr;
  std::ptrdiff_t begin_ = 0;
  int rows_ = 0;
};

/// Inner products of the per-loss gradients over the trunk: partial sums by block, added in the order of the blocks.
template <class T> class Gramian {
 public:
  Gramian(const Net& net, const KernelTable<T>& kernels, const GradientCall<T>& call)
      : losses_(net.heads.size()), size_(net.trunk_size), kernels_(kernels), call_(call) {
    if (call.gramian) partial_.resize(static_cast<std::size_t>(tasks()) * losses_ * losses_);
  }

  int tasks() const { return call_.gramian ? static_cast<int>((size_ + gramian_block - 1) / gramian_block) : 0; }

  void block(int task) {
    const std::size_t begin = static_cast<std::size_t>(task) * gramian_block;
    const std::size_t count = std::min(gramian_block, size_ - begin);
    double* to = partial_.data() + static_cast<std::size_t>(task) * losses_ * losses_;
    for (std::size_t i = 0; i < losses_; ++i)
      for (std::size_t j = 0; j <= i; ++j)
        to[i * losses_ + j] = kernels_.dot(count, call_.per_loss[i] + begin, call_.per_loss[j] + begin);
  }

  void finish() const {
    if (!call_.gramian) return;
    for (std::size_t i = 0; i < losses_; ++i)
      for (std::size_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (std::size_t at = i * losses_ + j; at < partial_.size(); at += losses_ * losses_) sum += partial_[at];
        call_.gramian[i * losses_ + j] = call_.gramian[j * losses_ + i] = sum;
      }
  }

 private:
  std::size_t losses_, size_;
  const KernelTable<T>& kernels_;
  const GradientCall<T>& call_;
  std::vector<double> partial_;
};

int threads_for(const Plan& plan, int threads) { return plan.flops < worth_a_thread ? 1 : threads; }

int rows_from(std::ptrdiff_t begin, std::ptrdiff_t batch) {
  return static_cast<int>(std::min<std::ptrdiff_t>(batch - begin, chunk_rows));
}

} // namespace

template <class T>
void Network::forward(const T* params, const T* x, std::ptrdiff_t batch, const std::vector<T*>& outputs) {
  const int threads = num_threads();
  auto workspace = pool<T>().take(net_, kernels().of<T>(), rows_from(0, batch), Wanted::outputs, threads);
  Pass<T> pass(net_, *workspace, params);
  const Plan& plan = workspace->plan;
  for (std::ptrdiff_t begin = 0; begin < batch; begin += chunk_rows) {
    pass.set_chunk(x + begin * net_.n_in, begin, rows_from(begin, batch));
    const int tasks[] = {begin == 0 ? static_cast<int>(plan.packing.size()) : 0, pass.row_tasks()};
    run_phases(threads_for(plan, threads), tasks, [&](std::size_t phase, int task, int thread) {
      if (phase == 0) return pass.pack(plan.packing[static_cast<std::size_t>(task)]);
      const auto block = pass.block(task, thread);
      pass.forward(block);
      pass.copy_outputs(outputs, block);
    });
  }
  pool<T>().give_back(std::move(workspace));
}

template <class T> void Network::gradients(const GradientCall<T>& call) {
  const int threads = num_threads();
  const KernelTable<T>& table = kernels().of<T>();
  const Wanted wanted = call.per_loss.empty() ? Wanted::summed : Wanted::per_loss;
  auto workspace = pool<T>().take(net_, table, rows_from(0, call.batch), wanted, threads);
  Pass<T> pass(net_, *workspace, call.params);
  Gramian<T> gramian(net_, table, call);
  const Plan& plan = workspace->plan;
  std::fill_n(call.losses, net_.heads.size(), 0.0);

  for (std::ptrdiff_t begin = 0; begin < call.batch; begin += chunk_rows) {
    const int rows = rows_from(begin, call.batch);
    const bool first = begin == 0, last = begin + rows == call.batch;
    pass.set_chunk(call.x + begin * net_.n_in, begin, rows);
    const int tasks[] = {first ? static_cast<int>(plan.packing.size()) : 0, pass.row_tasks(),
                         static_cast<int>(plan.weights.size()), last ? gramian.tasks() : 0};
    run_phases(threads_for(plan, threads), tasks, [&](std::size_t phase, int task, int thread) {
      const auto i = static_cast<std::size_t>(task);
      switch (phase) {
      case 0:
        return pass.pack(plan.packing[i]);
      case 1: {
        const auto block = pass.block(task, thread);
        pass.forward(block);
        return pass.backward(call, block);
      }
      case 2:
        return pass.weights(call, plan.weights[i], first, last, thread);
      default:
        return gramian.block(task);
      }
    });
    for (std::size_t k = 0; k < net_.heads.size(); ++k) {
      const double* from = workspace->row_losses.data() + k * static_cast<std::size_t>(plan.rows);
      for (int r = 0; r < rows; ++r) call.losses[k] += from[r];
    }
  }
  gramian.finish();
  pool<T>().give_back(std::move(workspace));
}

template void Network::forward(const float*, const float*, std::ptrdiff_t, const std::vector<float*>&);
template void Network::forward(const double*, const double*, std::ptrdiff_t, const std::vector<double*>&);
template void Network::gradients(const GradientCall<float>&);
template void Network::gradients(const GradientCall<double>&);

} // namespace pyengine
