#include "network.hpp"

#include <algorithm>
#include <atomic>

#include "dispatch.hpp"
#include "gramian.hpp"
#include "parallel.hpp"
#include "pass.hpp"

namespace pyengine {
namespace {

int rows_from(std::ptrdiff_t begin, std::ptrdiff_t batch) {
  return static_cast<int>(std::min<std::ptrdiff_t>(batch - begin, chunk_rows));
}

/// In eight strands: an addition does not wait for the one before.
double sum_of(int count, const double* x) {
  constexpr int strands = 8;
  double sum[strands] = {};
  int i = 0;
  for (; i + strands <= count; i += strands)
    for (int s = 0; s < strands; ++s) sum[s] += x[i + s];
  for (int s = 0; i < count; ++i, ++s) sum[s] += x[i];
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

} // namespace

template <class T>
bool Network::forward(const T* params, const T* x, std::ptrdiff_t batch, const std::vector<T*>& outputs) {
  const int threads = num_threads();
  auto workspace = pool<T>().take(net_, kernels().of<T>(), rows_from(0, batch), Wanted::outputs, threads);
  Pass<T> pass(net_, *workspace, params, &outputs);
  const Plan& plan = workspace->plan;
  std::atomic<bool> finite = true;
  for (std::ptrdiff_t begin = 0; begin < batch; begin += chunk_rows) {
    pass.set_chunk(x + begin * net_.n_in, begin, rows_from(begin, batch));
    const int tasks[] = {begin == 0 ? pass.pack_tasks() : 0, pass.row_tasks()};
    run_phases(threads_for(plan, threads), tasks, [&](std::size_t phase, int task, int thread) {
      if (phase == 0) return pass.pack(task);
      const auto block = pass.block(task, thread);
      if (!pass.is_finite(block)) finite.store(false, std::memory_order_relaxed);
      pass.forward(block);
    });
  }
  pool<T>().give_back(std::move(workspace));
  return finite;
}

template <class T> void Network::gradients(const GradientCall<T>& call) {
  const int threads = num_threads();
  const KernelTable<T>& table = kernels().of<T>();
  const Wanted wanted = call.per_loss.empty() ? Wanted::summed : Wanted::per_loss;
  auto workspace = pool<T>().take(net_, table, rows_from(0, call.batch), wanted, threads);
  Pass<T> pass(net_, *workspace, call.params);
  GradientGramian<T> gramian(net_, table, call);
  const Plan& plan = workspace->plan;
  std::fill_n(call.losses, net_.heads.size(), 0.0);

  for (std::ptrdiff_t begin = 0; begin < call.batch; begin += chunk_rows) {
    const int rows = rows_from(begin, call.batch);
    const bool first = begin == 0, last = begin + rows == call.batch;
    pass.set_chunk(call.x + begin * net_.n_in, begin, rows);
    const int tasks[] = {first ? pass.pack_tasks() : 0, pass.row_tasks(), static_cast<int>(plan.weights.size()),
                         last ? gramian.tasks() : 0};
    run_phases(threads_for(plan, threads), tasks, [&](std::size_t phase, int task, int thread) {
      const auto i = static_cast<std::size_t>(task);
      switch (phase) {
      case 0:
        return pass.pack(task);
      case 1: {
        const auto block = pass.block(task, thread);
        pass.forward(block);
        return pass.backward(call, block);
      }
      case 2:
        return pass.weights(call, plan.weights[i], first, last, thread);
      default:
        return gramian.run(task);
      }
    });
    for (std::size_t k = 0; k < net_.heads.size(); ++k) {
      call.losses[k] += sum_of(rows, workspace->row_losses.data() + k * static_cast<std::size_t>(plan.rows));
    }
  }
  gramian.finish();
  pool<T>().give_back(std::move(workspace));
}

template <class T> void Network::gramian(const GradientCall<T>& call) {
  if (net_.trunk.empty()) {
    std::fill_n(call.gramian, net_.heads.size() * net_.heads.size(), 0.0);
    return;
  }
  if (!RowGramian<T>::is_cheaper(net_, call.batch)) {
    GradientCall<T> whole = call;
    std::vector<std::vector<T>> gradients;
    for (std::size_t k = 0; k < net_.heads.size(); ++k) {
      gradients.emplace_back(net_.trunk_size + net_.head_size(k));
      whole.per_loss.push_back(gradients.back().data());
    }
    return this->gradients(whole);
  }
  const int threads = num_threads(), rows = static_cast<int>(call.batch);
  auto workspace = pool<T>().take(net_, kernels().of<T>(), rows, Wanted::rows, threads);
  Pass<T> pass(net_, *workspace, call.params);
  pass.set_chunk(call.x, 0, rows);
  RowGramian<T> gramian(net_, *workspace, pass, rows);
  const Plan& plan = workspace->plan;
  const int tasks[] = {pass.pack_tasks(), pass.row_tasks(), gramian.pack_tasks(), gramian.tasks()};
  run_phases(threads_for(plan, threads), tasks, [&](std::size_t phase, int task, int thread) {
    switch (phase) {
    case 0:
      return pass.pack(task);
    case 1: {
      const auto block = pass.block(task, thread);
      pass.forward(block);
      return pass.backward(call, block);
    }
    case 2:
      return gramian.pack(task);
    default:
      return gramian.run(task, thread);
    }
  });
  gramian.finish(call.gramian);
  pool<T>().give_back(std::move(workspace));
}

template bool Network::forward(const float*, const float*, std::ptrdiff_t, const std::vector<float*>&);
template bool Network::forward(const double*, const double*, std::ptrdiff_t, const std::vector<double*>&);
template void Network::gradients(const GradientCall<float>&);
template void Network::gradients(const GradientCall<double>&);
template void Network::gramian(const GradientCall<float>&);
template void Network::gramian(const GradientCall<double>&);

} // namespace pyengine
