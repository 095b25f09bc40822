// Products whose factors lie otherwise than in rows or panels, and what is done to a product as it is stored.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "products.hpp"

using namespace pyengine;

TEST_CASE_TEMPLATE("a product reads factors that lie otherwise, and ends in ReLU or its derivative, exactly", T, float,
                   double) {
  for (const KernelTable<T>& table : all_tables<T>()) {
    CAPTURE(table.isa);
    std::vector<T> scratch(table.scratch_size());
    for (const int rows : {1, 7, 8, 17})
      for (const int n : {1, 5, 16, 32, 48, 50})
        for (const int k : {1, 7, 257}) {
          const auto a = dyadic<T>(to_size(rows) * to_size(k), 1), w = dyadic<T>(to_size(k) * to_size(n), 2),
                     before = dyadic<T>(to_size(rows) * to_size(n), 4), gate = dyadic<T>(before.size(), 5);
          const auto b = packed(table, k, n, w, false);
          std::vector<T> a_across(a.size());
          for (int i = 0; i < rows; ++i)
            for (int l = 0; l < k; ++l) a_across[to_size(l) * to_size(rows) + to_size(i)] = entry(a, k, i, l);
          for (const bool across : {false, true})
            for (const bool as_it_lies : {false, true})
              for (const int end : {0, 1, 2}) {
                if ((across && table.lanes == 0) || (as_it_lies && !table.reads_as_it_lies(k, n))) continue;
                auto c = before;
                table.product({rows,
                               k,
                               n,
                               {across ? a_across.data() : a.data(), across ? 1 : k, rows, 0},
                               as_it_lies ? w.data() : b.data(),
                               {c.data(), n, rows, 0},
                               nullptr,
                               true,
                               across ? rows : 1,
                               as_it_lies ? n : 0,
                               1,
                               end == 1,
                               end == 2 ? gate.data() : nullptr},
                              scratch.data());
                bool equal = true;
                for (int i = 0; i < rows; ++i)
                  for (int j = 0; j < n; ++j) {
                    T sum = entry(before, n, i, j);
                    for (int l = 0; l < k; ++l) sum += entry(a, k, i, l) * entry(w, n, l, j);
                    if (end == 1 && sum < T(0)) sum = 0;
                    if (end == 2 && entry(gate, n, i, j) <= T(0)) sum = 0;
                    equal = equal && entry(c, n, i, j) == sum;
                  }
                INFO("rows " << rows << ", k " << k << ", n " << n << ", across " << across << ", as it lies "
                             << as_it_lies << ", end " << end);
                CHECK(equal);
              }
        }
  }
}

TEST_CASE_TEMPLATE("products onto one C add up exactly, together in registers or one by one", T, float, double) {
  struct Part {
    int k;
    bool across, as_it_lies;
  };
  // All along; all across; some each way; one too deep for a tile; more than fit one.
  const std::vector<std::vector<Part>> sums{{{10, false, true}, {1, false, false}},
                                            {{10, true, true}, {1, true, false}, {3, true, true}},
                                            {{10, false, false}, {1, true, true}},
                                            {{300, false, false}, {2, false, true}},
                                            std::vector<Part>(9, {2, true, true})};
  for (const KernelTable<T>& table : all_tables<T>()) {
    CAPTURE(table.isa);
    std::vector<T> scratch(table.scratch_size());
    for (const int rows : {1, 8, 17})
      for (const int n : {5, 16, 50})
        for (const auto& parts : sums)
          for (const bool accumulate : {false, true}) {
            const auto bias = dyadic<T>(to_size(n), 3), before = dyadic<T>(to_size(rows) * to_size(n), 4),
                       gate = dyadic<T>(before.size(), 5);
            auto c = before, expected = before;
            if (!accumulate)
              for (std::size_t at = 0; at < expected.size(); ++at) expected[at] = bias[at % bias.size()];
            std::vector<std::vector<T>> kept;
            std::vector<Product<T>> products;
            for (const auto& [k, wants_across, wants_as_it_lies] : parts) {
              const bool across = wants_across && table.lanes > 0,
                         as_it_lies = wants_as_it_lies && table.reads_as_it_lies(k, n);
              const bool first = products.empty(), last = products.size() + 1 == parts.size();
              const unsigned seed = 6 + 2 * static_cast<unsigned>(products.size());
              auto a = dyadic<T>(to_size(rows) * to_size(k), seed), w = dyadic<T>(to_size(k) * to_size(n), seed + 1);
              const auto at = [&](int i, int l) { return across ? entry(a, rows, l, i) : entry(a, k, i, l); };
              for (int i = 0; i < rows; ++i)
                for (int j = 0; j < n; ++j)
                  for (int l = 0; l < k; ++l)
                    expected[to_size(i) * to_size(n) + to_size(j)] += at(i, l) * entry(w, n, l, j);
              if (!as_it_lies) w = packed(table, k, n, w, false);
              kept.push_back(std::move(a));
              kept.push_back(std::move(w));
              products.push_back({rows,
                                  k,
                                  n,
                                  {kept[kept.size() - 2].data(), across ? 1 : k, rows, 0},
                                  kept.back().data(),
                                  {c.data(), n, rows, 0},
                                  first && !accumulate ? bias.data() : nullptr,
                                  accumulate || !first,
                                  across ? rows : 1,
                                  as_it_lies ? n : 0,
                                  1,
                                  last && accumulate,
                                  last && !accumulate ? gate.data() : nullptr});
            }
            for (std::size_t p = 0; p + 1 < products.size(); ++p) products[p].also = &products[p + 1];
            table.product(products[0], scratch.data());
            for (std::size_t at = 0; at < expected.size(); ++at)
              if ((accumulate ? expected : gate)[at] <= T(0)) expected[at] = 0;
            INFO("rows " << rows << ", n " << n << ", products " << parts.size() << " from k " << parts[0].k);
            CHECK(c == expected);
          }
  }
}

