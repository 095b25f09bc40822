// AVX2 + FMA: 8 floats or 4 doubles, 16 registers: a 6 x 2 tile uses 12 to accumulate, 2 for B, 1 to broadcast A.
#include <immintrin.h>

#include "../dispatch.hpp"
#include "../ops/table.inl.hpp"

namespace pyengine {
namespace {

struct Float8 {
  using Scalar = float;
  static constexpr int lanes = 8, tile_rows = 6, tile_vectors = 2;
  static constexpr bool fused = true;
  __m256 v;

  static Float8 zero() { return {_mm256_setzero_ps()}; }
  static Float8 broadcast(float x) { return {_mm256_set1_ps(x)}; }
  static Float8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  static Float8 load_part(const float* p, int count, Float8 padding) {
    const __m256i in = first(count);
    return {_mm256_blendv_ps(padding.v, _mm256_maskload_ps(p, in), _mm256_castsi256_ps(in))};
  }
  void store_part(float* p, int count) const { _mm256_maskstore_ps(p, first(count), v); }
  static __m256i first(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  friend Float8 operator+(Float8 a, Float8 b) { return {_mm256_add_ps(a.v, b.v)}; }
  // Of two operands the instruction returns the second where one is NaN.
  friend Float8 at_least(Float8 a, Float8 bound) { return {_mm256_max_ps(bound.v, a.v)}; }
  friend Float8 at_most(Float8 a, Float8 bound) { return {_mm256_min_ps(bound.v, a.v)}; }
  friend Float8 fma(Float8 a, Float8 b, Float8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
};

struct Double4 {
  using Scalar = double;
  static constexpr int lanes = 4, tile_rows = 6, tile_vectors = 2;
  static constexpr bool fused = true;
  __m256d v;

  static Double4 zero() { return {_mm256_setzero_pd()}; }
  static Double4 broadcast(double x) { return {_mm256_set1_pd(x)}; }
  static Double4 load(const double* p) { return {_mm256_loadu_pd(p)}; }
  void store(double* p) const { _mm256_storeu_pd(p, v); }
  static Double4 load_part(const double* p, int count, Double4 padding) {
    const __m256i in = first(count);
    return {_mm256_blendv_pd(padding.v, _mm256_maskload_pd(p, in), _mm256_castsi256_pd(in))};
  }
  void store_part(double* p, int count) const { _mm256_maskstore_pd(p, first(count), v); }
  static __m256i first(int count) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  friend Double4 operator+(Double4 a, Double4 b) { return {_mm256_add_pd(a.v, b.v)}; }
  // Of two operands the instruction returns the second where one is NaN.
  friend Double4 at_least(Double4 a, Double4 bound) { return {_mm256_max_pd(bound.v, a.v)}; }
  friend Double4 at_most(Double4 a, Double4 bound) { return {_mm256_min_pd(bound.v, a.v)}; }
  friend Double4 fma(Double4 a, Double4 b, Double4 c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
};

} // namespace

constinit const Kernels avx2_kernels{ops::table<Float8>("avx2"), ops::table<Double4>("avx2")};

} // namespace pyengine
