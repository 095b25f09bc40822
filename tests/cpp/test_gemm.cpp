#include <doctest/doctest.h>

#include "products.hpp"

using namespace pyengine;

TEST_CASE_TEMPLATE("a product equals the exact sum, for every shape, with bias and accumulation", T, float, double) {
  for (const KernelTable<T>& table : all_tables<T>()) {
    CAPTURE(table.isa);
    std::vector<T> scratch(table.scratch_size());
    for (const int rows : sizes)
      for (const int n : sizes)
        for (const int k : depths) {
          const auto a = dyadic<T>(to_size(rows) * to_size(k), 1);
          const auto w = dyadic<T>(to_size(n) * to_size(k), 2);
          const auto bias = dyadic<T>(to_size(n), 3);
          const auto before = dyadic<T>(to_size(rows) * to_size(n), 4);
          for (const bool transposed : {false, true})
            for (const bool accumulate : {false, true}) {
              const auto b = packed(table, k, n, w, transposed);
              auto c = before;
              table.product({rows,
                             k,
                             n,
                             {a.data(), k, rows, 0},
                             b.data(),
                             {c.data(), n, rows, 0},
                             accumulate ? nullptr : bias.data(),
                             accumulate},
                            scratch.data());
              bool equal = true;
              for (int i = 0; i < rows; ++i)
                for (int j = 0; j < n; ++j) {
                  T sum = accumulate ? entry(before, n, i, j) : bias[to_size(j)];
                  for (int l = 0; l < k; ++l)
                    sum += entry(a, k, i, l) * (transposed ? entry(w, k, j, l) : entry(w, n, l, j));
                  equal = equal && entry(c, n, i, j) == sum;
                }
              INFO("rows " << rows << ", k " << k << ", n " << n << ", transposed " << transposed);
              CHECK(equal);
            }
        }
  }
}

TEST_CASE_TEMPLATE("a narrow product equals the exact sum and writes nothing beside it", T, float, double) {
  constexpr int gap = 3;
  for (const KernelTable<T>& table : all_tables<T>()) {
    CAPTURE(table.isa);
    for (const int rows : sizes)
      for (int n = 1; n <= table.lanes; ++n)
        for (const int k : depths)
          for (const bool has_bias : {false, true}) {
            const auto a = dyadic<T>(to_size(rows) * to_size(k), 1);
            const auto w = dyadic<T>(to_size(n) * to_size(k), 2);
            const auto bias = dyadic<T>(to_size(n), 3);
            std::vector<T> c(to_size(rows) * to_size(n + gap), T(99));
            table.narrow_product({rows,
                                  k,
                                  n,
                                  {a.data(), k, rows, 0},
                                  w.data(),
                                  {c.data(), n + gap, rows, 0},
                                  has_bias ? bias.data() : nullptr,
                                  false});
            bool equal = true;
            for (int i = 0; i < rows; ++i)
              for (int j = 0; j < n + gap; ++j) {
                T sum = has_bias && j < n ? bias[to_size(j)] : T(0);
                for (int l = 0; l < k && j < n; ++l) sum += entry(a, k, i, l) * entry(w, k, j, l);
                equal = equal && entry(c, n + gap, i, j) == (j < n ? sum : T(99));
              }
            INFO("rows " << rows << ", k " << k << ", n " << n << ", bias " << has_bias);
            CHECK(equal);
          }
  }
}

TEST_CASE_TEMPLATE("a product of two segments writes its rows and nothing between them", T, float, double) {
  constexpr int rows = 5, k = 9, n = 11, gap = 3;
  const auto a = dyadic<T>(2 * (rows + gap) * k, 1);
  const auto w = dyadic<T>(n * k, 2);
  for (const KernelTable<T>& table : all_tables<T>()) {
    CAPTURE(table.isa);
    std::vector<T> scratch(table.scratch_size());
    const auto b = packed(table, k, n, w, true);
    std::vector<T> c(2 * (rows + gap) * n, T(99));
    table.product({2 * rows,
                   k,
                   n,
                   {a.data(), k, rows, (rows + gap) * k},
                   b.data(),
                   {c.data(), n, rows, (rows + gap) * n},
                   nullptr,
                   false},
                  scratch.data());
    for (int i = 0; i < 2 * (rows + gap); ++i)
      for (int j = 0; j < n; ++j) {
        T sum = 0;
        for (int l = 0; l < k; ++l) sum += entry(a, k, i, l) * entry(w, k, j, l);
        CHECK(entry(c, n, i, j) == (i % (rows + gap) < rows ? sum : T(99)));
      }
  }
}

