// Operands on their way into the panels that gemm.inl.hpp reads, and the sizes of its blocks. A template over V for the
// reason given there.
#pragma once

#include <stddef.h>
#include <string.h>

#include "../kernel_table.hpp"
#include "lanes.inl.hpp"

namespace pyengine::ops {

template <class V> struct Panelled {
  using T = typename V::Scalar;

  static constexpr int mr = V::tile_rows;
  static constexpr int nv = V::tile_vectors;
  static constexpr int nr = nv * V::lanes;
  // A panel of B (kc·nr numbers) stays in the first-level cache while the panels of A pass by;
  // a block of A (mc·kc), a block of B (kc·nc) and the part of C between them stay in the second.
  static constexpr int kc = 384;
  static constexpr int mc = 16 * mr;
  static constexpr int nc = (256 + nr - 1) / nr * nr;
  // Rows up to this long are read where they lie: packing them costs more than the cache lines it saves.
  static constexpr int short_row = 256;
  // How far packing fetches ahead, along rows and across: the hardware does not follow that many rows.
  static constexpr int vectors_ahead = 4, rows_ahead = 8;

  static constexpr int up(int n, int step) { return (n + step - 1) / step * step; }
  static constexpr int least(int a, int b) { return a < b ? a : b; }
  static constexpr int power_of_two(int at_least) {
    int p = 1;
    while (p < at_least) p *= 2;
    return p;
  }

  /// The depth of the blocks into which k is cut, all of about one size.
  static int depth(int k) {
    const int blocks = (k + kc - 1) / kc;
    return (k + blocks - 1) / blocks;
  }

  /// Rows of whole vectors, and together a small part of the second-level cache.
  static bool reads_as_it_lies(int k, int n) {
    constexpr size_t small = 1 << 16;
    return n % V::lanes == 0 && static_cast<size_t>(k) * static_cast<size_t>(n) * sizeof(T) <= small;
  }

  static size_t packed_size(int k, int n) { return static_cast<size_t>(k) * static_cast<size_t>(up(n, nr)); }
  /// One block of A, or the last columns of a B that is read as it lies.
  static size_t scratch_size() { return static_cast<size_t>(mc > nr ? mc : nr) * kc; }

  static int panels(int n) { return (n + nr - 1) / nr; }
  /// A piece is what one panel holds of one block of k.
  static int pieces(int k, int n) { return (k + depth(k) - 1) / depth(k) * panels(n); }

  static void pack(const Packing<T>& p, int begin, int end) {
    const int step = depth(p.k);
    for (int piece = begin; piece < end; ++piece) {
      const int k0 = piece / panels(p.n) * step, k = least(step, p.k - k0);
      const int n0 = piece % panels(p.n) * nr, n = least(nr, p.n - n0);
      T* to = p.packed + static_cast<size_t>(k0) * static_cast<size_t>(up(p.n, nr)) +
              static_cast<size_t>(n0) * static_cast<size_t>(k);
      if (p.transposed)
        pack_rows<nr>(k, n, p.w + static_cast<ptrdiff_t>(n0) * p.k + k0, p.k, to);
      else
        pack_columns<nr>(k, n, p.w + static_cast<ptrdiff_t>(k0) * p.n + n0, p.n, to, static_cast<ptrdiff_t>(k) * nr);
    }
  }

  /// to[i][j] = from[j·stride + i]: rows become the columns of one panel. What is missing to whole vectors of columns
  /// is zero, what is missing beyond is left as it was: no tile reads it.
  template <int width> static void pack_rows(int k, int rows, const T* from, ptrdiff_t stride, T* to) {
    constexpr int group = width < V::lanes ? power_of_two(width) : V::lanes;
    static_assert(group == V::lanes || group == width);
    for (int j = 0; j < width && j < up(rows, group); j += group)
      for (int i = 0; i < k; i += V::lanes) {
        V v[group];
#pragma GCC unroll 16
        for (int r = 0; r < group; ++r)
          if (j + r < rows) __builtin_prefetch(from + (j + r) * stride + i + vectors_ahead * V::lanes);
#pragma GCC unroll 16
        for (int r = 0; r < group; ++r)
          v[r] = j + r < rows ? load_part(from + (j + r) * stride + i, k - i, V::zero()) : V::zero();
        transpose(v);
        if constexpr (group == width) { // one run of whole columns
#pragma GCC unroll 16
          for (int r = 0; r < group; ++r) {
            const int at = i * width + r * V::lanes;
            if (at < k * width) store_part(v[r], to + at, k * width - at);
          }
        } else { // a vector a column
#pragma GCC unroll 16
          for (int c = 0; c < group; ++c)
            if (i + c < k) {
              T* column = to + static_cast<ptrdiff_t>(i + c) * width + j;
              // A whole vector may reach into the next column where that is written next; it must not beyond the last.
              if (width % V::lanes != 0 && (width > V::lanes || i + c + 1 == k))
                store_part(v[c], column, width - j);
              else
                v[c].store(column);
            }
        }
      }
  }

  /// Adjacent columns become panels of `width`. Few panels at a time, whole cache lines of each row: more would push
  /// each other out of the cache, since their distance is often a multiple of a page. Of the last panel, whole vectors
  /// are filled up with zeros.
  template <int width>
  static void pack_columns(int k, int columns, const T* from, ptrdiff_t stride, T* to, ptrdiff_t panel) {
    constexpr int together = width < V::lanes * nv ? 4 : 1;
    for (; columns >= together * width; columns -= together * width, from += together * width, to += together * panel)
      for (int i = 0; i < k; ++i)
#pragma GCC unroll 4
        for (int p = 0; p < together; ++p) {
          __builtin_prefetch(from + (i + rows_ahead) * stride + p * width);
          copy<width>(from + i * stride + p * width, to + p * panel + static_cast<ptrdiff_t>(i) * width);
        }
    for (; columns >= width; columns -= width, from += width, to += panel)
      for (int i = 0; i < k; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < width; j += V::lanes) __builtin_prefetch(from + (i + rows_ahead) * stride + j);
        copy<width>(from + i * stride, to + static_cast<ptrdiff_t>(i) * width);
      }
    if (columns > 0)
      for (int i = 0; i < k; ++i, to += width) {
        if constexpr (width % V::lanes == 0)
          for (int j = 0; j < columns; j += V::lanes)
            load_part(from + i * stride + j, columns - j, V::zero()).store(to + j);
        else
          for (int j = 0; j < width; ++j) to[j] = j < columns ? from[i * stride + j] : T(0);
      }
  }

  template <int width> static size_t panels_size(int rows, int n) {
    return n > short_row ? static_cast<size_t>(rows) * static_cast<size_t>(up(n, width)) : 0;
  }

  template <int width> static void pack_panels(const Panels<T>& p) {
    pack_columns<width>(p.rows, p.n, p.from, p.n, p.panels + static_cast<ptrdiff_t>(p.begin) * width, p.room * width);
  }

  template <int width> [[gnu::always_inline]] static void copy(const T* from, T* to) {
    if constexpr (width % V::lanes == 0) {
#pragma GCC unroll 4
      for (int j = 0; j < width; j += V::lanes) V::load(from + j).store(to + j);
    } else {
      memcpy(to, from, sizeof(T) * width);
    }
  }
};

} // namespace pyengine::ops
