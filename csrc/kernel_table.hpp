// The functions that each instruction set fills in: single-threaded, allocating nothing, throwing nothing.
// network.cpp cuts a pass into tasks over these; it does not know how any of them works.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kinds.hpp"

namespace pyengine {

/// Rows of a matrix in equal segments, one segment per loss: row r starts at
/// base + (r / per_segment)·segment_stride + (r % per_segment)·stride.
template <class T> struct Rows {
  T* base;
  std::ptrdiff_t stride;
  int per_segment;
  std::ptrdiff_t segment_stride;

  T* row(int r) const { return base + (r / per_segment) * segment_stride + (r % per_segment) * stride; }
};

/// C (rows, n) = A (rows, k)·B (k, n) [+ bias (n)], or C += A·B; then what `also` adds; then [relu(C)], or
/// [C·relu'(gate)], as the last of them has it.
template <class T> struct Product {
  int rows, k, n;
  Rows<const T> a;
  const T* b; // packed
  Rows<T> c;
  const T* bias; // may be null
  bool accumulate;
  std::ptrdiff_t a_step = 1; // along a row of A; another number only where the rows lie side by side
  std::ptrdiff_t b_row = 0;  // where B lies as it is: from one row to the next
  std::ptrdiff_t c_step = 1; // along a row of C, which only a narrow product heeds
  bool rectify = false;
  const T* gate = nullptr;       // with the rows of a segment of C; may be null
  const Product* also = nullptr; // onto the same C, without a bias. A narrow product heeds none of these three.
};

/// A right operand B (k, n) to be packed from a weight matrix: B = Wᵀ with W (n, k), or B = W with W (k, n).
template <class T> struct Packing {
  int k, n;
  const T* w;
  bool transposed;
  T* packed;
};

/// Some rows of a factor (·, n) of a weight gradient, on their way into its panels. A panel holds `room` rows of a few
/// neighbouring columns.
template <class T> struct Panels {
  int begin, rows, n;
  const T* from; // (rows, n)
  T* panels;
  std::ptrdiff_t room;
};

/// One tile of the weight gradients of one layer, for all losses ("streams") at once:
/// dW_s[m, n] = Σ_rows delta_s[row, m]·x[row, n] for m in [m_begin, m_end), n in [n_begin, n_end),
/// and on the last chunk of rows the weighted sum Σ_s weight_s·dW_s.
template <class T> struct WeightTile {
  int rows, n_out, n_in;
  int m_begin, m_end, n_begin, n_end;
  const T* x;        // (rows, n_in)
  const T* x_panels; // null where x is read as it lies
  int streams;
  const T* delta;        // (streams, ·, n_out)
  const T* delta_panels; // a set a stream; null where delta is read as it lies
  std::ptrdiff_t stream_stride;
  std::ptrdiff_t room;          // rows of a panel
  T* const* grad;               // per stream, a flat gradient in which
  std::size_t offset;           // this layer's weight (n_out, n_in) begins
  T* summed;                    // (n_out, n_in), may be null
  const double* weight;         // per stream
  bool first_chunk, last_chunk; // of the batch's rows
  std::ptrdiff_t across = 0;    // where delta is (streams, n_out, ·): from one of n_out to the next; else 0
};

/// The bias gradients of one layer over the columns [n_begin, n_end): db_s[n] = Σ_rows delta_s[row, n].
template <class T> struct BiasTile {
  int rows, n_out;
  int n_begin, n_end;
  int streams;
  const T* delta; // (streams, ·, n_out)
  std::ptrdiff_t stream_stride;
  T* const* grad;       // per stream, a flat gradient in which
  std::size_t offset;   // this layer's bias (n_out) begins
  T* summed;            // (n_out), may be null
  const double* weight; // per stream; may be null where summed is
  bool first_chunk, last_chunk;
  std::ptrdiff_t across = 0; // as in a WeightTile
};

/// One loss over some rows: losses[i] = coefficient_i·l(z_i, y_i), delta_i = scale·coefficient_i·∂l/∂z_i.
template <class T> struct LossRows {
  Loss kind;
  double label_smoothing, huber_delta;
  int rows, n_out;
  const T* z;                  // (rows, n_out)
  const std::int64_t* classes; // (rows), or null: then
  const T* target;             // (rows, n_out)
  const double* coefficient;   // (rows)
  double scale;
  T* delta;                  // (rows, n_out)
  double* losses;            // (rows)
  std::ptrdiff_t across = 0; // where z and delta are (n_out, ·): from one output to the next; else 0
};

/// Inner products of two vectors with themselves and with each other, added in double in a fixed order.
struct Dots {
  double aa, ab, bb;
};

/// Sums over the rows and over the columns of a product that is looked at: Σrz, ΣZ²v, Σr², ΣZ²; of rows also Σv and
/// Σr·sign for each vector of signs. Up to `screen_terms` numbers are added in T, the rest in double.
constexpr int screen_signs = 4, screen_column_sums = 4, screen_row_sums = 5 + screen_signs, screen_terms = 512;

/// A product Z (m, n) as somebody has it: Z = z·up + bias, r = (claimed·down - Z)·unit, and with a variance
/// v = max(on_q·q + bias_v + [bias](z·up)² + on_z·Z², smallest).
template <class T> struct Screening {
  std::ptrdiff_t m, n;
  const T* claimed;
  const double* z;
  const T* q;
  const double* bias; // (n), or null
  const T* bias_v;    // (n), with bias
  const T* signs;     // (screen_signs, n)
  double up, down, unit;
  T on_q, on_z, smallest, limit;
  double* row_sums; // (screen_row_sums, m)
};

/// The largest r²/v up to `limit`; the places of those beyond, with their r, as far as there is room; whether one was
/// infinite or NaN, and whether some v was below `smallest` where r is not 0.
template <class T> struct ScreenFound {
  std::ptrdiff_t room;
  std::int64_t* at;
  T* r;
  std::ptrdiff_t count;
  T top;
  bool infinite, low;
};

template <class T> struct KernelTable {
  const char* isa;
  int row_tile;       // rows of a register tile; row blocks are cut to multiples of it
  int m_tile, n_tile; // how large a tile of weight gradients is worth a task
  int lanes;          // numbers that a vector holds; 0 where there is no narrow_product

  /// Whether the product reads a right operand (k, n) that lies as it is at least as fast as a packed one.
  bool (*reads_as_it_lies)(int k, int n);
  std::size_t (*packed_size)(int k, int n);
  std::size_t (*scratch_size)();
  /// Into so many pieces, each for itself, may the packing of a right operand (k, n) be cut.
  int (*pieces)(int k, int n);
  void (*pack)(const Packing<T>&, int piece_begin, int piece_end);
  void (*product)(const Product<T>&, T* scratch);
  /// C = A·Bᵀ [+ bias] with few columns: B (n, k) as it lies. Where it is null nothing lies across.
  void (*narrow_product)(const Product<T>&);
  /// Numbers in the panels of the right factor x or of a left one, delta; 0 where it is read as it lies.
  std::size_t (*x_panels_size)(int rows, int n), (*delta_panels_size)(int rows, int n);
  void (*pack_x)(const Panels<T>&);
  void (*pack_delta)(const Panels<T>&);
  void (*weight_gradient)(const WeightTile<T>&, T* scratch);
  void (*bias_gradient)(const BiasTile<T>&);

  void (*activation_forward)(Activation, double slope, std::size_t count, const T* z, T* h);
  /// g_s *= f'(z) for every stream s; z is read only where derivative_needs_z, h elsewhere.
  void (*activation_backward)(Activation, double slope, std::size_t count, const T* z, const T* h, int streams, T* g,
                              std::ptrdiff_t stream_stride);
  void (*loss)(const LossRows<T>&);
  bool (*all_finite)(std::size_t count, const T* x);
  Dots (*dots)(std::size_t count, const T* a, const T* b);
  /// Looks at the rows [begin, end); `columns` (screen_column_sums, n) are the sums over these rows.
  void (*screen)(const Screening<T>&, std::ptrdiff_t begin, std::ptrdiff_t end, double* columns, ScreenFound<T>&);
};

} // namespace pyengine