TEST_CASE_TEMPLATE("weight and bias gradients equal the exact sums, per loss and weighted, in one chunk or two", T,
                   float, double) {
  constexpr double weights[] = {1.0, 0.5, -0.25};
  for (const KernelTable<T>& table : all_tables<T>()) {
    CAPTURE(table.isa);
    std::vector<T> scratch(table.scratch_size());
    for (const int streams : {1, 3})
      for (const int n_out : {1, 5, 17, 50, 261})
        for (const int n_in : {1, 7, 16, 49, 307})
          for (const int rows : {1, 6, 33, 300}) {
            if ((n_out > 256 || n_in > 256) && rows == 300 && streams == 1) continue; // slow, and nothing new
            const auto x = dyadic<T>(to_size(rows) * to_size(n_in), 1);
            const auto delta = dyadic<T>(to_size(streams) * to_size(rows) * to_size(n_out), 2);
            const std::size_t size = to_size(n_out) * to_size(n_in), shift = 4;
            std::vector<std::vector<T>> dw(to_size(streams), std::vector<T>(size + shift, T(99))), db = dw;
            std::vector<T> dw_sum(size, T(99)), db_sum(size, T(99));
            std::vector<T*> dw_at, db_at;
            for (auto& v : dw) dw_at.push_back(v.data());
            for (auto& v : db) db_at.push_back(v.data());
            const std::ptrdiff_t stride = std::ptrdiff_t(rows) * n_out;
            const int cut = rows / 2;
            for (const auto& [begin, end] : {std::pair{0, cut}, std::pair{cut, rows}}) {
              if (begin == end) continue;
              const T* d = delta.data() + std::ptrdiff_t(begin) * n_out;
              const T* in = x.data() + std::ptrdiff_t(begin) * n_in;
              const bool first = begin == 0, last = end == rows;
              const int count = end - begin, room = count + 3;
              std::vector<T> x_panels(table.x_panels_size(room, n_in));
              const std::size_t set = table.delta_panels_size(room, n_out);
              std::vector<T> delta_panels(set * to_size(streams));
              for (const auto& [from, to] : {std::pair{0, count / 3}, std::pair{count / 3, count}}) {
                if (!x_panels.empty())
                  table.pack_x({from, to - from, n_in, in + std::ptrdiff_t(from) * n_in, x_panels.data(), room});
                for (int s = 0; s < streams && set > 0; ++s)
                  table.pack_delta({from, to - from, n_out, d + s * stride + std::ptrdiff_t(from) * n_out,
                                    delta_panels.data() + to_size(s) * set, room});
              }
              for (int n = 0; n < n_in; n += table.n_tile)
                table.weight_gradient({end - begin,
                                       n_out,
                                       n_in,
                                       0,
                                       n_out,
                                       n,
                                       std::min(n_in, n + table.n_tile),
                                       in,
                                       x_panels.empty() ? nullptr : x_panels.data(),
                                       streams,
                                       d,
                                       set > 0 ? delta_panels.data() : nullptr,
                                       stride,
                                       room,
                                       dw_at.data(),
                                       shift,
                                       dw_sum.data(),
                                       weights,
                                       first,
                                       last},
                                      scratch.data());
              table.bias_gradient({end - begin, n_out, 0, n_out, streams, d, stride, db_at.data(), shift, db_sum.data(),
                                   weights, first, last});
            }
            bool equal = true;
            for (int m = 0; m < n_out; ++m) {
              std::vector<T> bias_sums(to_size(streams));
              for (int n = 0; n < n_in; ++n) {
                const std::size_t at = to_size(m) * to_size(n_in) + to_size(n);
                T total = 0;
                for (int s = 0; s < streams; ++s) {
                  T sum = 0, bias = 0;
                  for (int r = 0; r < rows; ++r) {
                    const T d = delta[to_size(s * rows + r) * to_size(n_out) + to_size(m)];
                    sum += d * entry(x, n_in, r, n);
                    bias += d;
                  }
                  bias_sums[to_size(s)] = bias;
                  total += static_cast<T>(weights[s]) * sum;
                  equal = equal && dw[to_size(s)][shift + at] == sum;
                }
                equal = equal && dw_sum[at] == total;
              }
              T bias_total = 0;
              for (int s = 0; s < streams; ++s) {
                equal = equal && db[to_size(s)][shift + to_size(m)] == bias_sums[to_size(s)];
                bias_total += static_cast<T>(weights[s]) * bias_sums[to_size(s)];
              }
              equal = equal && db_sum[to_size(m)] == bias_total;
            }
            for (const auto& v : dw) equal = equal && v[0] == T(99) && v[shift - 1] == T(99);
            INFO("streams " << streams << ", n_out " << n_out << ", n_in " << n_in << ", rows " << rows);
            CHECK(equal);
          }
  }
}

TEST_CASE_TEMPLATE("inner products are exact where double is", T, float, double) {
  for (const KernelTable<T>& table : all_tables<T>())
    for (const std::size_t count : {0, 1, 7, 8, 9, 1000}) {
      const auto a = dyadic<T>(count, 1), b = dyadic<T>(count, 2);
      const auto product = [count](const std::vector<T>& u, const std::vector<T>& v) {
        double sum = 0;
        for (std::size_t i = 0; i < count; ++i) sum += double(u[i]) * double(v[i]);
        return sum;
      };
      const Dots dots = table.dots(count, a.data(), b.data());
      CHECK(dots.aa == product(a, a));
      CHECK(dots.ab == product(a, b));
      CHECK(dots.bb == product(b, b));
    }
}
