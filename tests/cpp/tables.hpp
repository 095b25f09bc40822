// Every table of kernels that can run here, and those that cannot in emulation: the same templates over arrays of the
// same geometry, so that the tiles and tails of an instruction set are tested on any machine.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "ops/table.inl.hpp"

namespace {

template <class S, int bytes, int Rows, int Vectors> struct Emulated {
  using Scalar = S;
  static constexpr int lanes = bytes / sizeof(S), tile_rows = Rows, tile_vectors = Vectors;
  // The compiler's own vectors: it lowers them to what the baseline has.
  typedef S Lanes __attribute__((vector_size(bytes)));
  Lanes v;

  static Emulated zero() { return {Lanes{}}; }
  static Emulated broadcast(S x) { return {Lanes{} + x}; }
  static Emulated load(const S* p) {
    Emulated r;
    std::memcpy(&r.v, p, bytes);
    return r;
  }
  void store(S* p) const { std::memcpy(p, &v, bytes); }
  friend Emulated operator+(Emulated a, Emulated b) { return {a.v + b.v}; }
  friend Emulated fma(Emulated a, Emulated b, Emulated c) { return {a.v * b.v + c.v}; }
};

template <class T> std::vector<pyengine::KernelTable<T>> all_tables() {
  std::vector<pyengine::KernelTable<T>> tables;
  for (const std::string& isa : pyengine::available_isas()) {
    pyengine::choose_isa(isa);
    tables.push_back(pyengine::kernels().of<T>());
  }
  pyengine::choose_isa(pyengine::available_isas().front());
  tables.push_back(pyengine::ops::table<Emulated<T, 64, 8, 3>>("avx512 emulated"));
  tables.push_back(pyengine::ops::table<Emulated<T, 16, 8, 3>>("128 bits emulated"));
  return tables;
}

/// Multiples of 1/8 up to 2: products of two have six fractional bits, so that sums of a few thousand of them are exact
/// in float, in any order, and results can be compared with ==.
template <class T> std::vector<T> dyadic(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> eighths(-16, 16);
  std::vector<T> numbers(count);
  for (T& x : numbers) x = static_cast<T>(eighths(random)) / T(8);
  return numbers;
}

template <class I> std::size_t to_size(I n) { return static_cast<std::size_t>(n); }

} // namespace
