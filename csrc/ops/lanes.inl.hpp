// What the activations and losses need of a vector type besides load, store, + and fma: written once, in the vector
// extensions of GCC and Clang, and compiled in each instruction set's file for that set. Templates over V for the
// reason given in gemm.inl.hpp.
//
// V wraps one vector `v` of V::lanes numbers. A type with one lane wraps a plain number (naive.cpp).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace pyengine::ops {

template <class V>
concept Lanes = requires {
  typename V::Scalar;
  V::lanes;
};

template <Lanes V> [[gnu::always_inline]] inline V operator-(V a, V b) { return {a.v - b.v}; }
template <Lanes V> [[gnu::always_inline]] inline V operator*(V a, V b) { return {a.v * b.v}; }
template <Lanes V> [[gnu::always_inline]] inline V operator/(V a, V b) { return {a.v / b.v}; }
template <Lanes V> [[gnu::always_inline]] inline V operator-(V a) { return {-a.v}; }

/// One truth value a lane.
template <class V> struct Mask {
  using M = decltype(V{}.v < V{}.v);
  M m;
};

template <Lanes V> [[gnu::always_inline]] inline Mask<V> operator<(V a, V b) { return {a.v < b.v}; }
template <Lanes V> [[gnu::always_inline]] inline Mask<V> operator>(V a, V b) { return {a.v > b.v}; }
template <Lanes V> [[gnu::always_inline]] inline Mask<V> operator==(V a, V b) { return {a.v == b.v}; }
template <class V> [[gnu::always_inline]] inline Mask<V> operator|(Mask<V> a, Mask<V> b) {
  return {static_cast<typename Mask<V>::M>(a.m | b.m)};
}

template <Lanes V> [[gnu::always_inline]] inline V select(Mask<V> mask, V yes, V no) { return {mask.m ? yes.v : no.v}; }

/// The bits of each lane as an unsigned integer.
template <class V, class T = typename V::Scalar> struct Bits;
template <class V> struct Bits<V, float> {
  typedef uint32_t Word;
  typedef Word Words __attribute__((vector_size(V::lanes * sizeof(Word))));
  Words u;
};
template <class V> struct Bits<V, double> {
  typedef uint64_t Word;
  typedef Word Words __attribute__((vector_size(V::lanes * sizeof(Word))));
  Words u;
};

template <class V> [[gnu::always_inline]] inline Bits<V> bits(V a) { return {(typename Bits<V>::Words)a.v}; }
template <class V> [[gnu::always_inline]] inline V number(Bits<V> b) { return {(decltype(V::v))b.u}; }
template <class V> [[gnu::always_inline]] inline Bits<V> operator+(Bits<V> a, typename Bits<V>::Word b) {
  return {a.u + b};
}
template <class V> [[gnu::always_inline]] inline Bits<V> operator-(Bits<V> a, Bits<V> b) { return {a.u - b.u}; }
template <class V> [[gnu::always_inline]] inline Bits<V> operator&(Bits<V> a, typename Bits<V>::Word b) {
  return {a.u & b};
}
template <class V> [[gnu::always_inline]] inline Bits<V> operator|(Bits<V> a, Bits<V> b) { return {a.u | b.u}; }
template <class V> [[gnu::always_inline]] inline Bits<V> operator|(Bits<V> a, typename Bits<V>::Word b) {
  return {a.u | b};
}
template <class V> [[gnu::always_inline]] inline Bits<V> operator<<(Bits<V> a, int by) { return {a.u << by}; }
template <class V> [[gnu::always_inline]] inline Bits<V> operator>>(Bits<V> a, int by) { return {a.u >> by}; }

template <Lanes V> [[gnu::always_inline]] inline V abs(V a) {
  if constexpr (V::lanes == 1)
    return select(a < V::zero(), -a, a);
  else
    return number<V>(bits(a) & (~typename Bits<V>::Word(0) >> 1));
}

/// The larger and the smaller; where `a` is NaN, it is the result.
template <Lanes V> [[gnu::always_inline]] inline V at_least(V a, V bound) { return select(a < bound, bound, a); }
template <Lanes V> [[gnu::always_inline]] inline V at_most(V a, V bound) { return select(a > bound, bound, a); }

// ---- the end of a row: fewer numbers than lanes take the same way, beside padding --------------------------------

