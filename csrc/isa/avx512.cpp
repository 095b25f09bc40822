// AVX-512: 16 floats or 8 doubles, 32 registers: an 8 x 3 tile uses 24 to accumulate, 3 for B, 1 to broadcast A.
#include <immintrin.h>

#include "../dispatch.hpp"
#include "../ops/table.inl.hpp"

namespace pyengine {
namespace {

struct Float16 {
  using Scalar = float;
  static constexpr int lanes = 16, tile_rows = 8, tile_vectors = 3;
  static constexpr bool fused = true;
  __m512 v;

  static Float16 zero() { return {_mm512_setzero_ps()}; }
  static Float16 broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static Float16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  static Float16 load_part(const float* p, int count, Float16 padding) {
    return {_mm512_mask_loadu_ps(padding.v, first(count), p)};
  }
  void store_part(float* p, int count) const { _mm512_mask_storeu_ps(p, first(count), v); }
  static __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1); }
  /// Of two whole vectors GCC would make shuffles, which fewer units compute.
  template <unsigned of_b> static Float16 blend(Float16 a, Float16 b) {
    return {_mm512_mask_blend_ps(static_cast<__mmask16>(of_b), a.v, b.v)};
  }
  friend Float16 operator+(Float16 a, Float16 b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Float16 fma(Float16 a, Float16 b, Float16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
};

struct Double8 {
  using Scalar = double;
  static constexpr int lanes = 8, tile_rows = 8, tile_vectors = 3;
  static constexpr bool fused = true;
  __m512d v;

  static Double8 zero() { return {_mm512_setzero_pd()}; }
  static Double8 broadcast(double x) { return {_mm512_set1_pd(x)}; }
  static Double8 load(const double* p) { return {_mm512_loadu_pd(p)}; }
  void store(double* p) const { _mm512_storeu_pd(p, v); }
  static Double8 load_part(const double* p, int count, Double8 padding) {
    return {_mm512_mask_loadu_pd(padding.v, first(count), p)};
  }
  void store_part(double* p, int count) const { _mm512_mask_storeu_pd(p, first(count), v); }
  static __mmask8 first(int count) { return static_cast<__mmask8>((1u << count) - 1); }
  template <unsigned of_b> static Double8 blend(Double8 a, Double8 b) {
    return {_mm512_mask_blend_pd(static_cast<__mmask8>(of_b), a.v, b.v)};
  }
  friend Double8 operator+(Double8 a, Double8 b) { return {_mm512_add_pd(a.v, b.v)}; }
  friend Double8 fma(Double8 a, Double8 b, Double8 c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
};

} // namespace

constinit const Kernels avx512_kernels{ops::table<Float16>("avx512"), ops::table<Double8>("avx512")};

} // namespace pyengine
