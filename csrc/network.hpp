// The network: trunk then heads, forward then backward, per-loss and summed in one pass.
#pragma once

#include <cstdint>
#include <vector>

#include "net.hpp"
#include "workspace.hpp"

namespace pyengine {

/// What one loss is measured against; classes or target is set.
template <class T> struct HeadTarget {
  const std::int64_t* classes; // (batch)
  const T* target;             // (batch, n_out)
  const double* weights;       // (batch), or null for ones
  double divisor;              // of Σ weight·l
};

template <class T> struct GradientCall {
  const T* params;
  const T* x; // (batch, n_in)
  std::ptrdiff_t batch;
  std::vector<HeadTarget<T>> targets;
  std::vector<T*> per_loss; // per head: trunk, then that head; empty if not wanted
  T* summed;                // all parameters; null if not wanted
  double* losses;           // (heads)
  double* gramian;          // (heads, heads), over the trunk; null if not wanted
};

class Network {
 public:
  explicit Network(Net net) : net_(std::move(net)) { net_.lay_out(); }

  const Net& net() const { return net_; }

  /// Whether all of x was finite: looked at while it is read.
  template <class T> bool forward(const T* params, const T* x, std::ptrdiff_t batch, const std::vector<T*>& outputs);

  template <class T> void gradients(const GradientCall<T>& call);

  /// Only the call's gramian, from the gradients or without them, whichever takes fewer operations.
  template <class T> void gramian(const GradientCall<T>& call);

 private:
  template <class T> WorkspacePool<T>& pool() {
    if constexpr (sizeof(T) == sizeof(float))
      return f32_;
    else
      return f64_;
  }

  Net net_;
  WorkspacePool<float> f32_;
  WorkspacePool<double> f64_;
};

} // namespace pyengine
