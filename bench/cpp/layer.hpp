// The products of one layer, cut into tasks and run by threads as the network does it.
#pragma once

#include <algorithm>

#include "dispatch.hpp"
#include "exact.hpp"
#include "parallel.hpp"
#include "plan.hpp"

namespace pyengine::bench {

/// What a pass over the layer does.
struct Parts {
  bool pack = false, forward = false, activation = false, backward = false, weights = false;
};

template <class T> struct LayerPass {
  int batch, n_in, n_out;
  Numbers<T> x, weight, bias, z, h, delta, dx, dw, db;

  LayerPass(int batch_size, int inputs, int outputs, bool has_bias)
      : batch(batch_size), n_in(inputs), n_out(outputs), x(dyadic<T>(count(batch, n_in), 1)),
        weight(dyadic<T>(count(n_out, n_in), 2)), bias(dyadic<T>(to_size(has_bias ? n_out : 0), 3)),
        z(count(batch, n_out)), h(z.size()), delta(dyadic<T>(count(batch, n_out), 4)), dx(x.size()), dw(weight.size()),
        db(bias.size()), net_(around(inputs, outputs, has_bias)),
        plan_(make_plan(net_, table_, std::min(batch, chunk_rows), Wanted::summed)),
        forward_weights_(table_.packed_size(n_in, n_out)), backward_weights_(table_.packed_size(n_out, n_in)),
        x_panels_(table_.x_panels_size(plan_.rows, n_in)), delta_panels_(table_.delta_panels_size(plan_.rows, n_out)),
        scratch_(to_size(num_threads()) * table_.scratch_size()) {
    for (const PackTask& task : plan_.packing)
      if (task.layer == ours) (task.forward ? forward_packing_ : backward_packing_).push_back(task);
    for (const WeightTask& task : plan_.weights)
      if (task.layer == ours) weight_tasks_.push_back(task);
  }

  double flops() const { return 2.0 * batch * n_in * n_out; }

  void run(Parts parts) {
    const int forward_packs = parts.pack && parts.forward ? static_cast<int>(forward_packing_.size()) : 0;
    const int backward_packs = parts.pack && parts.backward ? static_cast<int>(backward_packing_.size()) : 0;
    for (int begin = 0; begin < batch; begin += chunk_rows) {
      const int rows = std::min(batch - begin, chunk_rows);
      const bool by_rows = parts.forward || parts.backward || parts.weights;
      const int tasks[] = {begin == 0 ? forward_packs + backward_packs : 0,
                           by_rows ? (rows + plan_.row_block - 1) / plan_.row_block : 0,
                           parts.weights ? static_cast<int>(weight_tasks_.size()) : 0};
      run_phases(num_threads(), tasks, [&](std::size_t phase, int task, int thread) {
        T* scratch = scratch_.data() + to_size(thread) * table_.scratch_size();
        if (phase == 0)
          pack(task < forward_packs ? forward_packing_[to_size(task)]
                                    : backward_packing_[to_size(task - forward_packs)]);
        else if (phase == 1)
          block(parts, begin, task * plan_.row_block, std::min(plan_.row_block, rows - task * plan_.row_block),
                scratch);
        else
          gradient(weight_tasks_[to_size(task)], begin, rows, scratch);
      });
    }
  }

  static std::size_t count(int rows, int columns) { return to_size(rows) * to_size(columns); }

 private:
  static constexpr int ours = 1; // above a layer of one input, so that a gradient goes back through it

  static Net around(int n_in, int n_out, bool has_bias) {
    Net net;
    net.n_in = 1;
    net.trunk = {{1, n_in, Activation::linear, 0, false, 0, 0}};
    net.heads = {Head{{{n_in, n_out, Activation::relu, 0, has_bias, 0, 0}}, Loss::mse, Reduction::mean, 0, 0, 1.0}};
    net.lay_out();
    return net;
  }

  void pack(const PackTask& task) {
    if (task.forward)
      table_.pack({n_in, n_out, weight.data(), true, forward_weights_.data()}, task.piece_begin, task.piece_end);
    else
      table_.pack({n_out, n_in, weight.data(), false, backward_weights_.data()}, task.piece_begin, task.piece_end);
  }

  void block(Parts parts, int chunk, int begin, int rows, T* scratch) {
    const std::ptrdiff_t in = std::ptrdiff_t(chunk + begin) * n_in, out = std::ptrdiff_t(chunk + begin) * n_out;
    if (parts.weights) {
      if (!x_panels_.empty()) table_.pack_x({begin, rows, n_in, x.data() + in, x_panels_.data(), plan_.rows});
      if (!delta_panels_.empty())
        table_.pack_delta({begin, rows, n_out, delta.data() + out, delta_panels_.data(), plan_.rows});
    }
    const std::size_t numbers = count(rows, n_out);
    if (parts.forward)
      table_.product({rows,
                      n_in,
                      n_out,
                      {x.data() + in, n_in, rows, 0},
                      forward_weights_.data(),
                      {z.data() + out, n_out, rows, 0},
                      bias.empty() ? nullptr : bias.data(),
                      false},
                     scratch);
    if (parts.activation) {
      table_.activation_forward(Activation::relu, 0, numbers, z.data() + out, h.data() + out);
      table_.activation_backward(Activation::relu, 0, numbers, z.data() + out, h.data() + out, 1, delta.data() + out,
                                 0);
    }
    if (parts.backward)
      table_.product({rows,
                      n_out,
                      n_in,
                      {delta.data() + out, n_out, rows, 0},
                      backward_weights_.data(),
                      {dx.data() + in, n_in, rows, 0},
                      nullptr,
                      false},
                     scratch);
  }

  void gradient(const WeightTask& task, int begin, int rows, T* scratch) {
    const bool first = begin == 0, last = begin + rows == batch;
    const double one = 1;
    T* const to = task.bias ? db.data() : dw.data();
    const T* d = delta.data() + std::ptrdiff_t(begin) * n_out;
    if (task.bias)
      table_.bias_gradient({rows, n_out, task.n_begin, task.n_end, 1, d, 0, &to, 0, nullptr, &one, first, last});
    else
      table_.weight_gradient({rows,
                              n_out,
                              n_in,
                              task.m_begin,
                              task.m_end,
                              task.n_begin,
                              task.n_end,
                              x.data() + std::ptrdiff_t(begin) * n_in,
                              or_null(x_panels_),
                              1,
                              d,
                              or_null(delta_panels_),
                              0,
                              plan_.rows,
                              &to,
                              0,
                              nullptr,
                              &one,
                              first,
                              last},
                             scratch);
  }

  static const T* or_null(const Numbers<T>& panels) { return panels.empty() ? nullptr : panels.data(); }

  const KernelTable<T>& table_ = kernels().of<T>();
  Net net_;
  Plan plan_;
  Numbers<T> forward_weights_, backward_weights_, x_panels_, delta_panels_, scratch_;
  std::vector<PackTask> forward_packing_, backward_packing_;
  std::vector<WeightTask> weight_tasks_;
};

// Each against its definition, with ==.

template <class T> bool forward_holds(const LayerPass<T>& l) {
  const auto v = random_vector(l.n_out, 5);
  auto expected = times(l.batch, l.n_in, l.x.data(), transposed_times(l.n_out, l.n_in, l.weight.data(), v));
  double bias = 0;
  for (std::size_t j = 0; j < l.bias.size(); ++j) bias += static_cast<double>(l.bias[j]) * v[j];
  for (double& e : expected) e += bias;
  return times(l.batch, l.n_out, l.z.data(), v) == expected;
}

template <class T> bool backward_holds(const LayerPass<T>& l) {
  const auto v = random_vector(l.n_in, 6);
  return times(l.batch, l.n_in, l.dx.data(), v) ==
         times(l.batch, l.n_out, l.delta.data(), times(l.n_out, l.n_in, l.weight.data(), v));
}

template <class T> bool weights_hold(const LayerPass<T>& l) {
  const auto v = random_vector(l.n_in, 7);
  return times(l.n_out, l.n_in, l.dw.data(), v) ==
         transposed_times(l.batch, l.n_out, l.delta.data(), times(l.batch, l.n_in, l.x.data(), v));
}

} // namespace pyengine::bench
