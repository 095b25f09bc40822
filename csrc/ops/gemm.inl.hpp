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
#include <string.h>

#include "../kernel_table.hpp"

namespace pyengine::ops {

template <class V> struct Gemm {
  using T = typename V::Scalar;

  static constexpr int mr = V::tile_rows;
  static constexpr int nv = V::tile_vectors;
  static constexpr int nr = nv * V::lanes;
  // A panel of B (kc·nr numbers) stays in the first-level cache while the panels of A pass by;
  // a block of A (mc·kc), a block of B (kc·nc) and the part of C between them stay in the second.
  static constexpr int kc = 256;
  static constexpr int mc = 16 * mr;
  static constexpr int nc = (256 + nr - 1) / nr * nr;
  // Rows up to this long are read where they lie: packing them costs more than the cache lines it saves.
  static constexpr int short_row = 256;

  static constexpr int up(int n, int step) { return (n + step - 1) / step * step; }
  static constexpr int least(int a, int b) { return a < b ? a : b; }

  static size_t packed_size(int k, int n) { return static_cast<size_t>(k) * static_cast<size_t>(up(n, nr)); }
  /// One block of A and, for the weight gradients, one block of B.
  static size_t scratch_size() { return static_cast<size_t>(mc) * kc + static_cast<size_t>(nc) * kc; }

  // ---- packing --------------------------------------------------------------------------------------------------

  static void pack(const Packing<T>& p, int panel_begin, int panel_end) {
    for (int k0 = 0; k0 < p.k; k0 += kc) {
      const int k = least(kc, p.k - k0);
      for (int panel = panel_begin; panel < panel_end; ++panel) {
        const int n0 = panel * nr;
        const int n = least(nr, p.n - n0);
        T* to = p.packed + static_cast<size_t>(k0) * static_cast<size_t>(up(p.n, nr)) +
                static_cast<size_t>(n0) * static_cast<size_t>(k);
        if (p.transposed)
          pack_rows<nr>(k, n, p.w + static_cast<ptrdiff_t>(n0) * p.k + k0, p.k, to);
        else
          pack_columns<nr>(k, n, p.w + static_cast<ptrdiff_t>(k0) * p.n + n0, p.n, to);
      }
    }
  }

  /// to[i][j] = from[j·stride + i]: rows become the columns of one panel, missing ones zero.
  template <int width> static void pack_rows(int k, int rows, const T* from, ptrdiff_t stride, T* to) {
    for (int j = 0; j < width; ++j) {
      const T* row = from + j * stride;
      if (j < rows)
        for (int i = 0; i < k; ++i) to[static_cast<ptrdiff_t>(i) * width + j] = row[i];
      else
        for (int i = 0; i < k; ++i) to[static_cast<ptrdiff_t>(i) * width + j] = T(0);
    }
  }

  /// Adjacent columns become panels of `width`, missing ones zero. Row by row: each is read once, along its cache
  /// lines.
  template <int width> static void pack_columns(int k, int columns, const T* from, ptrdiff_t stride, T* to) {
    const int whole = columns / width, rest = columns % width;
    const ptrdiff_t panel = static_cast<ptrdiff_t>(k) * width;
    for (int i = 0; i < k; ++i, from += stride, to += width) {
      for (int p = 0; p < whole; ++p) memcpy(to + p * panel, from + p * width, sizeof(T) * width);
      if (rest > 0)
        for (int j = 0; j < width; ++j) to[whole * panel + j] = j < rest ? from[whole * width + j] : T(0);
    }
  }

  // ---- register tile ----------------------------------------------------------------------------------------------

  /// c[i][j] = Σ_k a[i·a_row + k·a_step]·b[k·b_step + j] [+ bias[j]], or c += that sum, for j < n.
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
  };

