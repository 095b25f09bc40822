// Memory for one call at a time, kept between calls: a plan with its buffers, lent to one thread and then given back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "plan.hpp"

namespace pyengine {

template <class T> struct Workspace {
  const KernelTable<T>* kernels;
  Plan plan;
  int threads;

  T* numbers;                        // plan.workspace of them
  std::vector<double> coefficients;  // (heads, rows)
  std::vector<double> row_losses;    // (heads, rows)
  std::vector<double> weights;       // (heads)
  std::vector<unsigned char> packed; // (threads): whether one that packs alone has, in this call

  Workspace(const Net& net, const KernelTable<T>& table, int rows, Wanted wanted, int thread_count)
      : kernels(&table), plan(make_plan(net, table, rows, wanted, thread_count)), threads(thread_count),
        coefficients(net.heads.size() * static_cast<std::size_t>(rows)), row_losses(coefficients.size()),
        packed(static_cast<std::size_t>(thread_count)) {
    for (const Head& head : net.heads) weights.push_back(head.weight);
    const std::size_t count = plan.workspace + plan.own * static_cast<std::size_t>(thread_count);
    memory_.reset(static_cast<T*>(::operator new((count + line) * sizeof(T), std::align_val_t{64})));
    numbers = memory_.get();
  }

  T* at(std::size_t offset) const { return numbers + offset; }
  T* own(int thread) const { return numbers + plan.workspace + plan.own * static_cast<std::size_t>(thread); }
  T* scratch(int thread) const { return own(thread) + plan.scratch; }
  bool fits(const KernelTable<T>& table, int rows, Wanted wanted, int thread_count) const {
    return kernels == &table && plan.rows == rows && plan.wanted == wanted && threads == thread_count;
  }

 private:
  static constexpr std::size_t line = 16;
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Free> memory_;
};

/// The workspaces that no call is using; a few at most, those used last.
template <class T> class WorkspacePool {
 public:
  using Lent = std::unique_ptr<Workspace<T>>;

  Lent take(const Net& net, const KernelTable<T>& table, int rows, Wanted wanted, int threads) {
    {
      const std::lock_guard lock(mutex_);
      const auto found = std::find_if(idle_.rbegin(), idle_.rend(),
                                      [&](const Lent& w) { return w->fits(table, rows, wanted, threads); });
      if (found != idle_.rend()) {
        Lent workspace = std::move(*found);
        idle_.erase(std::next(found).base());
        return workspace;
      }
    }
    return std::make_unique<Workspace<T>>(net, table, rows, wanted, threads);
  }

  void give_back(Lent workspace) {
    constexpr std::size_t most = 4;
    Lent oldest; // freed after the lock
    const std::lock_guard lock(mutex_);
    if (idle_.size() == most) {
      oldest = std::move(idle_.front());
      idle_.erase(idle_.begin());
    }
    idle_.push_back(std::move(workspace));
  }

 private:
  std::mutex mutex_;
  std::vector<Lent> idle_;
};

} // namespace pyengine
