// Matrix products: C = A·B with both operands packed into panels, blocked for the caches, accumulated in registers.
//
//   B, packed once per call:   for each block of k: panels of `nr` columns, each [k][nr]
//   A, packed once per block:  panels of `mr` rows, each [k][mr]
//   a tile of C:               mr x nr numbers in mr·nv registers, one broadcast of A and nv loads of B per step of k
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
  // a block of A (mc·kc) stays in the second.
  static constexpr int kc = 256;
  static constexpr int mc = 16 * mr;
  static constexpr int nc = 256 / nr > 0 ? (256 / nr) * nr : nr;

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
          pack_rows<nr>(k, n, [&](int j) { return p.w + static_cast<ptrdiff_t>(n0 + j) * p.k + k0; }, to);
        else
          pack_columns<nr>(k, n, p.w + static_cast<ptrdiff_t>(k0) * p.n + n0, p.n, to);
      }
    }
  }

  /// to[i][j] = row(j)[i]: `width` rows become the columns of a panel, missing ones zero.
  template <int width, class Row> static void pack_rows(int k, int rows, Row row, T* to) {
    for (int j = 0; j < width; ++j) {
      if (j < rows) {
        const T* from = row(j);
        for (int i = 0; i < k; ++i) to[static_cast<ptrdiff_t>(i) * width + j] = from[i];
      } else {
        for (int i = 0; i < k; ++i) to[static_cast<ptrdiff_t>(i) * width + j] = T(0);
      }
    }
  }

  /// to[i][j] = from[i·stride + j]: `width` adjacent columns, missing ones zero.
  template <int width> static void pack_columns(int k, int columns, const T* from, ptrdiff_t stride, T* to) {
    for (int i = 0; i < k; ++i, from += stride, to += width) {
      if (columns == width) {
        for (int j = 0; j < width; ++j) to[j] = from[j];
      } else {
        for (int j = 0; j < width; ++j) to[j] = j < columns ? from[j] : T(0);
      }
    }
  }

  // ---- register tile --------------------------------------------------------------------------------------------

  struct Tile {
    V at[mr][nv];
  };

  /// Σ_k a[k][mr]·b[k][nr].
  [[gnu::always_inline]] static inline Tile multiply(int k, const T* a, const T* b) {
    Tile t;
#pragma GCC unroll 16
    for (int i = 0; i < mr; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < nv; ++j) t.at[i][j] = V::zero();
    for (int step = 0; step < k; ++step, a += mr, b += nr) {
      V right[nv];
#pragma GCC unroll 4
      for (int j = 0; j < nv; ++j) right[j] = V::load(b + j * V::lanes);
#pragma GCC unroll 16
      for (int i = 0; i < mr; ++i) {
        const V left = V::broadcast(a[i]);
#pragma GCC unroll 4
        for (int j = 0; j < nv; ++j) t.at[i][j] = fma(left, right[j], t.at[i][j]);
      }
    }
    return t;
  }

  /// Writes the tile's first m rows and n columns: c = t [+ bias], or c += t.
  template <class Row>
  [[gnu::always_inline]] static inline void store(const Tile& t, int m, int n, Row row, const T* bias, bool add) {
    if (m == mr && n == nr) {
#pragma GCC unroll 16
      for (int i = 0; i < mr; ++i) {
        T* c = row(i);
#pragma GCC unroll 4
        for (int j = 0; j < nv; ++j) {
          V v = t.at[i][j];
          if (bias) v = v + V::load(bias + j * V::lanes);
          if (add) v = V::load(c + j * V::lanes) + v;
          v.store(c + j * V::lanes);
        }
      }
      return;
    }
    T edge[mr * nr];
#pragma GCC unroll 16
    for (int i = 0; i < mr; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < nv; ++j) t.at[i][j].store(edge + i * nr + j * V::lanes);
    for (int i = 0; i < m; ++i) {
      T* c = row(i);
      for (int j = 0; j < n; ++j) {
        T v = edge[i * nr + j];
        if (bias) v = v + bias[j];
        c[j] = add ? c[j] + v : v;
      }
    }
  }

  // ---- products -------------------------------------------------------------------------------------------------

  /// Forward X·Wᵀ + b and backward D·W: A's rows are packed block by block, B was packed before.
  static void product(const Product<T>& p, T* scratch) {
    const int columns = up(p.n, nr);
    for (int k0 = 0; k0 < p.k; k0 += kc) {
      const int k = least(kc, p.k - k0);
      const T* panels = p.packed + static_cast<size_t>(k0) * static_cast<size_t>(columns);
      const bool add = p.accumulate || k0 > 0;
      for (int m0 = 0; m0 < p.rows; m0 += mc) {
        const int m = least(mc, p.rows - m0);
        for (int i = 0; i < m; i += mr)
          pack_rows<mr>(
              k, least(mr, m - i), [&](int r) { return p.a.row(m0 + i + r) + k0; },
              scratch + static_cast<ptrdiff_t>(i) * k);
        for (int n0 = 0; n0 < p.n; n0 += nr) {
          const T* bias = p.bias && k0 == 0 ? p.bias + n0 : nullptr;
          for (int i = 0; i < m; i += mr) {
            const Tile t =
                multiply(k, scratch + static_cast<ptrdiff_t>(i) * k, panels + static_cast<ptrdiff_t>(n0) * k);
            store(t, least(mr, m - i), least(nr, p.n - n0), [&](int r) { return p.c.row(m0 + i + r) + n0; }, bias, add);
          }
        }
      }
    }
  }

  /// Backward Dᵀ·X: the panel of inputs is packed once and serves every loss; the sum is formed while the tile is hot.
  static void weight_gradient(const WeightTile<T>& w, T* scratch) {
    T* const left = scratch;
    T* const right = scratch + static_cast<ptrdiff_t>(mc) * kc;
    for (int n0 = w.n_begin; n0 < w.n_end; n0 += nc) {
      const int n = least(nc, w.n_end - n0);
      for (int m0 = w.m_begin; m0 < w.m_end; m0 += mc) {
        const int m = least(mc, w.m_end - m0);
        for (int k0 = 0; k0 < w.rows; k0 += kc) {
          const int k = least(kc, w.rows - k0);
          const bool add = !w.first_chunk || k0 > 0;
          for (int j = 0; j < n; j += nr)
            pack_columns<nr>(k, least(nr, n - j), w.x + static_cast<ptrdiff_t>(k0) * w.n_in + n0 + j, w.n_in,
                             right + static_cast<ptrdiff_t>(j) * k);
          for (int s = 0; s < w.streams; ++s) {
            const T* delta = w.delta + s * w.stream_stride + static_cast<ptrdiff_t>(k0) * w.n_out + m0;
            for (int i = 0; i < m; i += mr)
              pack_columns<mr>(k, least(mr, m - i), delta + i, w.n_out, left + static_cast<ptrdiff_t>(i) * k);
            for (int j = 0; j < n; j += nr)
              for (int i = 0; i < m; i += mr) {
                const Tile t = multiply(k, left + static_cast<ptrdiff_t>(i) * k, right + static_cast<ptrdiff_t>(j) * k);
                T* c = w.grad[s] + w.offset + static_cast<ptrdiff_t>(m0 + i) * w.n_in + n0 + j;
                store(
                    t, least(mr, m - i), least(nr, n - j),
                    [&](int r) { return c + static_cast<ptrdiff_t>(r) * w.n_in; }, nullptr, add);
              }
          }
        }
        if (w.summed && w.last_chunk)
          for (int i = m0; i < m0 + m; ++i) sum(w, static_cast<ptrdiff_t>(i) * w.n_in + n0, n);
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