  /// `along_rows`: a_step is 1 and every row of A has its pointer; else a_row is 1 and the rows lie side by side.
  template <int rows, int vectors, bool along_rows> static void tile(const TileJob& job) {
    V sum[rows][vectors];
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) sum[i][j] = V::zero();
    const T* a = job.a;
    const T* b = job.b;
    const T* row[rows];
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) row[i] = a + i * job.a_row;
    for (ptrdiff_t step = 0; step < job.k; ++step, a += job.a_step, b += job.b_step) {
      V right[vectors];
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) right[j] = V::load(b + j * V::lanes);
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
        const V left = V::broadcast(along_rows ? row[i][step] : a[i]);
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) sum[i][j] = fma(left, right[j], sum[i][j]);
      }
    }
    if (job.n == vectors * V::lanes) {
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) {
          T* c = job.c + i * job.c_row + j * V::lanes;
          V v = sum[i][j];
          if (job.bias) v = v + V::load(job.bias + j * V::lanes);
          if (job.add) v = V::load(c) + v;
          v.store(c);
        }
      return;
    }
    T edge[rows * vectors * V::lanes];
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) sum[i][j].store(edge + (i * vectors + j) * V::lanes);
    for (int i = 0; i < rows; ++i) {
      T* c = job.c + i * job.c_row;
      for (int j = 0; j < job.n; ++j) {
        T v = edge[i * vectors * V::lanes + j];
        if (job.bias) v = v + job.bias[j];
        c[j] = job.add ? c[j] + v : v;
      }
    }
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

  /// Forward X·Wᵀ + b and backward D·W; B was packed before.
  static void product(const Product<T>& p, T* scratch) {
    for (int r = 0; r < p.rows; r += p.a.per_segment) {
      const int rows = least(p.a.per_segment, p.rows - r);
      if (p.k <= short_row)
        segment<true>(p, r, rows, scratch);
      else
        segment<false>(p, r, rows, scratch);
    }
  }

  template <bool along_rows> static void segment(const Product<T>& p, int begin, int rows, T* scratch) {
    for (int m0 = 0; m0 < rows; m0 += mc) {
      const int m = least(mc, rows - m0);
      const T* a = p.a.row(begin) + m0 * p.a.stride;
      T* c = p.c.row(begin) + m0 * p.c.stride;
      for (int k0 = 0; k0 < p.k; k0 += kc) {
        const int k = least(kc, p.k - k0);
        const T* panels = p.packed + static_cast<size_t>(k0) * static_cast<size_t>(up(p.n, nr));
        if (!along_rows)
          for (int i = 0; i < m; i += mr)
            pack_rows<mr>(k, least(mr, m - i), a + i * p.a.stride + k0, p.a.stride,
                          scratch + static_cast<ptrdiff_t>(i) * k);
        for (int j = 0; j < p.n; j += nr) {
          const int n = least(nr, p.n - j);
          const T* b = panels + static_cast<ptrdiff_t>(j) * k;
          const T* bias = p.bias && k0 == 0 ? p.bias + j : nullptr;
          for (int i = 0; i < m; i += mr) {
            T* to = c + i * p.c.stride + j;
            const bool add = p.accumulate || k0 > 0;
            const Tile run = choose<along_rows>(least(mr, m - i), n);
            if (along_rows)
              run({k, a + i * p.a.stride + k0, p.a.stride, 1, b, nr, to, p.c.stride, n, bias, add});
            else
              run({k, scratch + static_cast<ptrdiff_t>(i) * k, 1, mr, b, nr, to, p.c.stride, n, bias, add});
          }
        }
      }
    }
  }

  /// Backward Dᵀ·X: the block of inputs is packed once and serves every loss; the sum is formed while the block is hot.
  static void weight_gradient(const WeightTile<T>& w, T* scratch) {
    for (int n0 = w.n_begin; n0 < w.n_end; n0 += nc) {
      const int n = least(nc, w.n_end - n0);
      for (int k0 = 0; k0 < w.rows; k0 += kc) weight_block(w, n0, n, k0, least(kc, w.rows - k0), scratch);
      if (w.summed && w.last_chunk)
        for (int i = w.m_begin; i < w.m_end; ++i) sum(w, static_cast<ptrdiff_t>(i) * w.n_in + n0, n);
    }
  }

  static void weight_block(const WeightTile<T>& w, int n0, int n, int k0, int k, T* scratch) {
    T* const left = scratch;
    T* const right = scratch + static_cast<ptrdiff_t>(mc) * kc;
    const T* x = w.x + static_cast<ptrdiff_t>(k0) * w.n_in + n0;
    // Short rows need no packing, but for the columns of x that do not fill their vectors.
    const bool packs_left = w.n_out > short_row, packs_right = w.n_in > short_row;
    const int loose = packs_right ? 0 : n / nr * nr;
    pack_columns<nr>(k, n - loose, x + loose, w.n_in, right + static_cast<ptrdiff_t>(loose) * k);
    for (int m0 = w.m_begin; m0 < w.m_end; m0 += mc) {
      const int m = least(mc, w.m_end - m0);
      for (int s = 0; s < w.streams; ++s) {
        const T* delta = w.delta + s * w.stream_stride + static_cast<ptrdiff_t>(k0) * w.n_out + m0;
        if (packs_left) pack_columns<mr>(k, m, delta, w.n_out, left);
        T* dw = w.grad[s] + w.offset + static_cast<ptrdiff_t>(m0) * w.n_in + n0;
        for (int j = 0; j < n; j += nr) {
          const T* b = j < loose ? x + j : right + static_cast<ptrdiff_t>(j) * k;
          for (int i = 0; i < m; i += mr)
            choose<false>(least(mr, m - i), least(nr, n - j))(
                {k, packs_left ? left + static_cast<ptrdiff_t>(i) * k : delta + i, 1, packs_left ? mr : w.n_out, b,
                 j < loose ? w.n_in : nr, dw + static_cast<ptrdiff_t>(i) * w.n_in + j, w.n_in, least(nr, n - j),
                 nullptr, !w.first_chunk || k0 > 0});
        }
      }
    }
  }

  /// db = Σ_rows delta, in the order of the rows.
  static void bias_gradient(const BiasTile<T>& b) {
    for (int s = 0; s < b.streams; ++s) {
      T* db = b.grad[s] + b.offset;
      if (b.first_chunk)
        for (int j = b.n_begin; j < b.n_end; ++j) db[j] = T(0);
      const T* delta = b.delta + s * b.stream_stride;
      for (int r = 0; r < b.rows; ++r, delta += b.n_out)
        for (int j = b.n_begin; j < b.n_end; ++j) db[j] += delta[j];
    }
    if (b.summed && b.last_chunk) sum(b, b.n_begin, b.n_end - b.n_begin);
  }

  /// summed = Σ_s weight_s·grad_s over `count` numbers from `at`.
  template <class Gradient> static void sum(const Gradient& g, ptrdiff_t at, int count) {
    T* to = g.summed + at;
    const T* grad = g.grad[0] + g.offset + at;
    T weight = static_cast<T>(g.weight[0]);
    for (int j = 0; j < count; ++j) to[j] = weight * grad[j];
    for (int s = 1; s < g.streams; ++s) {
      grad = g.grad[s] + g.offset + at;
      weight = static_cast<T>(g.weight[s]);
      for (int j = 0; j < count; ++j) to[j] += weight * grad[j];
    }
  }

  /// Inner product accumulated in double, in a fixed order.
  static double dot(size_t count, const T* a, const T* b) {
    double partial[8] = {};
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
      for (size_t j = 0; j < 8; ++j) partial[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
    for (size_t j = 0; i + j < count; ++j) partial[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
    return ((partial[0] + partial[1]) + (partial[2] + partial[3])) +
           ((partial[4] + partial[5]) + (partial[6] + partial[7]));
  }
};

} // namespace pyengine::ops
