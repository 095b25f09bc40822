// SSE2, the x86-64 baseline: 4 floats or 2 doubles, no fused multiply-add, 16 registers of which a 4 x 2 tile
// accumulates in 8; the products need a register of their own.
#include <emmintrin.h>

#include "../dispatch.hpp"
#include "../ops/table.inl.hpp"

namespace pyengine {
namespace {

struct Float4 {
  using Scalar = float;
  static constexpr int lanes = 4, tile_rows = 4, tile_vectors = 2;
  static constexpr bool fused = false;
  __m128 v;

  static Float4 zero() { return {_mm_setzero_ps()}; }
  static Float4 broadcast(float x) { return {_mm_set1_ps(x)}; }
  static Float4 load(const float* p) { return {_mm_loadu_ps(p)}; }
  void store(float* p) const { _mm_storeu_ps(p, v); }
  friend Float4 operator+(Float4 a, Float4 b) { return {_mm_add_ps(a.v, b.v)}; }
  // Of two operands the instruction returns the second where one is NaN.
  friend Float4 at_least(Float4 a, Float4 bound) { return {_mm_max_ps(bound.v, a.v)}; }
  friend Float4 at_most(Float4 a, Float4 bound) { return {_mm_min_ps(bound.v, a.v)}; }
  friend Float4 fma(Float4 a, Float4 b, Float4 c) { return {_mm_add_ps(_mm_mul_ps(a.v, b.v), c.v)}; }
};

struct Double2 {
  using Scalar = double;
  static constexpr int lanes = 2, tile_rows = 4, tile_vectors = 2;
  static constexpr bool fused = false;
  __m128d v;

  static Double2 zero() { return {_mm_setzero_pd()}; }
  static Double2 broadcast(double x) { return {_mm_set1_pd(x)}; }
  static Double2 load(const double* p) { return {_mm_loadu_pd(p)}; }
  void store(double* p) const { _mm_storeu_pd(p, v); }
  friend Double2 operator+(Double2 a, Double2 b) { return {_mm_add_pd(a.v, b.v)}; }
  // Of two operands the instruction returns the second where one is NaN.
  friend Double2 at_least(Double2 a, Double2 bound) { return {_mm_max_pd(bound.v, a.v)}; }
  friend Double2 at_most(Double2 a, Double2 bound) { return {_mm_min_pd(bound.v, a.v)}; }
  friend Double2 fma(Double2 a, Double2 b, Double2 c) { return {_mm_add_pd(_mm_mul_pd(a.v, b.v), c.v)}; }
};

} // namespace

constinit const Kernels sse2_kernels{ops::table<Float4>("sse2"), ops::table<Double2>("sse2")};

} // namespace pyengine
