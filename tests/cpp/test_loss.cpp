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

TEST_CASE_TEMPLATE("a confidently wrong output gets no gradient from the clipped binary cross-entropy", T, float,
                   double) {
  const std::vector<T> z{T(40), T(-40), T(0)}, y{0, 1, 1};
  for (const KernelTable<T>& table : all_tables<T>()) {
    const auto clipped = evaluate(table, Loss::clipped_binary_cross_entropy, z, y);
    CHECK(clipped.delta == std::vector<T>{0, 0, T(-0.5)});
    const auto wrong = evaluate(table, Loss::clipped_binary_cross_entropy, std::vector<T>{T(-40)}, std::vector<T>{1});
    CHECK(wrong.loss == static_cast<double>(-std::log(static_cast<T>(1e-7))));
    CHECK(evaluate(table, Loss::binary_cross_entropy, z, y).delta == std::vector<T>{1, -1, T(-0.5)});
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

TEST_CASE_TEMPLATE("a row's loss and gradient depend neither on its place in the batch nor on the batch", T, float,
                   double) {
  constexpr int rows = 37;
  const double coefficients[rows] = {0.5, 1, 2};
  for (const KernelTable<T>& table : all_tables<T>())
    for (int kind = 0; kind <= int(Loss::clipped_binary_cross_entropy); ++kind)
      // Around the number of lanes, and where short rows end.
      for (const int n : {1, 2, 3, 8, 10, 16, 17, 32, 33, 63, 64, 65, 100}) {
        const std::size_t count = to_size(rows) * to_size(n);
        const auto z = dyadic<T>(count, 1), y = dyadic<T>(count, 2);
        std::vector<std::int64_t> classes;
        for (int i = 0; i < rows; ++i) classes.push_back(i * 7 % n);
        for (const bool by_class : {false, true}) {
          if (by_class && kind > int(Loss::clipped_cross_entropy)) continue;
          std::vector<T> whole(count), alone(count);
          std::vector<double> losses(rows), loss_alone(rows);
          const auto run = [&](int begin, int end, std::vector<T>& delta, std::vector<double>& loss) {
            const std::size_t at = to_size(begin) * to_size(n);
            table.loss({static_cast<Loss>(kind), 0.125, 1.0, end - begin, n, z.data() + at,
                        by_class ? classes.data() + begin : nullptr, by_class ? nullptr : y.data() + at,
                        coefficients + begin, 0.5, delta.data() + at, loss.data() + begin});
          };
          run(0, rows, whole, losses);
          for (int i = 0; i < rows; ++i) run(i, i + 1, alone, loss_alone);
          INFO(table.isa << " loss " << kind << " of " << n);
          CHECK(whole == alone);
          CHECK(losses == loss_alone);
        }
      }
}

TEST_CASE_TEMPLATE("outputs that lie across give the same bits, and nothing is written beside them", T, float, double) {
  constexpr int gap = 3;
  for (const KernelTable<T>& table : all_tables<T>())
    for (int kind = 0; kind <= int(Loss::clipped_binary_cross_entropy); ++kind)
      for (int n = 1; n <= table.lanes; ++n)
        for (const int rows : {1, 16, 37})
          for (const bool by_class : {false, true}) {
            if (by_class && kind > int(Loss::clipped_cross_entropy)) continue;
            const std::size_t count = to_size(rows) * to_size(n), room = to_size(rows + gap);
            const auto z = dyadic<T>(count, 1), y = dyadic<T>(count, 2);
            std::vector<std::int64_t> classes;
            std::vector<double> coefficients, losses(to_size(rows)), losses_across(to_size(rows));
            for (int i = 0; i < rows; ++i) classes.push_back(i * 7 % n), coefficients.push_back(1.0 / (1 + i));
            std::vector<T> z_across(to_size(n) * room, T(99)), delta_across = z_across, delta(count);
            const auto place = [&](std::size_t at) { return at % to_size(n) * room + at / to_size(n); };
            for (std::size_t at = 0; at < count; ++at) z_across[place(at)] = z[at];
            const auto run = [&](const std::vector<T>& from, std::vector<T>& to, std::vector<double>& loss,
                                 std::ptrdiff_t across) {
              table.loss({static_cast<Loss>(kind), 0.125, 1.0, rows, n, from.data(),
                          by_class ? classes.data() : nullptr, by_class ? nullptr : y.data(), coefficients.data(), 0.5,
                          to.data(), loss.data(), across});
            };
            run(z, delta, losses, 0);
            run(z_across, delta_across, losses_across, std::ptrdiff_t(room));
            std::vector<T> expected(to_size(n) * room, T(99));
            for (std::size_t at = 0; at < count; ++at) expected[place(at)] = delta[at];
            INFO(table.isa << " loss " << kind << " of " << n << ", rows " << rows);
            CHECK(delta_across == expected);
            CHECK(losses_across == losses);
          }
}

TEST_CASE_TEMPLATE("NaN passes through every loss", T, float, double) {
  for (const KernelTable<T>& table : all_tables<T>())
    for (int kind = 0; kind <= int(Loss::clipped_binary_cross_entropy); ++kind)
      for (const std::size_t where : {0u, 1u, 69u}) {
        // A short row and a long one.
        std::vector<T> z(where < 2 ? 2 : 70, T(0.5));
        const std::vector<T> y(z.size(), T(1));
        z[where] = std::numeric_limits<T>::quiet_NaN();
        const auto row = evaluate(table, static_cast<Loss>(kind), z, y);
        INFO(table.isa << " loss " << kind);
        CHECK(std::isnan(row.loss));
        CHECK(std::isnan(row.delta[where]));
      }
}
