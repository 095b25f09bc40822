// How one chunk of a batch is worked through: which buffers hold what, and how the work is cut into tasks. A plan
// depends on sizes alone, so it is made once and used for every call of the same kind.
#pragma once

#include <cstddef>
#include <vector>

#include "kernel_table.hpp"
#include "net.hpp"

namespace pyengine {

enum class Wanted : unsigned char {
  outputs,  // forward only
  per_loss, // a stream of deltas per loss goes back through the trunk; the sum comes from the same tiles
  summed,   // the weighted deltas meet at the trunk's output: one stream
  rows,     // the numbers of per_loss for every row, for products of rows: no gradient of a weight
};

inline constexpr std::size_t absent = static_cast<std::size_t>(-1);

/// Where a block of rows finds its part of a buffer (·, n_out): in the workspace, if the weight gradients read all rows
/// there; else in the thread's own memory, which the next block overwrites.
struct Buffer {
  std::size_t at = absent;
  bool kept = false;
};

/// A layer's buffers. What a weight gradient does not read where it lies is packed for it, a block of rows at a time.
struct LayerPlan {
  const Layer* layer;
  int head;                     // -1 in the trunk
  std::size_t forward_weights;  // Wᵀ packed; absent where narrow_product takes W as it lies
  std::size_t backward_weights; // W packed; absent where it is read as it lies, or no gradient goes further back
  bool across;                  // z, h and delta are (n_out, rows): so narrow_product finds them, so a loss wants them
  Buffer z, h;              // (rows, n_out); the same where no derivative needs z; no buffer for a result of the call
  Buffer delta;             // (streams, rows, n_out): ∂L/∂z
  std::size_t h_panels;     // h in panels, for the weight gradients of the layers above; absent if h is kept
  std::size_t delta_panels; // delta in panels, a set a stream; absent if delta is kept
  std::size_t bias_sums;    // (streams, blocks, n_out): delta summed over each block; absent where delta is read again
  int streams;
};

struct PackTask {
  int layer;
  bool forward;
  int piece_begin, piece_end;
};

struct WeightTask {
  int layer;
  bool bias;
  int m_begin, m_end, n_begin, n_end;
};

struct Plan {
  Wanted wanted;
  int rows;      // of a full chunk
  int row_block; // of a task
  int streams;   // in the trunk

  std::vector<LayerPlan> layers; // the trunk's, then each head's
  std::vector<int> head_first;   // index of each head's first layer; the trunk's end is head_first[0]
  std::vector<PackTask> packing;
  bool packs_alone = false; // every thread packs all weights, into its own memory
  std::vector<WeightTask> weights;

  std::size_t x_panels = absent; // the input, as h_panels
  std::size_t workspace = 0;     // numbers of the call's type
  std::size_t own = 0;           // the same, per thread: buffers that are not kept, then the kernels' scratch
  std::size_t scratch = 0;       // where that begins
  double flops = 0;              // of a full chunk

  int blocks() const { return (rows + row_block - 1) / row_block; }
  int trunk_end() const { return head_first.front(); }
  int head_end(std::size_t head) const {
    return head + 1 < head_first.size() ? head_first[head + 1] : static_cast<int>(layers.size());
  }
};

/// Rows that go through the network together: enough to keep the weights' cost per row small, few enough to bound the
/// workspace whatever the batch.
inline constexpr int chunk_rows = 1024;

/// Floating-point operations of the products.
double flops_of_a_row(const Net& net, Wanted wanted);

/// Below so many, waking a second thread costs more than it brings.
inline constexpr double worth_a_thread = 5e5;

/// For calls on at most so many threads.
template <class T>
Plan make_plan(const Net& net, const KernelTable<T>& kernels, int rows, Wanted wanted, int threads = 1);

extern template Plan make_plan(const Net&, const KernelTable<float>&, int, Wanted, int);
extern template Plan make_plan(const Net&, const KernelTable<double>&, int, Wanted, int);

/// How many of these threads a pass uses.
inline int threads_for(const Plan& plan, int threads) { return plan.flops < worth_a_thread ? 1 : threads; }

} // namespace pyengine