/// The first `count` numbers from p, then those of `padding`; reads nothing beyond.
template <Lanes V> [[gnu::always_inline]] inline V load_part(const typename V::Scalar* p, ptrdiff_t count, V padding) {
  if (count >= V::lanes) return V::load(p);
  if constexpr (requires { V::load_part(p, 1, padding); }) {
    return V::load_part(p, static_cast<int>(count), padding);
  } else {
    typename V::Scalar all[V::lanes];
    padding.store(all);
#pragma GCC unroll 16
    for (int i = 0; i < V::lanes - 1; ++i)
      if (i < count) all[i] = p[i];
    return V::load(all);
  }
}

/// The first `count` numbers of a to p; writes nothing beyond.
template <Lanes V> [[gnu::always_inline]] inline void store_part(V a, typename V::Scalar* p, ptrdiff_t count) {
  if (count >= V::lanes) return a.store(p);
  if constexpr (requires { a.store_part(p, 1); }) {
    a.store_part(p, static_cast<int>(count));
  } else {
    typename V::Scalar all[V::lanes];
    a.store(all);
#pragma GCC unroll 16
    for (int i = 0; i < V::lanes - 1; ++i)
      if (i < count) p[i] = all[i];
  }
}

/// 0, 1, 2, …
template <Lanes V> [[gnu::always_inline]] inline V iota() {
  typename V::Scalar all[V::lanes];
#pragma GCC unroll 16
  for (int i = 0; i < V::lanes; ++i) all[i] = static_cast<typename V::Scalar>(i);
  return V::load(all);
}

/// The lanes reduced to one number, halves by halves: the order depends on the number of lanes only.
template <Lanes V, class Combine> [[gnu::always_inline]] inline typename V::Scalar reduce(V a, Combine combine) {
  typename V::Scalar all[V::lanes];
  a.store(all);
#pragma GCC unroll 4
  for (int half = V::lanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) all[i] = combine(all[i], all[i + half]);
  return all[0];
}

// ---- transposition -----------------------------------------------------------------------------------------------

template <int... i> struct Numbers {};
/// 0, …, n - 1.
template <int n, int... i> struct Count : Count<n - 1, n - 1, i...> {};
template <int... i> struct Count<0, i...> {
  using numbers = Numbers<i...>;
};

/// Of a0 b0 a1 b1 … the vector that begins with number `begin` of a and b.
template <int begin, Lanes V, int... i> [[gnu::always_inline]] inline V interleave(V a, V b, Numbers<i...>) {
  return {__builtin_shufflevector(a.v, b.v, (begin + i / 2 + i % 2 * V::lanes)...)};
}

/// Transposes `rows` vectors, a power of two, in place: seen as one run of numbers, [row][lane] becomes [lane][row].
/// A riffle of the run's halves moves the highest bit of a number's place to the lowest; as many riffles as `rows` has
/// bits move the row behind the lane.
template <int rows, Lanes V> [[gnu::always_inline]] inline void transpose(V (&v)[rows]) {
  using All = typename Count<V::lanes>::numbers;
#pragma GCC unroll 4
  for (int riffle = 1; riffle < rows; riffle *= 2) {
    V shuffled[rows];
#pragma GCC unroll 8
    for (int i = 0; i < rows / 2; ++i) {
      shuffled[2 * i] = interleave<0>(v[i], v[i + rows / 2], All{});
      shuffled[2 * i + 1] = interleave<V::lanes / 2>(v[i], v[i + rows / 2], All{});
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) v[i] = shuffled[i];
  }
}

/// In turn `run` lanes of a and of b.
template <int run, Lanes V, int... i> [[gnu::always_inline]] inline V alternate(V a, V b, Numbers<i...>) {
  if constexpr (requires { V::template blend<0>(a, b); })
    return V::template blend<(0u | ... | ((i / run % 2u) << i))>(a, b);
  else
    return {__builtin_shufflevector(a.v, b.v, (i + i / run % 2 * V::lanes)...)};
}

/// Each run of lanes in its neighbour's place.
template <int run, Lanes V, int... i> [[gnu::always_inline]] inline V swap_runs(V a, Numbers<i...>) {
  return {__builtin_shufflevector(a.v, a.v, (i ^ run)...)};
}

/// Lane i: the numbers of v[i] added up, halves by halves. What two vectors have in place is taken as it stands, so
/// that one shuffle serves both.
template <Lanes V, int vectors> [[gnu::always_inline]] inline V sums_across(const V (&v)[vectors]) {
  if constexpr (vectors == 1) {
    return v[0];
  } else {
    using All = typename Count<V::lanes>::numbers;
    constexpr int half = vectors / 2;
    V sum[half];
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i)
      sum[i] =
          alternate<half>(v[i], v[i + half], All{}) + swap_runs<half>(alternate<half>(v[i + half], v[i], All{}), All{});
    return sums_across(sum);
  }
}

} // namespace pyengine::ops
