// Inputs whose products are exact, and checks of whole matrices at the cost of a few vectors.
#pragma once

#include <cstdint>
#include <new>
#include <random>
#include <vector>

namespace pyengine::bench {

/// Memory as the kernel's own: on a cache line.
template <class T> struct OnLine {
  using value_type = T;
  OnLine() = default;
  template <class U> OnLine(const OnLine<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t{64}); }
  friend bool operator==(OnLine, OnLine) { return true; }
};

template <class T> using Numbers = std::vector<T, OnLine<T>>;

template <class I> std::size_t to_size(I n) { return static_cast<std::size_t>(n); }

/// Multiples of 1/8 up to 2: products of two have six fractional bits, so that sums of some thousands of them are exact
/// in float, in any order, and are compared with ==.
template <class T> Numbers<T> dyadic(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  Numbers<T> numbers(count);
  for (T& x : numbers) x = static_cast<T>(static_cast<int>(random() >> 27) - 16) / T(8);
  return numbers;
}

// Freivalds (1977): C = A·B where C·v = A·(B·v) for a random v. A wrong row of C passes with probability 2⁻¹⁵ at most.
// With whole numbers up to 2¹⁵ in v, all of it is exact in double.

inline std::vector<double> random_vector(int n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<double> v(to_size(n));
  for (double& x : v) x = 1.0 + static_cast<double>(random() >> 17);
  return v;
}

/// M·v, M (rows, columns).
template <class T> std::vector<double> times(int rows, int columns, const T* m, const std::vector<double>& v) {
  std::vector<double> product(to_size(rows));
  for (int i = 0; i < rows; ++i, m += columns) {
    double sum = 0;
    for (int j = 0; j < columns; ++j) sum += static_cast<double>(m[j]) * v[to_size(j)];
    product[to_size(i)] = sum;
  }
  return product;
}

/// Mᵀ·v, M (rows, columns).
template <class T>
std::vector<double> transposed_times(int rows, int columns, const T* m, const std::vector<double>& v) {
  std::vector<double> product(to_size(columns));
  for (int i = 0; i < rows; ++i, m += columns)
    for (int j = 0; j < columns; ++j) product[to_size(j)] += static_cast<double>(m[j]) * v[to_size(i)];
  return product;
}

} // namespace pyengine::bench
