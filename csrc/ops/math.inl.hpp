// exp, expm1, log, log1p, tanh and erfc of a whole vector, without tables, calls or branches, so that a number's result
// does not depend on its lane or its neighbours. docs/elementary.md has the methods and the measured errors; the
// polynomials come from tools/fit_elementary.py.
//
// Nothing below relies on fma() being fused: where a product must be exact, its factors are short enough.
#pragma once

#include "lanes.inl.hpp"

namespace pyengine::ops {

template <class V, class T = typename V::Scalar> struct Format;

template <class V> struct Format<V, float> {
  typedef float T;
  typedef uint32_t Word;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr Word one = 0x3f800000, root_half = 0x3f3504f3;
  static constexpr T shift = 0x1.8p23f, least_normal = 0x1p-126f, lift = 0x1p24f, tiny = 0x1p-100f;
  static constexpr int lift_exponent = 24;
  static constexpr T log2_e = 0x1.715476p+0f, log_2_high = 0x1.63p-1f, log_2_low = -0x1.bd0106p-13f;
  static constexpr Word upper_half = 0xfffff000; // of a number: its square is exact
  // Beyond these, exp is infinite or 0, expm1 -1, tanh 1, erfc 0.
  static constexpr T exp_most = 89, exp_least = -104, expm1_least = -18, tanh_most = 10, erfc_most = 10.1f;
  static constexpr T erfc_pole = 3;
  static constexpr T exp[] = {0x1p-1f, 0x1.555554p-3f, 0x1.5554fp-5f, 0x1.111306p-7f, 0x1.6d4388p-10f, 0x1.9e0cbep-13f};
  static constexpr T log[] = {0x1.555554p-1f, 0x1.999bd4p-2f, 0x1.23f1ap-2f, 0x1.ec1e3ep-3f};
  static constexpr T erf[] = {0x1.06eba6p-3f,  -0x1.81271ap-2f, 0x1.ce2628p-4f,
                              -0x1.b75fbcp-6f, 0x1.4d31dcp-8f,  -0x1.57cddp-11f};
  static constexpr T erfc[] = {-0x1.15c084p-3f, -0x1.85a166p-5f, 0x1.09834p-3f,   -0x1.e88af8p-4f,  0x1.17cf08p-4f,
                               -0x1.85896p-6f,  0x1.47531ep-9f,  0x1.f413c2p-10f, -0x1.63d552p-11f, -0x1.0e8f84p-13f};
  static constexpr T erfc_low = 0x1.b099a2p-25f, erfc_high = 0x1.40c522p+0f;
};

template <class V> struct Format<V, double> {
  typedef double T;
  typedef uint64_t Word;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr Word one = 0x3ff0000000000000, root_half = 0x3fe6a09e667f3bcd;
  static constexpr T shift = 0x1.8p52, least_normal = 0x1p-1022, lift = 0x1p54, tiny = 0x1p-900;
  static constexpr int lift_exponent = 54;
  static constexpr T log2_e = 0x1.71547652b82fep+0, log_2_high = 0x1.62e42feep-1, log_2_low = 0x1.a39ef35793c76p-33;
  static constexpr Word upper_half = 0xfffffffff8000000;
  static constexpr T exp_most = 710, exp_least = -746, expm1_least = -38, tanh_most = 20, erfc_most = 27.3;
  static constexpr T erfc_pole = 4;
  static constexpr T exp[] = {0x1p-1,
                              0x1.5555555555559p-3,
                              0x1.555555555554dp-5,
                              0x1.111111110f64bp-7,
                              0x1.6c16c16c1aaf2p-10,
                              0x1.a01a01b00a5d2p-13,
                              0x1.a01a018e1839cp-16,
                              0x1.71ddf7f7e6db7p-19,
                              0x1.27e5131697948p-22,
                              0x1.af5f5eb1da4f3p-26,
                              0x1.1f1a892d9108fp-29};
  static constexpr T log[] = {0x1.5555555555592p-1, 0x1.999999997ff1dp-2, 0x1.24924941e1279p-2, 0x1.c71c52145bcc4p-3,
                              0x1.74663cf268af2p-3, 0x1.39a1e77670dp-3,   0x1.2f03d05127f06p-3};
  static constexpr T erf[] = {0x1.06eba8214db68p-3,   -0x1.812746b0379bfp-2,  0x1.ce2f21a04112dp-4,
                              -0x1.b82ce31202961p-6,  0x1.565bccf6c8388p-8,   -0x1.c02daede330f5p-11,
                              0x1.f9a26e4093db7p-14,  -0x1.f4c1350a3aa1ap-17, 0x1.b8da8bec3b92cp-20,
                              -0x1.55075fa694f7bp-23, 0x1.834a47e1e9457p-27};
  static constexpr T erfc[] = {
      -0x1.1df1ad154a28ep-3,  0x1.f7f5df66fd7d4p-7,   0x1.16ecefcfa534cp-4,   -0x1.9ddb23c3e91f3p-4,
      0x1.7fee004e131eep-4,   -0x1.0fb06dfe46ccdp-4,  0x1.3079edf6604acp-5,   -0x1.09623885c5389p-6,
      0x1.49c672939962dp-8,   -0x1.8d4a98fe26597p-11, -0x1.a1df3283019d3p-13, 0x1.3be025adacf32p-13,
      -0x1.995731c1b26b6p-16, -0x1.787e971e02b81p-17, 0x1.7f0ceba6093bcp-18,  0x1.379130f8c3db6p-22,
      -0x1.b92924264e83bp-21, 0x1.5682f577e8822p-24,  0x1.c3ec7b7486a4p-24,   -0x1.7a3ebdc120b71p-26,
      -0x1.6555cb05035e9p-27, 0x1.c1cfd328f6cbcp-29};
  static constexpr T erfc_low = -0x1.ab4d8ac26f48bp-55, erfc_high = 0x1.3ba5916e9fd7fp+0;
};

template <class V> struct Math {
  using T = typename V::Scalar;
  using F = Format<V>;
  using Word = typename F::Word;
  static constexpr T infinity = __builtin_huge_valf();

  [[gnu::always_inline]] static inline V of(T x) { return V::broadcast(x); }

  /// Even and odd powers apart: half the latency of Horner's rule.
  template <size_t terms> [[gnu::always_inline]] static inline V polynomial(const T (&c)[terms], V x) {
    const V square = x * x;
    V even = of(c[(terms - 1) / 2 * 2]), odd = of(c[terms / 2 * 2 - 1]);
#pragma GCC unroll 16
    for (int i = (static_cast<int>(terms) - 1) / 2 * 2 - 2; i >= 0; i -= 2) even = fma(even, square, of(c[i]));
#pragma GCC unroll 16
    for (int i = static_cast<int>(terms) / 2 * 2 - 3; i >= 0; i -= 2) odd = fma(odd, square, of(c[i]));
    return fma(odd, x, even);
  }

  // ---- exp and its kin: e^(x + y) = 2^n·(1 + r + t) ----------------------------------------------------------------

  struct Power {
    V r, t;    // |r| ≤ log(2)/2; t = e^r - 1 - r, and what r lost by rounding
    Bits<V> n; // + 2·(bias + 1)
  };

  static constexpr T power_shift = F::shift + 2 * (F::bias + 1);

  /// x in the range in which n fits; |y| much smaller than |x|, or both 0.
  [[gnu::always_inline]] static inline Power power(V x, V y) {
    // The low bits of a number this large count its units: rounding and conversion in one addition.
    const V shifted = fma(x + y, of(F::log2_e), of(power_shift)), n = shifted - of(power_shift);
    // Exact: log_2_high is short.
    const V high = fma(n, of(-F::log_2_high), x);
    const V low = fma(n, of(-F::log_2_low), y);
    const V r = high + low;
    const V lost = (high - r) + low;
    return {r, fma(r * r, polynomial(F::exp, r), fma(lost, r, lost)), bits(shifted) - bits(of(F::shift))};
  }

  /// a·2^n in two steps, neither of which over- or underflows unless the result does.
  [[gnu::always_inline]] static inline V scaled(V a, Bits<V> n) {
    const Bits<V> half = n >> 1;
    return a * number<V>((half + Word(-1)) << F::mantissa) * number<V>((n - half + Word(-1)) << F::mantissa);
  }

  /// 2^(n - 1) where that is a normal number.
  [[gnu::always_inline]] static inline V half_power_of_two(Bits<V> n) {
    return number<V>((n + Word(-F::bias - 3)) << F::mantissa);
  }

  /// Overflows to infinity; underflows gradually, then to 0.
  [[gnu::noinline]] static V exp(V x) {
    const V a = at_most(at_least(x, of(F::exp_least)), of(F::exp_most));
    // As in power(), but r is never added up: its rounding only reaches the polynomial.
    const V shifted = fma(a, of(F::log2_e), of(power_shift)), n = shifted - of(power_shift);
    const V high = fma(n, of(-F::log_2_high), a), low = n * of(-F::log_2_low), r = high + low;
    return scaled(of(1) + (high + fma(r * r, polynomial(F::exp, r), low)), bits(shifted) - bits(of(F::shift)));
  }

  struct Sum {
    V high, low;
  };

  /// (e^x - 1)/2, unrounded.
  [[gnu::always_inline]] static inline Sum half_expm1(V x) {
    const Power p = power(x, V::zero());
    const V s = half_power_of_two(p.n);
    const V whole = s - of(T(0.5)), part = s * p.r;
    const V high = whole + part;
    return {high, fma(s, p.t, (whole - high) + part)};
  }

  [[gnu::noinline]] static V expm1(V x) {
    const Sum h = half_expm1(at_most(at_least(x, of(F::expm1_least)), of(F::exp_most)));
    // Keeps the sign of zero, and the last bit of a subnormal number, which has no half.
    return select(abs(x) < of(F::tiny), x, of(2) * (h.high + h.low));
  }

  /// m/(1 - m) with m = (1 - e^-2a)/2, a = |x|
  [[gnu::noinline]] static V tanh(V x) {
    const V a = at_most(abs(x), of(F::tanh_most));
    const Sum h = half_expm1(of(-2) * a);
    const V m = -(h.high + h.low), m_lost = (-h.high - m) - h.low;
    const V d = of(1) - m, d_lost = (of(1) - d) - m;
    const V q = m / d;
    // What the roundings lost, divided by d: 1/d is 1 + q.
    const V t = fma(m_lost - q * d_lost, of(1) + q, q);
    return number<V>(bits(select(a < of(F::tiny), a, t)) | (bits(x) & sign));
  }

  // ---- the logarithms: u = 2^k·(1 + f), sqrt(1/2) ≤ 1 + f < sqrt(2) ------------------------------------------------

  /// log(u) + further for a positive normal u and a small `further`.
  [[gnu::always_inline]] static inline V log_of_normal(V u, V k_less, V further) {
    const Bits<V> moved = bits(u) + (F::one - F::root_half);
    const V f = number<V>((moved & ((Word(1) << F::mantissa) - 1)) + F::root_half) - of(1);
    // An integer in the low bits of 2^mantissa, which then goes away.
    constexpr T unit = static_cast<T>(Word(1) << F::mantissa);
    const V k = number<V>((moved >> F::mantissa) | bits(of(unit))) - of(unit + F::bias) - k_less;
    // log(1 + f) = 2·atanh(s) = f - f²/2 + s·(f²/2 + s²·P(s²))
    const V s = f / (of(2) + f), z = s * s, half_square = of(T(0.5)) * f * f;
    const V tail = fma(s, fma(z, polynomial(F::log, z), half_square), -half_square);
    const V whole = k * of(F::log_2_high); // exact
    const V high = whole + f, low = (whole - high) + f;
    return high + (low + (tail + fma(k, of(F::log_2_low), further)));
  }

  /// ±0 gives -infinity, a negative number NaN.
  [[gnu::noinline]] static V log(V x) {
    const Mask<V> small = x < of(F::least_normal);
    const V l =
        log_of_normal(select(small, x * of(F::lift), x), select(small, of(F::lift_exponent), V::zero()), V::zero());
    return outside_log(x, x, l);
  }

  [[gnu::noinline]] static V log1p(V x) {
    const V u = of(1) + x, back = u - of(1);
    const V lost = (of(1) - (u - back)) + (x - back);
    const V l = outside_log(x, u, log_of_normal(u, V::zero(), lost / u));
    return select(x == V::zero(), x, l);
  }

  /// l, unless u, which came from x, has no finite logarithm.
  [[gnu::always_inline]] static inline V outside_log(V x, V u, V l) {
    // x - x is 0, or NaN where x is infinite or NaN; 0·x would do as well.
    l = select(x < of(infinity), l, x);
    l = select(u == V::zero(), of(-infinity), l);
    return select(u < V::zero(), of(__builtin_nanf("")), l);
  }

  // ---- erfc --------------------------------------------------------------------------------------------------------

  /// p - q·d, exact.
  [[gnu::always_inline]] static inline V remainder(V p, V q, V d) {
    if constexpr (V::fused) {
      return fma(-q, d, p);
    } else {
      const V q_upper = number<V>(bits(q) & F::upper_half), d_upper = number<V>(bits(d) & F::upper_half);
      const V q_lower = q - q_upper, d_lower = d - d_upper;
      return (((p - q_upper * d_upper) - q_upper * d_lower) - q_lower * d_upper) - q_lower * d_lower;
    }
  }

  /// (1 - x) - x·Q(x²) where |x| < 3/4; else e^(-a²)·P((a - pole)/(a + pole))/(1 + 2a) for a = |x|, and 2 less that
  /// where x < 0. Underflows gradually, then to 0.
  [[gnu::noinline]] static V erfc(V x) {
    const V a = at_most(abs(x), of(F::erfc_most));
    const V upper = number<V>(bits(a) & F::upper_half);
    const Power e = power(-(upper * upper), (upper - a) * (upper + a));
    const V w = (a - of(F::erfc_pole)) / (a + of(F::erfc_pole));
    const V further = fma(w, polynomial(F::erfc, w), of(F::erfc_low));
    const V p = of(F::erfc_high) + further, p_lost = (of(F::erfc_high) - p) + further;
    const V twice = a + a, d = of(1) + twice, d_lost = of(1) - (d - twice);
    const V q = p / d;
    // What the roundings lost, divided by d: 1/d is q/p, and p is near 1.2.
    const V q_lost = (remainder(p, q, d) + (p_lost - q * d_lost)) * q * of(T(0.83));
    const V tail = scaled(q + fma(q, e.r, fma(q, e.t, q_lost)), e.n);
    const V middle = (of(1) - x) - x * polynomial(F::erf, x * x);
    return select(a < of(T(0.75)), middle, select(x < V::zero(), of(2) - tail, tail));
  }

 private:
  static constexpr Word sign = Word(1) << (sizeof(T) * 8 - 1);
};

} // namespace pyengine::ops
