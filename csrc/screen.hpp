// A look at a whole product, cut into strips of rows; the strips depend on its shape alone, and so does every sum.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"

namespace pyengine {

template <class T> class Screen {
 public:
  explicit Screen(const Screening<T>& given)
      : given_(given), strips_(static_cast<int>(std::clamp<std::ptrdiff_t>(given.m * given.n / worth_a_strip, 1,
                                                                           std::min(most_strips, given.m)))),
        rows_((given.m + strips_ - 1) / strips_),
        room_(std::max<std::ptrdiff_t>(rows_ * given.n / share_beyond, least_beyond)),
        columns_(at(strips_) * columns_size()), found_(at(strips_)) {
    // Of large room only what is used is ever touched.
    places_ = std::make_unique_for_overwrite<std::int64_t[]>(at(strips_ * room_));
    residuals_ = std::make_unique_for_overwrite<T[]>(at(strips_ * room_));
    for (int i = 0; i < strips_; ++i)
      found_[at(i)] = {room_, places_.get() + i * room_, residuals_.get() + i * room_, 0, T(0), false, false};
  }

  void run() {
    const auto look = kernels().of<T>().screen;
    const int tasks[] = {strips_};
    run_phases(strips_ > 1 ? num_threads() : 1, tasks, [&](std::size_t, int task, int) {
      look(given_, std::min(task * rows_, given_.m), std::min((task + 1) * rows_, given_.m),
           columns_.data() + at(task) * columns_size(), found_[at(task)]);
    });
  }

  /// (screen_column_sums, n).
  void columns(double* to) const {
    for (std::size_t c = 0; c < columns_size(); ++c) {
      to[c] = 0;
      for (int i = 0; i < strips_; ++i) to[c] += columns_[at(i) * columns_size() + c];
    }
  }

  const std::vector<ScreenFound<T>>& found() const { return found_; }

 private:
  static constexpr std::ptrdiff_t worth_a_strip = 1 << 15, most_strips = 16;
  /// A strip lists this share of its entries beyond the limit.
  static constexpr std::ptrdiff_t share_beyond = 32, least_beyond = 1024;

  static std::size_t at(std::ptrdiff_t i) { return static_cast<std::size_t>(i); }
  std::size_t columns_size() const { return at(screen_column_sums * given_.n); }

  Screening<T> given_;
  int strips_;
  std::ptrdiff_t rows_, room_;
  std::vector<double> columns_;
  std::vector<ScreenFound<T>> found_;
  std::unique_ptr<std::int64_t[]> places_;
  std::unique_ptr<T[]> residuals_;
};

} // namespace pyengine
