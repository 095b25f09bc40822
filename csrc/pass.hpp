// One chunk of rows of one call, cut into tasks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "network.hpp"

namespace pyengine {

/// One chunk of rows of one call, cut into tasks: pack the weights; take each block of rows forward, through the losses
/// and back; then the weight gradients.
template <class T> class Pass {
 public:
  /// `outputs`, one (batch, n_out) a head, only where nothing else is wanted.
  Pass(const Net& net, Workspace<T>& workspace, const T* params, const std::vector<T*>* outputs = nullptr)
      : net_(net), w_(workspace), plan_(workspace.plan), kernels_(*workspace.kernels), params_(params),
        outputs_(outputs) {
    std::fill(w_.packed.begin(), w_.packed.end(), false);
  }

  void set_chunk(const T* x, std::ptrdiff_t begin, int rows) {
    x_ = x;
    begin_ = begin;
    rows_ = rows;
  }

  int row_tasks() const { return (rows_ + plan_.row_block - 1) / plan_.row_block; }

  /// For all threads together; none where each packs alone.
  int pack_tasks() const { return plan_.packs_alone ? 0 : static_cast<int>(plan_.packing.size()); }
  void pack(int task) const { pack(plan_.packing[static_cast<std::size_t>(task)], w_.numbers); }

  void pack(const PackTask& task, T* to) const {
    const LayerPlan& p = plan_.layers[static_cast<std::size_t>(task.layer)];
    const Layer& layer = *p.layer;
    const T* weight = params_ + layer.weight;
    if (task.forward)
      kernels_.pack({layer.n_in, layer.n_out, weight, true, to + p.forward_weights}, task.piece_begin, task.piece_end);
    else
      kernels_.pack({layer.n_out, layer.n_in, weight, false, to + p.backward_weights}, task.piece_begin,
                    task.piece_end);
  }

  // ---- a block of rows ------------------------------------------------------------------------------------------

  struct Block {
    int index, begin, rows;
    T* own;
    T* scratch;
  };

  Block block(int task, int thread) const {
    if (plan_.packs_alone && !w_.packed[static_cast<std::size_t>(thread)]) {
      for (const PackTask& pack_task : plan_.packing) pack(pack_task, w_.own(thread));
      w_.packed[static_cast<std::size_t>(thread)] = true;
    }
    const int begin = task * plan_.row_block;
    return {task, begin, std::min(plan_.row_block, rows_ - begin), w_.own(thread), w_.scratch(thread)};
  }

  /// Where the block's rows of a buffer (rows, n_out) begin, or its columns of one (n_out, rows).
  T* rows_of(const Buffer& buffer, const LayerPlan& p, const Block& b) const {
    const std::ptrdiff_t row = p.across ? 1 : p.layer->n_out;
    return buffer.kept ? w_.at(buffer.at) + b.begin * row : b.own + buffer.at;
  }

  const T* packed(std::size_t weights, const Block& b) const {
    return (plan_.packs_alone ? b.own : w_.numbers) + weights;
  }

  /// Along a row of a layer's z, h and delta.
  std::ptrdiff_t step(const LayerPlan& p) const { return p.across ? plan_.rows : 1; }

  /// visit(run, count) for the runs of neighbours that the block has in a layer's buffers: one, or one an output.
  template <class Visit> void each_run(const LayerPlan& p, const Block& b, Visit visit) const {
    const auto rows = static_cast<std::size_t>(b.rows), n_out = static_cast<std::size_t>(p.layer->n_out);
    if (p.layer->activation == Activation::linear) return;
    if (!p.across) return visit(0, rows * n_out);
    for (int j = 0; j < p.layer->n_out; ++j) visit(j, rows);
  }

  /// From one stream of a layer's delta to the next.
  std::ptrdiff_t stream_stride(const LayerPlan& p) const {
    return static_cast<std::ptrdiff_t>(p.delta.kept ? plan_.rows : plan_.row_block) * p.layer->n_out;
  }

  void forward_layer(const LayerPlan& p, const T* input, T* z, T* h, const Block& b) const {
    const Layer& layer = *p.layer;
    const bool narrow = p.forward_weights == absent;
    const Product<T> product{b.rows,
                             layer.n_in,
                             layer.n_out,
                             {input, layer.n_in, b.rows, 0},
                             narrow ? params_ + layer.weight : packed(p.forward_weights, b),
                             {z, p.across ? 1 : layer.n_out, b.rows, 0},
                             layer.has_bias ? params_ + layer.bias : nullptr,
                             false,
                             1,
                             0,
                             step(p),
                             !narrow && rectifies(p)};
    narrow ? kernels_.narrow_product(product) : kernels_.product(product, b.scratch);
    if (!product.rectify)
      each_run(p, b, [&](int run, std::size_t count) {
        const std::ptrdiff_t at = run * step(p);
        kernels_.activation_forward(layer.activation, layer.slope, count, z + at, h + at);
      });
    if (p.h_panels != absent) kernels_.pack_x({b.begin, b.rows, layer.n_out, h, w_.at(p.h_panels), plan_.rows});
  }

  /// ReLU is applied as the products are stored.
  static bool rectifies(const LayerPlan& p) { return p.layer->activation == Activation::relu; }

  /// Turns ∂L/∂h in the layer's delta into ∂L/∂z, for all its streams; unless a product has.
  void backward_activation(const LayerPlan& p, bool by_product, const Block& b) const {
    if (!(by_product && rectifies(p)))
      each_run(p, b, [&](int run, std::size_t count) {
        const std::ptrdiff_t at = run * step(p);
        kernels_.activation_backward(p.layer->activation, p.layer->slope, count, rows_of(p.z, p, b) + at,
                                     rows_of(p.h, p, b) + at, p.streams, rows_of(p.delta, p, b) + at, stream_stride(p));
      });
    keep_delta(p, b);
  }

  /// What the gradients of weight and bias need of a delta beside its rows, while it is in the nearest cache.
  void keep_delta(const LayerPlan& p, const Block& b) const {
    const int n_out = p.layer->n_out;
    const std::size_t set = kernels_.delta_panels_size(plan_.rows, n_out);
    for (int s = 0; s < p.streams; ++s) {
      const T* delta = rows_of(p.delta, p, b) + s * stream_stride(p);
      if (p.delta_panels != absent)
        kernels_.pack_delta(
            {b.begin, b.rows, n_out, delta, w_.at(p.delta_panels) + static_cast<std::size_t>(s) * set, plan_.rows});
      if (p.bias_sums != absent) {
        T* sums = w_.at(p.bias_sums) + static_cast<std::ptrdiff_t>(s * plan_.blocks() + b.index) * n_out;
        kernels_.bias_gradient({b.rows, n_out, 0, n_out, 1, delta, 0, &sums, 0, nullptr, nullptr, true, false});
      }
    }
  }

  /// From a layer's delta to ∂L/∂h of the layer below, `stream` being the first stream written there. The last product
  /// into it `completes` it.
  Product<T> to_layer_below(const LayerPlan& p, const LayerPlan& below, int stream, bool accumulate, bool completes,
                            const Block& b) const {
    const Layer& layer = *p.layer;
    T* to = rows_of(below.delta, below, b) + stream * stream_stride(below);
    const bool as_it_lies = p.backward_weights == absent;
    return {b.rows * p.streams,
            layer.n_out,
            layer.n_in,
            {rows_of(p.delta, p, b), p.across ? 1 : layer.n_out, b.rows, stream_stride(p)},
            as_it_lies ? params_ + layer.weight : packed(p.backward_weights, b),
            {to, layer.n_in, b.rows, stream_stride(below)},
            nullptr,
            accumulate,
            step(p),
            as_it_lies ? layer.n_in : 0,
            1,
            false,
            completes && rectifies(below) ? rows_of(below.h, below, b) : nullptr};
  }

  void backward_layer(const LayerPlan& p, const LayerPlan& below, int stream, const Block& b) const {
    kernels_.product(to_layer_below(p, below, stream, false, true, b), b.scratch);
  }

  /// The same for the first layers of all heads, whose one stream is the sum: some heads at a time.
  void backward_heads(const LayerPlan& below, const Block& b) const {
    constexpr std::size_t at_once = 8;
    const std::size_t heads = net_.heads.size();
    Product<T> products[at_once];
    for (std::size_t begin = 0; begin < heads; begin += at_once) {
      const std::size_t end = std::min(begin + at_once, heads);
      for (std::size_t k = begin; k < end; ++k) {
        products[k - begin] = to_layer_below(at(plan_.head_first[k]), below, 0, k > 0, k + 1 == heads, b);
        if (k > begin) products[k - begin - 1].also = &products[k - begin];
      }
      kernels_.product(products[0], b.scratch);
    }
  }

  /// Whether the block's part of x is.
  bool is_finite(const Block& b) const {
    return kernels_.all_finite(static_cast<std::size_t>(b.rows) * static_cast<std::size_t>(net_.n_in), input_rows(b));
  }

  void forward(const Block& b) const {
    const T* input = input_rows(b);
    if (plan_.x_panels != absent)
      kernels_.pack_x({b.begin, b.rows, net_.n_in, input, w_.at(plan_.x_panels), plan_.rows});
    const T* h = input;
    for (int i = 0; i < plan_.trunk_end(); ++i) h = step(i, h, b);
    const T* const shared = h;
    for (std::size_t k = 0; k < net_.heads.size(); ++k) {
      h = shared;
      for (int i = plan_.head_first[k]; i < plan_.head_end(k) - 1; ++i) h = step(i, h, b);
      const int last = plan_.head_end(k) - 1;
      if (!outputs_) {
        step(last, h, b);
      } else {
        T* to = (*outputs_)[k] + (begin_ + b.begin) * at(last).layer->n_out;
        forward_layer(at(last), h, to, to, b);
      }
    }
  }

  void backward(const GradientCall<T>& call, const Block& b) const {
    const bool one_stream = plan_.wanted == Wanted::summed;
    for (std::size_t k = 0; k < net_.heads.size(); ++k) {
      const int first = plan_.head_first[k];
      int i = plan_.head_end(k) - 1;
      loss(call.targets[k], k, at(i), one_stream ? net_.heads[k].weight : 1.0, b);
      backward_activation(at(i), false, b);
      for (; i > first; --i) {
        backward_layer(at(i), at(i - 1), 0, b);
        backward_activation(at(i - 1), true, b);
      }
      if (plan_.trunk_end() > 0 && !one_stream)
        backward_layer(at(first), at(plan_.trunk_end() - 1), static_cast<int>(k), b);
    }
    if (plan_.trunk_end() > 0 && one_stream) backward_heads(at(plan_.trunk_end() - 1), b);
    for (int i = plan_.trunk_end() - 1; i >= 0; --i) {
      backward_activation(at(i), true, b);
      if (i > 0) backward_layer(at(i), at(i - 1), 0, b);
    }
  }

  // ---- weight and bias gradients --------------------------------------------------------------------------------

  void weights(const GradientCall<T>& call, const WeightTask& task, bool first, bool last, int thread) const {
    const LayerPlan& p = plan_.layers[static_cast<std::size_t>(task.layer)];
    const Layer& layer = *p.layer;
    const std::size_t offset = task.bias ? layer.bias : layer.weight;

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
    const T* delta = p.delta.kept ? w_.at(p.delta.at) : nullptr;
    if (!task.bias)
      kernels_.weight_gradient({rows_,
                                layer.n_out,
                                layer.n_in,
                                task.m_begin,
                                task.m_end,
                                task.n_begin,
                                task.n_end,
                                input_of(task.layer),
                                panels(input_panels(task.layer)),
                                p.streams,
                                delta,
                                panels(p.delta_panels),
                                stream_stride(p),
                                plan_.rows,
                                grad,
                                grad_offset,
                                summed,
                                weight,
                                first,
                                last,
                                across(p)},
                               w_.scratch(thread));
    else if (p.bias_sums == absent)
      kernels_.bias_gradient({rows_, layer.n_out, task.n_begin, task.n_end, p.streams, delta, stream_stride(p), grad,
                              grad_offset, summed, weight, first, last, across(p)});
    else
      kernels_.bias_gradient({row_tasks(), layer.n_out, task.n_begin, task.n_end, p.streams, w_.at(p.bias_sums),
                              static_cast<std::ptrdiff_t>(plan_.blocks()) * layer.n_out, grad, grad_offset, summed,
                              weight, first, last});
  }

  // ---- what the products of rows are made of ----------------------------------------------------------------------

  const LayerPlan& layer(int i) const { return at(i); }
  T* scratch(int thread) const { return w_.scratch(thread); }
  const T* delta_of(const LayerPlan& p, std::size_t stream) const {
    return w_.at(p.delta.at) + static_cast<std::ptrdiff_t>(stream) * stream_stride(p);
  }

  /// The whole chunk's input of a layer; null where only its panels are kept.
  const T* input_of(int i) const {
    if (below(i) < 0) return x_;
    const Buffer& h = at(below(i)).h;
    return h.kept ? w_.at(h.at) : nullptr;
  }

 private:
  /// The layer whose h is the input of layer i; -1 for x.
  int below(int i) const {
    const bool opens_head = at(i).head >= 0 && i == plan_.head_first[static_cast<std::size_t>(at(i).head)];
    return opens_head ? plan_.trunk_end() - 1 : i - 1;
  }

  std::size_t input_panels(int i) const { return below(i) < 0 ? plan_.x_panels : at(below(i)).h_panels; }
  const T* panels(std::size_t buffer) const { return buffer != absent ? w_.at(buffer) : nullptr; }

  const T* input_rows(const Block& b) const { return x_ + static_cast<std::ptrdiff_t>(b.begin) * net_.n_in; }

  const LayerPlan& at(int i) const { return plan_.layers[static_cast<std::size_t>(i)]; }

  std::ptrdiff_t across(const LayerPlan& p) const { return p.across ? step(p) : 0; }

  const T* step(int i, const T* input, const Block& b) const {
    const LayerPlan& p = at(i);
    T* h = rows_of(p.h, p, b);
    forward_layer(p, input, rows_of(p.z, p, b), h, b);
    return h;
  }

  void loss(const HeadTarget<T>& t, std::size_t k, const LayerPlan& p, double scale, const Block& b) const {
    const Head& head = net_.heads[k];
    const std::size_t row = k * static_cast<std::size_t>(plan_.rows) + static_cast<std::size_t>(b.begin);
    const std::ptrdiff_t sample = begin_ + b.begin;
    double* coefficient = w_.coefficients.data() + row;
    if (t.weights)
      for (int r = 0; r < b.rows; ++r) coefficient[r] = t.weights[sample + r] / t.divisor;
    else
      std::fill_n(coefficient, b.rows, 1.0 / t.divisor);
    kernels_.loss({head.loss, head.label_smoothing, head.delta, b.rows, p.layer->n_out, rows_of(p.h, p, b),
                   t.classes ? t.classes + sample : nullptr, t.target ? t.target + sample * p.layer->n_out : nullptr,
                   coefficient, scale, rows_of(p.delta, p, b), w_.row_losses.data() + row, across(p)});
  }

  const Net& net_;
  Workspace<T>& w_;
  const Plan& plan_;
  const KernelTable<T>& kernels_;
  const T* params_;
  const std::vector<T*>* outputs_;
  const T* x_ = nullptr;
  std::ptrdiff_t begin_ = 0;
  int rows_ = 0;
};

} // namespace pyengine
