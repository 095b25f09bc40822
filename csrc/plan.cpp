#include "plan.hpp"

#include <algorithm>

namespace pyengine {
namespace {

// A cache line of doubles, twice that of floats: buffers start on a line of their own.
constexpr std::size_t alignment = 16;

class Shelf {
 public:
  std::size_t place(std::size_t count) {
    const std::size_t at = end_;
    end_ += (count + alignment - 1) / alignment * alignment;
    return at;
  }
  std::size_t end() const { return end_; }

 private:
  std::size_t end_ = 0;
};

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// The step that cuts n into the fewest pieces of at most `most`, all of about one size, in multiples of `tile`.
constexpr int evenly(int n, int most, int tile) { return ceil_div(ceil_div(n, ceil_div(n, most)), tile) * tile; }

/// Some 64 rows are enough to make the packed weights' traffic small; with much work there are at least four blocks to
/// share.
int block_of(int rows, int tile, double flops) {
  constexpr int good = 64;
  constexpr double worth_sharing = 4e6;
  const int blocks = std::max(ceil_div(rows, good), flops > worth_sharing ? 4 : 1);
  return ceil_div(ceil_div(rows, blocks), tile) * tile;
}

} // namespace

template <class T> Plan make_plan(const Net& net, const KernelTable<T>& kernels, int rows, Wanted wanted) {
  Plan plan;
  plan.wanted = wanted;
  plan.rows = rows;
  plan.streams = wanted == Wanted::per_loss ? static_cast<int>(net.heads.size()) : 1;

  Shelf shelf;
  const bool backward = wanted != Wanted::outputs;
  auto add = [&](const Layer& layer, int head, bool reads_input) {
    const auto n_in = layer.n_in, n_out = layer.n_out;
    const std::size_t numbers = static_cast<std::size_t>(rows) * static_cast<std::size_t>(n_out);
    LayerPlan p{};
    p.layer = &layer;
    p.head = head;
    p.streams = head < 0 ? plan.streams : 1;
    p.forward_weights = shelf.place(kernels.packed_size(n_in, n_out));
    p.backward_weights = backward && !reads_input ? shelf.place(kernels.packed_size(n_out, n_in)) : absent;
    p.z = shelf.place(numbers);
    p.h = derivative_needs_z(layer.activation) ? shelf.place(numbers) : p.z;
    p.delta = backward ? shelf.place(numbers * static_cast<std::size_t>(p.streams)) : absent;
    const double product = 2.0 * static_cast<double>(rows) * static_cast<double>(layer.weight_size());
    plan.flops += product * (backward ? 1 + p.streams * (reads_input ? 1 : 2) : 1);
    plan.layers.push_back(p);
  };
  for (std::size_t l = 0; l < net.trunk.size(); ++l) add(net.trunk[l], -1, l == 0);
  for (std::size_t k = 0; k < net.heads.size(); ++k) {
    plan.head_first.push_back(static_cast<int>(plan.layers.size()));
    for (std::size_t l = 0; l < net.heads[k].layers.size(); ++l)
      add(net.heads[k].layers[l], static_cast<int>(k), l == 0 && net.trunk.empty());
  }

  // Tasks of weight gradients: about a 16th of them all, so that threads end together, but worth claiming.
  double weight_flops = 0;
  for (const LayerPlan& p : plan.layers)
    weight_flops += 2.0 * static_cast<double>(rows) * static_cast<double>(p.layer->weight_size()) * p.streams;
  const double good_task = std::max(weight_flops / 16, 2e5);

  constexpr int panels_per_task = 8;
  for (int i = 0; i < static_cast<int>(plan.layers.size()); ++i) {
    const LayerPlan& p = plan.layers[static_cast<std::size_t>(i)];
    auto pack = [&](bool forward, int n) {
      const int panels = ceil_div(n, kernels.panel);
      for (int begin = 0; begin < panels; begin += panels_per_task)
        plan.packing.push_back({i, forward, begin, std::min(panels, begin + panels_per_task)});
    };
    pack(true, p.layer->n_out);
    if (p.backward_weights != absent) pack(false, p.layer->n_in);
    if (!backward) continue;
    // A tall tile shares its packed inputs among more rows of the gradient; all of a layer have one height.
    const double row_flops = 2.0 * rows * p.streams * std::min(kernels.n_tile, p.layer->n_in);
    const double good_height = std::max(good_task / row_flops, kernels.m_tile / 2.0 / p.streams);
    const int m_step =
        evenly(p.layer->n_out, static_cast<int>(std::min(good_height + 1, 4.0 * kernels.m_tile)), kernels.row_tile);
    for (int m = 0; m < p.layer->n_out; m += m_step)
      for (int n = 0; n < p.layer->n_in; n += kernels.n_tile)
        plan.weights.push_back(
            {i, false, m, std::min(p.layer->n_out, m + m_step), n, std::min(p.layer->n_in, n + kernels.n_tile)});
    if (p.layer->has_bias) plan.weights.push_back({i, true, 0, 0, 0, p.layer->n_out});
  }

  const auto size_of = [&plan](const WeightTask& t) {
    return t.bias ? 0.0
                  : static_cast<double>(t.m_end - t.m_begin) * (t.n_end - t.n_begin) *
                        plan.layers[static_cast<std::size_t>(t.layer)].streams;
  };
  std::stable_sort(plan.weights.begin(), plan.weights.end(),
                   [&](const WeightTask& a, const WeightTask& b) { return size_of(a) > size_of(b); });

  plan.row_block = block_of(rows, kernels.row_tile, plan.flops);
  plan.workspace = shelf.end();
  plan.scratch = (kernels.scratch_size() + alignment - 1) / alignment * alignment;
  return plan;
}

template Plan make_plan(const Net&, const KernelTable<float>&, int, Wanted);
template Plan make_plan(const Net&, const KernelTable<double>&, int, Wanted);

} // namespace pyengine
