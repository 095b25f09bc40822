// Matrix products: C = A·B, blocked for the caches, accumulated in registers.
//
//   B (k, n)       in panels of `nr` columns: of each block of k, one panel [k][nr] after the other
//   A (rows, k)    in panels of `mr` rows: [k][mr]; or where it lies, if its rows are short
//   a tile of C    rows x vectors registers; a step of k is one load of B per vector and one broadcast of A per row
//
// Everything here is a template over the vector type V. V lives in the anonymous namespace of its instruction set's
// file, so that no function compiled for one instruction set can be linked into another's place.
#pragma once

#include <stddef.h>

#include "../kernel_table.hpp"
#include "activation.inl.hpp"
#include "pack.inl.hpp"

namespace pyengine::ops {

template <class V> struct Gemm : Panelled<V> {
  using T = typename V::Scalar;
  using P = Panelled<V>;
  using P::kc, P::least, P::mc, P::mr, P::nc, P::nr, P::nv, P::short_row, P::up;

  // ---- register tile ----------------------------------------------------------------------------------------------

  /// c[i][j] = Σ_k a[i·a_row + k·a_step]·b[k·b_step + j] [+ bias[j]], or c += that sum, for j < n.
  /// Of a job that is `also` to be done the sum is added to the first one's, and nothing else is heeded.
  struct TileJob {
    int k;
    const T* a;
    ptrdiff_t a_row, a_step;
    const T* b;
    ptrdiff_t b_step;
    T* c;
    ptrdiff_t c_row;
    int n;
    const T* bias;
    bool add;
    const T* ahead; // k·V::lanes numbers that will be read soon
    bool rectify = false;
    const T* gate = nullptr; // with the rows of c
    const TileJob* also = nullptr;
  };

  /// `along_rows`: a_step is 1 and every row of A has its pointer; else a_row is 1 and the rows lie side by side.
  template <int rows, int vectors, bool along_rows> static void tile(const TileJob& job) {
    V sum[rows][vectors];
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) sum[i][j] = V::zero();
    // Where the rows of C lie far apart no hardware looks ahead.
    if (job.c_row > short_row)
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) __builtin_prefetch(job.c + i * job.c_row + j * V::lanes, 1);
    for (const TileJob* part = &job; part; part = part->also) {
      const T* a = part->a;
      const T* b = part->b;
      const T* row[rows];
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) row[i] = a + i * part->a_row;
      const T* ahead = part->ahead;
      for (ptrdiff_t step = 0; step < part->k; ++step, a += part->a_step, b += part->b_step, ahead += V::lanes) {
        V right[vectors];
        __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) right[j] = V::load(b + j * V::lanes);
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) {
          const V left = V::broadcast(along_rows ? row[i][step] : a[i]);
#pragma GCC unroll 4
          for (int j = 0; j < vectors; ++j) sum[i][j] = fma(left, right[j], sum[i][j]);
        }
      }
    }
    if (job.n == vectors * V::lanes)
      finish<true>(job, sum);
    else
      finish<false>(job, sum);
  }

  /// From the sums to c. `whole`: the last vector of a row is filled.
  template <bool whole, int rows, int vectors>
  [[gnu::always_inline]] static void finish(const TileJob& job, V (&sum)[rows][vectors]) {
    const auto load = [&job](const T* row, int j) {
      const T* at = row + j * V::lanes;
      return whole || j + 1 < vectors ? V::load(at) : load_part(at, job.n - j * V::lanes, V::zero());
    };
    const auto each = [&sum](auto change) {
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) sum[i][j] = change(sum[i][j], i, j);
    };
    using Relu = typename Activations<V>::Relu;
    if (job.bias) each([&](V v, int, int j) { return v + load(job.bias, j); });
    if (job.add) each([&](V v, int i, int j) { return load(job.c + i * job.c_row, j) + v; });
    if (job.rectify) each([&](V v, int, int) { return Relu{}.f(v); });
    if (job.gate) each([&](V v, int i, int j) { return v * Relu{}.df(v, load(job.gate + i * job.c_row, j)); });
    each([&](V v, int i, int j) {
      T* c = job.c + i * job.c_row + j * V::lanes;
      if (whole || j + 1 < vectors)
        v.store(c);
      else
        store_part(v, c, job.n - j * V::lanes);
      return v;
    });
  }

  using Tile = void (*)(const TileJob&);

  /// The tile of 1 to `rows` rows and 1 to `vectors` vectors: the last rows and columns waste no work.
  template <bool along_rows, int rows = mr, int vectors = nv> static Tile choose(int m, int n) {
    if constexpr (rows > 1)
      if (m < rows) return choose<along_rows, rows - 1, vectors>(m, n);
    if constexpr (vectors > 1)
      if (n <= (vectors - 1) * V::lanes) return choose<along_rows, rows, vectors - 1>(m, n);
    return tile<rows, vectors, along_rows>;
  }

  // ---- products ---------------------------------------------------------------------------------------------------

  /// Forward X·Wᵀ + b and backward Σ D·W.
  static void product(const Product<T>& p, T* scratch) {
    if (!p.also) return one_product(p, scratch);
    if (fit_one_tile(p)) return p.a_step == 1 ? sum_of_products<true>(p) : sum_of_products<false>(p);
    for (const Product<T>* q = &p; q; q = q->also) one_product(*q, scratch);
  }

  static void one_product(const Product<T>& p, T* scratch) {
    for (int r = 0; r < p.rows; r += p.a.per_segment) {
      const int rows = least(p.a.per_segment, p.rows - r);
      if (p.a_step != 1)
        segment<Left::across>(p, r, rows, scratch);
      else if (p.k <= short_row)
        segment<Left::along>(p, r, rows, scratch);
      else
        segment<Left::packed>(p, r, rows, scratch);
    }
  }

  static constexpr int most_together = 8;

  /// Whether these products onto one C are so few and so short, and lie so much alike, that one tile adds them up.
  static bool fit_one_tile(const Product<T>& p) {
    int count = 0, k = 0;
    for (const Product<T>* q = &p; q; q = q->also) {
      ++count;
      k += q->k;
      if ((q->a_step == 1) != (p.a_step == 1)) return false;
    }
    return count <= most_together && k <= short_row && p.rows <= p.c.per_segment;
  }

  template <bool along_rows> static void sum_of_products(const Product<T>& p) {
    for (int j = 0; j < p.n; j += nr) {
      const int n = least(nr, p.n - j);
      for (int i = 0; i < p.rows; i += mr) {
        const ptrdiff_t at = i * p.c.stride + j;
        TileJob jobs[most_together];
        TileJob* job = jobs;
        for (const Product<T>* q = &p; q; q = q->also, ++job) {
          const T* b = q->b_row ? q->b + j : q->b + static_cast<ptrdiff_t>(j) * q->k;
          *job = {q->k,
                  q->a.row(i),
                  q->a.stride,
                  q->a_step,
                  b,
                  q->b_row ? q->b_row : nr,
                  p.c.base + at,
                  p.c.stride,
                  n,
                  p.bias ? p.bias + j : nullptr,
                  p.accumulate,
                  b};
          if (q->also) {
            job->also = job + 1;
            continue;
          }
          jobs[0].rectify = q->rectify;
          jobs[0].gate = q->gate ? q->gate + at : nullptr;
        }
        choose<along_rows>(least(mr, p.rows - i), n)(jobs[0]);
      }
    }
  }

  /// How A lies: its rows one after the other, or side by side; or in panels, where the product puts it.
  enum class Left { along, across, packed };

  template <Left left> static void segment(const Product<T>& p, int begin, int rows, T* scratch) {
    const ptrdiff_t b_row = p.b_row ? p.b_row : nr;
    const int step = P::depth(p.k);
    for (int m0 = 0; m0 < rows; m0 += mc) {
      const int m = least(mc, rows - m0);
      const T* a = p.a.row(begin) + m0 * p.a.stride;
      T* c = p.c.row(begin) + m0 * p.c.stride;
      for (int k0 = 0; k0 < p.k; k0 += step) {
        const int k = least(step, p.k - k0);
        const T* panels = p.b + static_cast<size_t>(k0) * static_cast<size_t>(up(p.n, nr));
        if (left == Left::packed)
          for (int i = 0; i < m; i += mr)
            P::template pack_rows<mr>(k, least(mr, m - i), a + i * p.a.stride + k0, p.a.stride,
                                      scratch + static_cast<ptrdiff_t>(i) * k);
        for (int j = 0; j < p.n; j += nr) {
          const int n = least(nr, p.n - j);
          const T* b = p.b_row ? p.b + k0 * p.b_row + j : panels + static_cast<ptrdiff_t>(j) * k;
          const T* bias = p.bias && k0 == 0 ? p.bias + j : nullptr;
          for (int i = 0; i < m; i += mr) {
            T* to = c + i * p.c.stride + j;
            const bool add = p.accumulate || k0 > 0, last = k0 + k == p.k;
            const T* gate = p.gate && last ? p.gate + (m0 + i) * p.c.stride + j : nullptr;
            const Tile run = choose<left == Left::along>(least(mr, m - i), n);
            // While the first tiles pass along a panel, the next panel is fetched from the cache that all threads
            // share.
            const T* ahead = i < nv * mr && !p.b_row ? b + (static_cast<ptrdiff_t>(nr) + i / mr * V::lanes) * k : b;
            if (left == Left::packed)
              run({k, scratch + static_cast<ptrdiff_t>(i) * k, 1, mr, b, b_row, to, p.c.stride, n, bias, add, ahead,
                   p.rectify && last, gate});
            else
              run({k, a + i * p.a.stride + k0 * p.a_step, p.a.stride, p.a_step, b, b_row, to, p.c.stride, n, bias, add,
                   ahead, p.rectify && last, gate});
          }
        }
      }
    }
  }

  /// Backward Dᵀ·X: a panel of inputs serves every loss; the sum is formed while its terms are hot.
  static void weight_gradient(const WeightTile<T>& w, T* scratch) {
    const int step = P::depth(w.rows);
    for (int n0 = w.n_begin; n0 < w.n_end; n0 += nc)
      for (int k0 = 0; k0 < w.rows; k0 += step)
        weight_block(w, n0, least(nc, w.n_end - n0), k0, least(step, w.rows - k0), scratch);
  }

  /// Some columns of a factor from one row on, and the way to the next row.
  struct Columns {
    const T* at;
    ptrdiff_t step;
  };

  static Columns x_columns(const WeightTile<T>& w, ptrdiff_t row, int column) {
    if (w.x_panels) return {w.x_panels + column * w.room + row * nr, nr};
    return {w.x + row * w.n_in + column, w.n_in};
  }

  static Columns delta_columns(const WeightTile<T>& w, int stream, ptrdiff_t row, int column) {
    if (w.delta_panels)
      return {w.delta_panels + (static_cast<ptrdiff_t>(stream) * up(w.n_out, mr) + column) * w.room + row * mr, mr};
    const T* delta = w.delta + stream * w.stream_stride;
    if (w.across) return {delta + column * w.across + row, 1};
    return {delta + row * w.n_out + column, w.n_out};
  }

  static void weight_block(const WeightTile<T>& w, int n0, int n, int k0, int k, T* scratch) {
    // Of an x that is read as it lies, the columns that do not fill their vectors are packed: a tile reads whole ones.
    const int loose = w.x_panels || n % V::lanes == 0 ? n : n / nr * nr;
    if (loose < n) {
      const Columns x = x_columns(w, k0, n0 + loose);
      P::template pack_columns<nr>(k, n - loose, x.at, x.step, scratch, 0);
    }
    const bool completes = w.summed && w.last_chunk && k0 + k == w.rows;
    for (int m0 = w.m_begin; m0 < w.m_end; m0 += mc) {
      const int m = least(mc, w.m_end - m0);
      const ptrdiff_t at = static_cast<ptrdiff_t>(m0) * w.n_in + n0;
      for (int s = 0; s < w.streams; ++s)
        for (int j = 0; j < n; j += nr) {
          const int columns = least(nr, n - j);
          const Columns b = j == loose ? Columns{scratch, nr} : x_columns(w, k0, n0 + j);
          for (int i = 0; i < m; i += mr) {
            const Columns a = delta_columns(w, s, k0, m0 + i);
            // Fetched meanwhile: the next panel of x by the first tiles, the next panels of delta as they first come.
            const T* ahead = b.at;
            if (w.x_panels && i < nv * mr && j + nr < n)
              ahead = x_columns(w, k0, n0 + j + nr).at + static_cast<ptrdiff_t>(i / mr) * V::lanes * k;
            else if (w.delta_panels && j == 0 && i + mr < m)
              ahead = delta_columns(w, s, k0, m0 + i + mr).at;
            T* c = w.grad[s] + w.offset + at + static_cast<ptrdiff_t>(i) * w.n_in + j;
            const bool add = !w.first_chunk || k0 > 0;
            if (w.across)
              choose<true>(least(mr, m - i),
                           columns)({k, a.at, w.across, 1, b.at, b.step, c, w.n_in, columns, nullptr, add, ahead});
            else
              choose<false>(least(mr, m - i),
                            columns)({k, a.at, 1, a.step, b.at, b.step, c, w.n_in, columns, nullptr, add, ahead});
          }
          if (completes && s + 1 == w.streams) sum(w, at + j, m, columns, w.n_in);
        }
    }
  }

  /// db = Σ_rows delta, in the order of the rows.
  static void bias_gradient(const BiasTile<T>& b) {
    constexpr int strip = 4 * V::lanes; // some cache lines of each row: rows lie far apart
    for (int s = 0; s < b.streams; ++s)
      if (b.across)
        for (int j = b.n_begin; j < b.n_end; ++j) bias_across(b, s, j);
      else
        for (int j = b.n_begin; j < b.n_end; j += strip) bias_strip<4>(b, s, j, least(strip, b.n_end - j));
    if (b.summed && b.last_chunk) sum(b, b.n_begin, 1, b.n_end - b.n_begin, 0);
  }

  /// The rows in strands, a strand a lane; then across the lanes.
  static void bias_across(const BiasTile<T>& b, int stream, int column) {
    const T* delta = b.delta + stream * b.stream_stride + column * b.across;
    V sum = V::zero();
    for (int r = 0; r < b.rows; r += V::lanes) sum = sum + load_part(delta + r, b.rows - r, V::zero());
    T& db = b.grad[stream][b.offset + static_cast<size_t>(column)];
    const T here = reduce(sum, [](T x, T y) { return x + y; });
    db = b.first_chunk ? here : db + here;
  }

  /// Of n columns, which need all the vectors.
  template <int vectors> static void bias_strip(const BiasTile<T>& b, int stream, int begin, int n) {
    constexpr int last = (vectors - 1) * V::lanes;
    if constexpr (vectors > 1)
      if (n <= last) return bias_strip<vectors - 1>(b, stream, begin, n);
    T* db = b.grad[stream] + b.offset + begin;
    V total[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v)
      total[v] = b.first_chunk ? V::zero() : load_part(db + v * V::lanes, n - v * V::lanes, V::zero());
    const T* delta = b.delta + stream * b.stream_stride + begin;
    const auto add_rows = [&](auto last_vector) {
      for (int r = 0; r < b.rows; ++r, delta += b.n_out) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors - 1; ++v) total[v] = total[v] + V::load(delta + v * V::lanes);
        total[vectors - 1] = total[vectors - 1] + last_vector(delta + last);
      }
    };
    if (n == vectors * V::lanes)
      add_rows([](const T* p) { return V::load(p); });
    else
      add_rows([n](const T* p) { return load_part(p, n - last, V::zero()); });
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store_part(total[v], db + v * V::lanes, n - v * V::lanes);
  }

  /// summed = Σ_s weight_s·grad_s over `columns` numbers of some rows of a matrix, the first at `at`.
  template <class Gradient> static void sum(const Gradient& g, ptrdiff_t at, int rows, int columns, ptrdiff_t row) {
    if (columns == row) { // one run
      columns *= rows;
      rows = 1;
    }
    constexpr int vectors = 4, step = vectors * V::lanes;
    for (int i = 0; i < rows; ++i, at += row) {
      int j = 0;
      for (; j + step <= columns; j += step) sum_run<vectors>(g, at + j, step);
      for (; j < columns; j += V::lanes) sum_run<1>(g, at + j, columns - j);
    }
  }

  template <int vectors, class Gradient>
  [[gnu::always_inline]] static void sum_run(const Gradient& g, ptrdiff_t at, int n) {
    const auto each_term = [&](int s, auto take) {
      const V weight = V::broadcast(static_cast<T>(g.weight[s]));
      const T* from = g.grad[s] + g.offset + at;
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) take(v, weight * load_part(from + v * V::lanes, n - v * V::lanes, V::zero()));
    };
    V total[vectors];
    each_term(0, [&](int v, V term) { total[v] = term; });
    for (int s = 1; s < g.streams; ++s) each_term(s, [&](int v, V term) { total[v] = total[v] + term; });
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store_part(total[v], g.summed + at + v * V::lanes, n - v * V::lanes);
  }
};

} // namespace pyengine::ops
