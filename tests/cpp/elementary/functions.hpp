// The elementary functions of one vector type, callable from files that are compiled without its instruction set.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace elementary {

constexpr int count = 6;
constexpr const char* names[count] = {"exp", "expm1", "log", "log1p", "tanh", "erfc"};

/// The largest errors that docs/elementary.md promises, in units in the last place.
struct Promise {
  double f32, f64;
};
constexpr Promise promised[count] = {{1, 1}, {2, 2}, {1, 1}, {1, 1}, {2, 2}, {2, 2}};

template <class T> using Function = void (*)(std::size_t, const T* x, T* y);

struct Functions {
  const char* isa;
  bool (*available)();
  Function<float> f32[count];
  Function<double> f64[count];

  template <class T> Function<T> of(int function) const {
    if constexpr (sizeof(T) == sizeof(float))
      return f32[function];
    else
      return f64[function];
  }
};

extern const Functions sse2, avx2, avx512, emulated;

/// Those that can run here.
inline std::vector<const Functions*> available() {
  std::vector<const Functions*> all;
  for (const Functions* f : {
#ifdef __x86_64__
           &sse2, &avx2, &avx512,
#endif
           &emulated})
    if (f->available()) all.push_back(f);
  return all;
}

/// The C library, in the wider format.
template <class Wide> Wide reference(int function, Wide x) {
  switch (function) {
  case 0:
    return std::exp(x);
  case 1:
    return std::expm1(x);
  case 2:
    return std::log(x);
  case 3:
    return std::log1p(x);
  case 4:
    return std::tanh(x);
  default:
    return std::erfc(x);
  }
}

/// |got - expected| in units in the last place of T at `expected`; infinity where one of them alone is NaN, or where a
/// zero has the wrong sign.
template <class T, class Wide> double ulps(T got, Wide expected) {
  using Limits = std::numeric_limits<T>;
  if (std::isnan(expected) || std::isnan(got))
    return std::isnan(expected) && std::isnan(got) ? 0 : std::numeric_limits<double>::infinity();
  if (static_cast<Wide>(got) == expected)
    return std::signbit(got) == std::signbit(expected) ? 0 : std::numeric_limits<double>::infinity();
  // Infinity stands for the first number that has no place in the format.
  const Wide beyond = std::ldexp(Wide(1), Limits::max_exponent);
  expected = std::fmax(std::fmin(expected, beyond), -beyond);
  const Wide value = std::isinf(got) ? std::copysign(beyond, static_cast<Wide>(got)) : static_cast<Wide>(got);
  int exponent = Limits::min_exponent;
  if (expected != 0) std::frexp(expected, &exponent);
  exponent = exponent < Limits::min_exponent   ? Limits::min_exponent
             : exponent > Limits::max_exponent ? Limits::max_exponent
                                               : exponent;
  return static_cast<double>(std::fabs(value - expected) / std::ldexp(Wide(1), exponent - Limits::digits));
}

} // namespace elementary
