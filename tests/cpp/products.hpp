// Sizes and operands of products.
#pragma once

#include "tables.hpp"

namespace {

constexpr int sizes[] = {1, 3, 4, 5, 7, 8, 9, 14, 16, 17, 26, 50};
constexpr int depths[] = {1, 2, 7, 16, 257, 515}; // beyond one and two blocks of k

template <class T>
std::vector<T> packed(const pyengine::KernelTable<T>& table, int k, int n, const std::vector<T>& w, bool transposed) {
  std::vector<T> to(table.packed_size(k, n));
  table.pack({k, n, w.data(), transposed, to.data()}, 0, table.pieces(k, n));
  return to;
}

template <class T> T entry(const std::vector<T>& a, int columns, int i, int j) {
  return a[to_size(i) * to_size(columns) + to_size(j)];
}

} // namespace
