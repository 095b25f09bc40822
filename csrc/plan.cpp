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

constexpr std::size_t to_size(int n) { return static_cast<std::size_t>(n); }

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// The step that cuts n into the fewest pieces of at most `most`, all of about one size, in multiples of `tile`.
constexpr int evenly(int n, int most, int tile) { return ceil_div(ceil_div(n, ceil_div(n, most)), tile) * tile; }

/// Some 64 rows are enough to make the packed weights' traffic small, and 128 better where eight blocks are left to
/// share; with much work there are at least four.
int block_of(int rows, int tile, double flops) {
  const int good = std::clamp(rows / 8, 64, 128);
  constexpr double worth_sharing = 4e6;
  const int blocks = std::max(ceil_div(rows, good), flops > worth_sharing ? 4 : 1);
  return ceil_div(ceil_div(rows, blocks), tile) * tile;
}

/// visit(layer, head, reads_input): the trunk's layers (head -1), then each head's, in the order of their parameters.
template <class Visit> void each_layer(const Net& net, Visit visit) {
  for (std::size_t l = 0; l < net.trunk.size(); ++l) visit(net.trunk[l], -1, l == 0);
  for (std::size_t k = 0; k < net.heads.size(); ++k)
    for (std::size_t l = 0; l < net.heads[k].layers.size(); ++l)
      visit(net.heads[k].layers[l], static_cast<int>(k), l == 0 && net.trunk.empty());
}

int trunk_streams(const Net& net, Wanted wanted) {
  return wanted == Wanted::per_loss || wanted == Wanted::rows ? static_cast<int>(net.heads.size()) : 1;
}

bool has_weight_gradients(Wanted wanted) { return wanted == Wanted::per_loss || wanted == Wanted::summed; }

/// Whether each of the threads packs all weights for itself. What other threads have read costs about four times as
/// much to write again, in processors' messages, as it costs to pack: so few threads are faster alone, as long as all
/// of it stays in the second-level cache.
template <class T> bool packs_alone(const Plan& plan, const Net& net, const KernelTable<T>& kernels, int threads) {
  constexpr std::size_t most = std::size_t(1) << 19;
  std::size_t numbers = 0;
  each_layer(net, [&](const Layer& layer, int, bool) {
    numbers += kernels.packed_size(layer.n_in, layer.n_out);
    if (plan.wanted != Wanted::outputs) numbers += kernels.packed_size(layer.n_out, layer.n_in);
  });
  const int used = threads_for(plan, threads);
  return used > 1 && used <= 4 && numbers * sizeof(T) <= most;
}

/// Whether narrow_product is the faster one for a layer: with few outputs for the lanes that it fills. A softmax takes
/// so much less time across that its outputs may be more; few rows leave lanes idle.
template <class T> bool is_narrow(const KernelTable<T>& kernels, const Layer& layer, int rows, bool feeds_softmax) {
  const int quarters = rows < kernels.lanes ? 1 : feeds_softmax ? 3 : 2;
  return 4 * layer.n_out <= quarters * kernels.lanes;
}

template <class T> void place_buffers(Plan& plan, const Net& net, const KernelTable<T>& kernels) {
  Shelf shelf, own;
  const auto place = [&](bool kept, int n_out, int streams) -> Buffer {
    const int rows = kept ? plan.rows : plan.row_block;
    return {(kept ? shelf : own).place(to_size(rows) * to_size(n_out) * to_size(streams)), kept};
  };
  const auto place_weights = [&](int k, int n) {
    return (plan.packs_alone ? own : shelf).place(kernels.packed_size(k, n));
  };
  const bool reads_factors = has_weight_gradients(plan.wanted), every_row = plan.wanted == Wanted::rows;
  const auto place_panels = [&](std::size_t size) { return reads_factors && size > 0 ? shelf.place(size) : absent; };

  plan.x_panels = place_panels(kernels.x_panels_size(plan.rows, net.n_in));
  each_layer(net, [&](const Layer& layer, int head, bool reads_input) {
    const int n_out = layer.n_out;
    LayerPlan p{};
    p.layer = &layer;
    p.head = head;
    p.streams = head < 0 ? plan.streams : 1;
    const bool feeds_a_layer = head < 0 || &layer != &net.heads[to_size(head)].layers.back();
    const bool feeds_softmax = !feeds_a_layer && net.heads[to_size(head)].loss == Loss::softmax_cross_entropy;
    const bool narrow = is_narrow(kernels, layer, plan.rows, feeds_softmax);
    p.forward_weights = narrow ? absent : place_weights(layer.n_in, n_out);
    const bool backward = plan.wanted != Wanted::outputs;
    p.backward_weights = backward && !reads_input && !kernels.reads_as_it_lies(n_out, layer.n_in)
                             ? place_weights(n_out, layer.n_in)
                             : absent;

    p.across = narrow && backward && !feeds_a_layer;
    p.h_panels = feeds_a_layer ? place_panels(kernels.x_panels_size(plan.rows, n_out)) : absent;
    if (backward || feeds_a_layer)
      p.h = place(every_row || p.across || (reads_factors && feeds_a_layer && p.h_panels == absent), n_out, 1);
    p.z = backward && derivative_needs_z(layer.activation) ? place(p.h.kept, n_out, 1) : p.h;

    p.delta_panels = place_panels(to_size(p.streams) * kernels.delta_panels_size(plan.rows, n_out));
    if (backward) p.delta = place(every_row || p.delta_panels == absent, n_out, p.streams);
    // While delta is in the nearest cache; where it is small all of it is read again as soon.
    const bool sums_blocks = p.delta_panels != absent || (!p.across && plan.blocks() > 1);
    p.bias_sums = layer.has_bias && reads_factors && sums_blocks
                      ? shelf.place(to_size(p.streams) * to_size(plan.blocks()) * to_size(n_out))
                      : absent;
    if (head == static_cast<int>(plan.head_first.size()))
      plan.head_first.push_back(static_cast<int>(plan.layers.size()));
    plan.layers.push_back(p);
  });
  plan.workspace = shelf.end();
  plan.scratch = own.place(kernels.scratch_size());
  plan.own = own.end();
}