TEST_CASE_TEMPLATE("ReLU at the end of a product lets NaN through, and a closed gate an infinity's NaN", T, float,
                   double) {
  const T nan = std::numeric_limits<T>::quiet_NaN(), infinity = std::numeric_limits<T>::infinity();
  for (const KernelTable<T>& table : all_tables<T>()) {
    CAPTURE(table.isa);
    std::vector<T> scratch(table.scratch_size());
    const std::vector<T> a{1}, w{1, 1, 1}, gate{0, 1, 0};
    const auto b = packed(table, 1, 3, w, false);
    const auto run = [&](std::vector<T> c, bool rectify) {
      table.product({1,
                     1,
                     3,
                     {a.data(), 1, 1, 0},
                     b.data(),
                     {c.data(), 3, 1, 0},
                     nullptr,
                     true,
                     1,
                     0,
                     1,
                     rectify,
                     rectify ? nullptr : gate.data()},
                    scratch.data());
      return c;
    };
    const auto rectified = run({nan, -infinity, T(-1)}, true), gated = run({infinity, nan, T(-2)}, false);
    CHECK(std::isnan(rectified[0]));
    CHECK(rectified[1] == T(0));
    CHECK(rectified[2] == T(0));
    CHECK(std::isnan(gated[0]));
    CHECK(std::isnan(gated[1]));
    CHECK(gated[2] == T(0));
  }
}

TEST_CASE_TEMPLATE("a narrow product that lies across is the same one, and writes nothing beside it", T, float,
                   double) {
  constexpr int gap = 3;
  for (const KernelTable<T>& table : all_tables<T>()) {
    CAPTURE(table.isa);
    for (const int rows : sizes)
      for (int n = 1; n <= table.lanes; ++n)
        for (const int k : depths) {
          const auto a = dyadic<T>(to_size(rows) * to_size(k), 1), w = dyadic<T>(to_size(n) * to_size(k), 2),
                     bias = dyadic<T>(to_size(n), 3);
          std::vector<T> along(to_size(rows) * to_size(n)), across(to_size(rows + gap) * to_size(n), T(99));
          const Rows<const T> left{a.data(), k, rows, 0};
          table.narrow_product({rows, k, n, left, w.data(), {along.data(), n, rows, 0}, bias.data(), false});
          table.narrow_product(
              {rows, k, n, left, w.data(), {across.data(), 1, rows, 0}, bias.data(), false, 1, 0, rows + gap});
          bool equal = true;
          for (int j = 0; j < n; ++j)
            for (int i = 0; i < rows + gap; ++i)
              equal = equal && entry(across, rows + gap, j, i) == (i < rows ? entry(along, n, i, j) : T(99));
          INFO("rows " << rows << ", k " << k << ", n " << n);
          CHECK(equal);
        }
  }
}

TEST_CASE_TEMPLATE("weight and bias gradients of a delta that lies across equal the exact sums", T, float, double) {
  const double weights[] = {0.5};
  for (const KernelTable<T>& table : all_tables<T>()) {
    CAPTURE(table.isa);
    std::vector<T> scratch(table.scratch_size());
    for (int n_out = 1; n_out <= table.lanes; ++n_out)
      for (const int n_in : {1, 7, 16, 48, 49})
        for (const int rows : {1, 6, 16, 33, 515}) {
          const int room = rows + 3, cut = rows / 2;
          const auto x = dyadic<T>(to_size(rows) * to_size(n_in), 1), delta = dyadic<T>(to_size(n_out * room), 2);
          std::vector<T> dw(to_size(n_out * n_in)), db(to_size(n_out)), dw_sum = dw, db_sum = db;
          T *const dw_at = dw.data(), *const db_at = db.data();
          for (const auto& [begin, end] : {std::pair{0, cut}, std::pair{cut, rows}}) {
            if (begin == end) continue;
            const bool first = begin == 0, last = end == rows;
            table.weight_gradient({end - begin,
                                   n_out,
                                   n_in,
                                   0,
                                   n_out,
                                   0,
                                   n_in,
                                   x.data() + begin * n_in,
                                   nullptr,
                                   1,
                                   delta.data() + begin,
                                   nullptr,
                                   0,
                                   room,
                                   &dw_at,
                                   0,
                                   dw_sum.data(),
                                   weights,
                                   first,
                                   last,
                                   room},
                                  scratch.data());
            table.bias_gradient({end - begin, n_out, 0, n_out, 1, delta.data() + begin, 0, &db_at, 0, db_sum.data(),
                                 weights, first, last, room});
          }
          bool equal = true;
          for (int m = 0; m < n_out; ++m) {
            T bias = 0;
            for (int r = 0; r < rows; ++r) bias += entry(delta, room, m, r);
            equal = equal && db[to_size(m)] == bias && db_sum[to_size(m)] == bias / 2;
            for (int n = 0; n < n_in; ++n) {
              T sum = 0;
              for (int r = 0; r < rows; ++r) sum += entry(delta, room, m, r) * entry(x, n_in, r, n);
              equal = equal && entry(dw, n_in, m, n) == sum && entry(dw_sum, n_in, m, n) == sum / 2;
            }
          }
          INFO("n_out " << n_out << ", n_in " << n_in << ", rows " << rows);
          CHECK(equal);
        }
  }
}
