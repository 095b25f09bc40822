// Rows of outputs in vectors, for the losses. A long row lies along the lanes. Short rows stand beside each other, one
// a lane, so that no lane idles and nothing is added up across lanes. Which of the two depends on the length of a row
// alone, and a row's result on nothing but its numbers: not on its place in the batch, nor on how the batch is cut.
#pragma once

#include <stddef.h>
#include <string.h>

#include "../kernel_table.hpp"
#include "lanes.inl.hpp"

namespace pyengine::ops {

/// Σ of numbers of type T, in double, a sum a lane.
template <class V> struct Sum {
  double lane[V::lanes] = {};

  [[gnu::always_inline]] void add(V terms) {
    typename V::Scalar term[V::lanes];
    terms.store(term);
#pragma GCC unroll 16
    for (int i = 0; i < V::lanes; ++i) lane[i] += static_cast<double>(term[i]);
  }
};

// Both ways offer: sweep(visit), which calls visit(j) for each vector of the row; at j the outputs z, the target, and
// the delta, which put() sets and got() reads back; what combines a row's lanes; and where its loss goes.

/// One row along the lanes. Beyond its end stands padding.
template <class V> struct LongRow {
  using T = typename V::Scalar;

  const LossRows<T>& r;
  ptrdiff_t i;
  const T* z_row = r.z + i * r.n_out;
  const T* given = r.classes ? nullptr : r.target + i * r.n_out;
  ptrdiff_t label = r.classes ? static_cast<ptrdiff_t>(r.classes[i]) : -1;
  T* delta = r.delta + i * r.n_out;
  V factor = V::broadcast(static_cast<T>(r.scale * r.coefficient[i]));

  template <class Visit> [[gnu::always_inline]] inline void sweep(Visit visit) const {
    for (ptrdiff_t j = 0; j < r.n_out; j += V::lanes) visit(j);
  }

  V first() const { return V::broadcast(z_row[0]); }
  V z(ptrdiff_t j, V padding) const { return load_part(z_row + j, r.n_out - j, padding); }
  /// One-hot for a class; 0 beyond the end.
  V target(ptrdiff_t j) const {
    if (given) return load_part(given + j, r.n_out - j, V::zero());
    const ptrdiff_t here = label - j;
    if (here < 0 || here >= V::lanes) return V::zero();
    return select(iota<V>() == V::broadcast(static_cast<T>(here)), V::broadcast(1), V::zero());
  }
  V within(ptrdiff_t j, V a, V padding) const {
    const ptrdiff_t left = r.n_out - j;
    return left >= V::lanes ? a : select(iota<V>() < V::broadcast(static_cast<T>(left)), a, padding);
  }
  void put(ptrdiff_t j, V a) { store_part(a, delta + j, r.n_out - j); }
  V got(ptrdiff_t j) const { return load_part(delta + j, r.n_out - j, V::zero()); }
  V scale() const { return factor; }

  V greatest(V a) const {
    return V::broadcast(reduce(a, [](T x, T y) { return y > x ? y : x; }));
  }
  V sum(V a) const {
    return V::broadcast(reduce(a, [](T x, T y) { return x + y; }));
  }
  static double added(const Sum<V>& s) {
    double sum = 0;
    for (int k = 0; k < V::lanes; ++k) sum += s.lane[k];
    return sum;
  }
  V total(const Sum<V>& s) const { return V::broadcast(static_cast<T>(added(s))); }
  void loss(const Sum<V>& s) { r.losses[i] = r.coefficient[i] * added(s); }
  void loss(V same) {
    T l[V::lanes];
    same.store(l);
    r.losses[i] = r.coefficient[i] * static_cast<double>(l[0]);
  }
};

/// As many short rows as lanes, one a lane: where the numbers lie so already, in place, else transposed into buffers.
/// Lanes without a row repeat the last one.
template <class V> struct ShortRows {
  using T = typename V::Scalar;
  static constexpr int lanes = V::lanes, longest = 4 * lanes;

  const LossRows<T>& r;
  ptrdiff_t begin;
  int rows;
  bool classes = r.classes, in_place;
  V label, factor;
  T z_buffer[longest * lanes], targets[longest * lanes], delta_buffer[longest * lanes];
  const T* z_columns;
  T* delta;
  ptrdiff_t column; // from one vector of either to the next

  ShortRows(const LossRows<T>& all, ptrdiff_t first_row)
      : r(all), begin(first_row),
        rows(static_cast<int>(all.rows - first_row < lanes ? all.rows - first_row : ptrdiff_t(lanes))),
        in_place(r.across && rows == lanes) {
    T labels[lanes], factors[lanes];
    each_lane([&](int k, ptrdiff_t i) {
      labels[k] = classes ? static_cast<T>(r.classes[i]) : T(-1);
      factors[k] = static_cast<T>(r.scale * r.coefficient[i]);
    });
    label = V::load(labels);
    factor = V::load(factors);
    z_columns = in_place ? r.z + begin : z_buffer;
    delta = in_place ? r.delta + begin : delta_buffer;
    column = in_place ? r.across : lanes;
    if (!in_place) transpose(r.z, row(), step(), z_buffer);
    if (!classes) transpose(r.target, r.n_out, 1, targets);
  }

  /// Of z and delta: from one row to the next, and along a row.
  ptrdiff_t row() const { return r.across ? 1 : r.n_out; }
  ptrdiff_t step() const { return r.across ? r.across : 1; }

  /// visit(lane, its row)
  template <class Visit> [[gnu::always_inline]] inline void each_lane(Visit visit) const {
    if (rows == lanes)
      for (int k = 0; k < lanes; ++k) visit(k, begin + k);
    else
      for (int k = 0; k < lanes; ++k) visit(k, begin + (k < rows ? k : rows - 1));
  }

  void transpose(const T* from, ptrdiff_t from_row, ptrdiff_t from_step, T* to) const {
    const T* at[lanes];
    each_lane([&](int k, ptrdiff_t i) { at[k] = from + i * from_row; });
    for (int j = 0; j < r.n_out; ++j)
#pragma GCC unroll 16
      for (int k = 0; k < lanes; ++k) to[j * lanes + k] = at[k][j * from_step];
  }

  /// Transposes the deltas back.
  void finish() const {
    if (in_place) return;
    for (int k = 0; k < rows; ++k)
      for (int j = 0; j < r.n_out; ++j) r.delta[(begin + k) * row() + j * step()] = delta[j * lanes + k];
  }

  template <class Visit> [[gnu::always_inline]] inline void sweep(Visit visit) const {
    for (ptrdiff_t j = 0; j < r.n_out; ++j) visit(j);
  }

  V first() const { return V::load(z_columns); }
  V z(ptrdiff_t j, V) const { return V::load(z_columns + j * column); }
  V target(ptrdiff_t j) const {
    if (!classes) return V::load(targets + j * lanes);
    return select(label == V::broadcast(static_cast<T>(j)), V::broadcast(1), V::zero());
  }
  V within(ptrdiff_t, V a, V) const { return a; }
  void put(ptrdiff_t j, V a) { a.store(delta + j * column); }
  V got(ptrdiff_t j) const { return V::load(delta + j * column); }
  V scale() const { return factor; }

  V greatest(V a) const { return a; }
  V sum(V a) const { return a; }
  V total(const Sum<V>& s) const {
    T sums[lanes];
    for (int k = 0; k < lanes; ++k) sums[k] = static_cast<T>(s.lane[k]);
    return V::load(sums);
  }
  void loss(const Sum<V>& s) {
    double all[lanes];
    each_lane([&](int k, ptrdiff_t i) { all[k] = r.coefficient[i] * s.lane[k]; });
    if (rows == lanes)
      memcpy(r.losses + begin, all, sizeof all);
    else
      for (int k = 0; k < rows; ++k) r.losses[begin + k] = all[k];
  }
  void loss(V terms) {
    Sum<V> s;
    s.add(terms);
    loss(s);
  }
};

template <class V, class Function> void each_long_row(const LossRows<typename V::Scalar>& r, Function function) {
  for (ptrdiff_t i = 0; i < r.rows; ++i) {
    LongRow<V> row{r, i};
    function(row);
  }
}

/// function(row) for all rows, in the way that their length wants.
template <class V, class Function> void each_row(const LossRows<typename V::Scalar>& r, Function function) {
  if (V::lanes == 1 || r.n_out > ShortRows<V>::longest) return each_long_row<V>(r, function);
  for (ptrdiff_t i = 0; i < r.rows; i += V::lanes) {
    ShortRows<V> rows(r, i);
    function(rows);
    rows.finish();
  }
}

} // namespace pyengine::ops
