#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "tables.hpp"

using namespace pyengine;

namespace {

template <class T> struct Row {
  double loss;
  std::vector<T> delta;
};

template <class T>
Row<T> evaluate(const KernelTable<T>& table, Loss kind, const std::vector<T>& z, const std::vector<T>& y,
                double coefficient = 1, double smoothing = 0) {
  Row<T> row{0, std::vector<T>(z.size())};
  table.loss({kind, smoothing, 1.0, 1, static_cast<int>(z.size()), z.data(), nullptr, y.data(), &coefficient, 1.0,
              row.delta.data(), &row.loss});
  return row;
}

template <class T>
Row<T> evaluate(const KernelTable<T>& table, Loss kind, const std::vector<T>& z, std::int64_t label,
                double smoothing = 0) {
  Row<T> row{0, std::vector<T>(z.size())};
  const double one = 1;
  table.loss({kind, smoothing, 1.0, 1, static_cast<int>(z.size()), z.data(), &label, nullptr, &one, 1.0,
              row.delta.data(), &row.loss});
  return row;
}

} // namespace

TEST_CASE_TEMPLATE("a class and its one-hot row give the same bits", T, float, double) {
  const std::vector<T> z{T(0.3), T(-1.5), T(2.25), T(0)}, y{0, 0, 1, 0};
  for (const KernelTable<T>& table : all_tables<T>())
    for (const Loss kind : {Loss::softmax_cross_entropy, Loss::clipped_cross_entropy})
      for (const double smoothing : {0.0, 0.125}) {
        const auto by_class = evaluate(table, kind, z, 2, smoothing),
                   by_row = evaluate(table, kind, z, y, 1, smoothing);
        CHECK(by_class.loss == by_row.loss);
        CHECK(by_class.delta == by_row.delta);
      }
}

TEST_CASE_TEMPLATE("large logits overflow neither the loss nor its gradient", T, float, double) {
  const std::vector<T> z{T(1e6), T(-1e6), T(0)};
  for (const KernelTable<T>& table : all_tables<T>()) {
    const auto wrong = evaluate(table, Loss::softmax_cross_entropy, z, 1);
    CHECK(wrong.loss == 2e6);
    CHECK(wrong.delta == std::vector<T>{1, -1, 0});
    const auto right = evaluate(table, Loss::softmax_cross_entropy, z, 0);
    CHECK(right.loss == 0);
    CHECK(right.delta == std::vector<T>{0, 0, 0});
    const auto binary = evaluate(table, Loss::binary_cross_entropy, z, {0, 1, 1});
    CHECK(std::isfinite(binary.loss));
    CHECK(binary.delta == std::vector<T>{1, -1, T(-0.5)});
  }
}

TEST_CASE_TEMPLATE("a confidently wrong sample gets no gradient from the clipped cross-entropy", T, float, double) {
  const std::vector<T> z{T(40), T(0)};
  for (const KernelTable<T>& table : all_tables<T>()) {
    const auto clipped = evaluate(table, Loss::clipped_cross_entropy, z, 1);
    CHECK(clipped.delta == std::vector<T>{0, 0});
    CHECK(clipped.loss == static_cast<double>(-std::log(static_cast<T>(1e-7))));
    CHECK(evaluate(table, Loss::softmax_cross_entropy, z, 1).delta[1] == T(-1));
  }
}

TEST_CASE_TEMPLATE("regression losses are exact on dyadic residuals, at their kinks too", T, float, double) {
  const std::vector<T> z{T(0), T(1), T(1), T(-3)}, y{0, T(0.5), 0, 0};
  for (const KernelTable<T>& table : all_tables<T>()) {
    const auto mse = evaluate(table, Loss::mse, z, y, 0.5);
    CHECK(mse.loss == 0.5 * (0.25 + 1 + 9));
    CHECK(mse.delta == std::vector<T>{0, T(0.5), 1, -3});
    const auto mae = evaluate(table, Loss::mae, z, y);
    CHECK(mae.loss == 4.5);
    CHECK(mae.delta == std::vector<T>{0, 1, 1, -1});
    const auto huber = evaluate(table, Loss::huber, z, y);
    CHECK(huber.loss == 0.125 + 0.5 + 2.5);
    CHECK(huber.delta == std::vector<T>{0, T(0.5), 1, -1});
  }
}

TEST_CASE_TEMPLATE("NaN passes through every loss", T, float, double) {
  const std::vector<T> y{0, 1};
  for (const KernelTable<T>& table : all_tables<T>())
    for (int kind = 0; kind <= int(Loss::huber); ++kind)
      for (const std::size_t where : {0u, 1u}) {
        std::vector<T> z{T(0.5), T(-0.5)};
        z[where] = std::numeric_limits<T>::quiet_NaN();
        const auto row = evaluate(table, static_cast<Loss>(kind), z, y);
        INFO(table.isa << " loss " << kind);
        CHECK(std::isnan(row.loss));
        CHECK(std::isnan(row.delta[where]));
      }
}
