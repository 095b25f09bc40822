#include <doctest/doctest.h>

#include <bit>
#include <cstdint>
#include <random>

#include "elementary/functions.hpp"

using namespace elementary;

namespace {

template <class T> struct Wider;
template <> struct Wider<float> {
  using Type = double;
};
template <> struct Wider<double> {
  using Type = long double;
};

template <class T> double bound(int function) {
  return sizeof(T) == sizeof(float) ? promised[function].f32 : promised[function].f64;
}

template <class T> T one(const Functions& type, int function, T x) {
  T y = 99;
  type.of<T>(function)(1, &x, &y);
  return y;
}

/// Zeros, subnormal numbers, the ends of the format, and where the methods change: multiples of log(2)/2, powers of two
/// and their half, the branches of erfc, the ends of all ranges; each with its neighbours and with both signs.
template <class T> std::vector<T> edges() {
  using Limits = std::numeric_limits<T>;
  std::vector<T> at{0,
                    Limits::denorm_min(),
                    Limits::min(),
                    Limits::max(),
                    Limits::epsilon(),
                    T(0.75),
                    T(0x1p-100),
                    T(89),
                    T(104),
                    T(710),
                    T(746),
                    T(18),
                    T(38),
                    T(10.1),
                    T(27.3),
                    T(std::sqrt(0.5L)),
                    T(std::sqrt(2.0L))};
  for (int k = 1; k <= 2152; ++k) at.push_back(static_cast<T>(k * std::log(2.0L) / 2));
  for (int e = Limits::min_exponent - Limits::digits; e < Limits::max_exponent; ++e) {
    at.push_back(std::ldexp(T(1), e));
    at.push_back(std::ldexp(T(std::sqrt(2.0L)), e));
  }
  std::vector<T> all;
  for (const T x : at)
    for (const T near : {std::nextafter(x, -Limits::infinity()), x, std::nextafter(x, Limits::infinity())})
      for (const T signed_one : {near, -near}) all.push_back(signed_one);
  return all;
}

/// Any bit patterns, and as many arguments near 1 in their logarithm.
template <class T> std::vector<T> random_arguments(std::size_t count) {
  using Word = std::conditional_t<sizeof(T) == sizeof(float), std::uint32_t, std::uint64_t>;
  std::mt19937_64 random(1);
  std::vector<T> all;
  for (std::size_t i = 0; i < count; ++i) {
    all.push_back(std::bit_cast<T>(static_cast<Word>(random())));
    const T unit = static_cast<T>(static_cast<double>(random() >> 11) * 0x1p-52 - 1);
    all.push_back(std::ldexp(unit, static_cast<int>(random() % 24) - 13));
  }
  return all;
}

template <class T> double worst(const Functions& type, int function, const std::vector<T>& x) {
  using Wide = typename Wider<T>::Type;
  std::vector<T> y(x.size());
  type.of<T>(function)(x.size(), x.data(), y.data());
  double most = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double error = ulps(y[i], reference<Wide>(function, static_cast<Wide>(x[i])));
    if (!(error <= most)) most = error;
  }
  return most;
}

} // namespace

TEST_CASE_TEMPLATE("no error exceeds the promised one, at edges and elsewhere", T, float, double) {
  const auto at_edges = edges<T>(), anywhere = random_arguments<T>(100000);
  for (const Functions* type : available())
    for (int function = 0; function < count; ++function) {
      INFO(type->isa << " " << names[function]);
      CHECK(worst(*type, function, at_edges) <= bound<T>(function));
      CHECK(worst(*type, function, anywhere) <= bound<T>(function));
    }
}

TEST_CASE_TEMPLATE("a result that is wrong by more than the promise is caught", T, float, double) {
  for (int function = 0; function < count; ++function) {
    using Wide = typename Wider<T>::Type;
    const Wide truth = reference<Wide>(function, Wide(0.7));
    T off = static_cast<T>(truth);
    for (int step = 0; step <= bound<T>(function); ++step)
      off = std::nextafter(off, std::numeric_limits<T>::infinity());
    CHECK(ulps(static_cast<T>(truth), truth) <= bound<T>(function));
    CHECK_FALSE(ulps(off, truth) <= bound<T>(function));
    CHECK_FALSE(ulps(std::numeric_limits<T>::quiet_NaN(), truth) <= bound<T>(function));
  }
}

TEST_CASE_TEMPLATE("infinities have their limits, NaN stays, and zero keeps its sign", T, float, double) {
  const T inf = std::numeric_limits<T>::infinity();
  for (const Functions* type : available()) {
    CAPTURE(type->isa);
    CHECK(one(*type, 0, inf) == inf);
    CHECK(one(*type, 0, -inf) == 0);
    CHECK(one(*type, 1, inf) == inf);
    CHECK(one(*type, 1, -inf) == -1);
    CHECK(one(*type, 2, inf) == inf);
    CHECK(one(*type, 2, T(0)) == -inf);
    CHECK(one(*type, 3, inf) == inf);
    CHECK(one(*type, 3, T(-1)) == -inf);
    CHECK(one(*type, 4, inf) == 1);
    CHECK(one(*type, 4, -inf) == -1);
    CHECK(one(*type, 5, inf) == 0);
    CHECK(one(*type, 5, -inf) == 2);
    for (int function = 0; function < count; ++function)
      CHECK(std::isnan(one(*type, function, std::numeric_limits<T>::quiet_NaN())));
    for (const int odd : {1, 3, 4})
      for (const T zero : {T(0), -T(0)}) CHECK(std::signbit(one(*type, odd, zero)) == std::signbit(zero));
  }
}

TEST_CASE_TEMPLATE("a number's result depends neither on its lane nor on its neighbours", T, float, double) {
  const auto x = random_arguments<T>(1000);
  std::vector<T> whole(x.size()), moved(x.size());
  for (const Functions* type : available())
    for (int function = 0; function < count; ++function) {
      type->of<T>(function)(x.size(), x.data(), whole.data());
      for (std::size_t at = 0, length = 1; at < x.size(); at += length, length = length % 37 + 1)
        type->of<T>(function)(std::min(length, x.size() - at), x.data() + at, moved.data() + at);
      INFO(type->isa << " " << names[function]);
      CHECK(std::equal(whole.begin(), whole.end(), moved.begin(),
                       [](T a, T b) { return a == b || (std::isnan(a) && std::isnan(b)); }));
    }
}