/// Tasks of some 16 thousand numbers: worth claiming, and enough of them for all threads where packing takes long.
template <class T> void cut_packing(Plan& plan, const KernelTable<T>& kernels) {
  constexpr int good_task = 1 << 14;
  for (int i = 0; i < static_cast<int>(plan.layers.size()); ++i) {
    const LayerPlan& p = plan.layers[to_size(i)];
    const auto pack = [&](bool forward, int k, int n) {
      const int pieces = kernels.pieces(k, n);
      const double piece = static_cast<double>(p.layer->weight_size()) / pieces;
      const int together = evenly(pieces, std::max(1, static_cast<int>(good_task / piece)), 1);
      for (int begin = 0; begin < pieces; begin += together)
        plan.packing.push_back({i, forward, begin, std::min(pieces, begin + together)});
    };
    if (p.forward_weights != absent) pack(true, p.layer->n_in, p.layer->n_out);
    if (p.backward_weights != absent) pack(false, p.layer->n_out, p.layer->n_in);
  }
}

/// Tasks of about a 32nd of all weight gradients, so that threads end together, but worth claiming; the largest first.
template <class T> void cut_weight_gradients(Plan& plan, const KernelTable<T>& kernels) {
  double flops = 0;
  for (const LayerPlan& p : plan.layers)
    flops += 2.0 * plan.rows * static_cast<double>(p.layer->weight_size()) * p.streams;
  const double good_task = std::max(flops / 32, 2e5);

  for (int i = 0; i < static_cast<int>(plan.layers.size()); ++i) {
    const LayerPlan& p = plan.layers[to_size(i)];
    const Layer& layer = *p.layer;
    // All tasks of a layer have one height.
    const double row_flops = 2.0 * plan.rows * p.streams * std::min(kernels.n_tile, layer.n_in);
    const double good_height = std::max(good_task / row_flops, kernels.m_tile / 8.0 / p.streams);
    const int m_step =
        evenly(layer.n_out, static_cast<int>(std::min(good_height + 1, 4.0 * kernels.m_tile)), kernels.row_tile);
    for (int m = 0; m < layer.n_out; m += m_step)
      for (int n = 0; n < layer.n_in; n += kernels.n_tile)
        plan.weights.push_back(
            {i, false, m, std::min(layer.n_out, m + m_step), n, std::min(layer.n_in, n + kernels.n_tile)});
    if (layer.has_bias) plan.weights.push_back({i, true, 0, 0, 0, layer.n_out});
  }

  const auto size_of = [&plan](const WeightTask& t) {
    return t.bias ? 0.0
                  : static_cast<double>(t.m_end - t.m_begin) * (t.n_end - t.n_begin) *
                        plan.layers[to_size(t.layer)].streams;
  };
  std::stable_sort(plan.weights.begin(), plan.weights.end(),
                   [&](const WeightTask& a, const WeightTask& b) { return size_of(a) > size_of(b); });
}

} // namespace

double flops_of_a_row(const Net& net, Wanted wanted) {
  double flops = 0;
  each_layer(net, [&](const Layer& layer, int head, bool reads_input) {
    const int streams = head < 0 ? trunk_streams(net, wanted) : 1;
    const double product = 2.0 * static_cast<double>(layer.weight_size());
    flops += product * (wanted == Wanted::outputs ? 1 : 1 + streams * (reads_input ? 1 : 2));
  });
  return flops;
}

template <class T> Plan make_plan(const Net& net, const KernelTable<T>& kernels, int rows, Wanted wanted, int threads) {
  Plan plan;
  plan.wanted = wanted;
  plan.rows = rows;
  plan.streams = trunk_streams(net, wanted);
  plan.flops = rows * flops_of_a_row(net, wanted);
  plan.packs_alone = packs_alone(plan, net, kernels, threads);
  plan.row_block = block_of(rows, kernels.row_tile, plan.flops);
  place_buffers(plan, net, kernels);
  cut_packing(plan, kernels);
  if (has_weight_gradients(wanted)) cut_weight_gradients(plan, kernels);
  return plan;
}

template Plan make_plan(const Net&, const KernelTable<float>&, int, Wanted, int);
template Plan make_plan(const Net&, const KernelTable<double>&, int, Wanted, int);

} // namespace pyengine
