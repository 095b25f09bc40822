// The vector type of an instruction set that cannot run here, in emulation: arrays of the same geometry, so that the
// tiles and tails of the templates are tested on any machine.
#pragma once

#include <cstring>

#include "ops/table.inl.hpp"

namespace {

template <class S, int bytes, int Rows, int Vectors> struct Emulated {
  using Scalar = S;
  static constexpr int lanes = bytes / sizeof(S), tile_rows = Rows, tile_vectors = Vectors;
  static constexpr bool fused = false;
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
  /// In parts that the baseline has: GCC lowers a ? of wider vectors to one branch a number.
  [[gnu::noinline]] friend Emulated select(pyengine::ops::Mask<Emulated> mask, Emulated a, Emulated b) {
    typedef S Part __attribute__((vector_size(16)));
    for (int at = 0; at < bytes; at += 16) {
      Part yes, no;
      decltype(yes < no) which;
      std::memcpy(&which, reinterpret_cast<const char*>(&mask) + at, 16);
      std::memcpy(&yes, reinterpret_cast<const char*>(&a) + at, 16);
      std::memcpy(&no, reinterpret_cast<const char*>(&b) + at, 16);
      yes = which ? yes : no;
      std::memcpy(reinterpret_cast<char*>(&a) + at, &yes, 16);
    }
    return a;
  }
};

} // namespace
