// The products as textbook loops: the fallback where no instruction set's table fits, and what the C++ tests compare
// the blocked products with. Activations and losses are the shared ones, over the C library's functions.
#include "dispatch.hpp"
#include "ops/activation.inl.hpp"
#include "ops/loss.inl.hpp"
#include "ops/screen.inl.hpp"

namespace pyengine {
namespace {

/// A vector of one number: activations and losses take it one by one, with the C library's functions.
template <class S> struct One {
  using Scalar = S;
  static constexpr int lanes = 1;
  S v;

  static One zero() { return {S(0)}; }
  static One broadcast(S x) { return {x}; }
  static One load(const S* p) { return {*p}; }
  void store(S* p) const { *p = v; }
  friend One operator+(One a, One b) { return {a.v + b.v}; }
};

bool never(int, int) { return false; }

std::size_t packed_size(int k, int n) { return static_cast<std::size_t>(k) * static_cast<std::size_t>(n); }

std::size_t scratch_size() { return 0; }

int pieces(int, int n) { return n; }

/// packed (k, n), row by row; a piece is a column.
template <class T> void pack(const Packing<T>& p, int begin, int end) {
  const std::ptrdiff_t row = p.transposed ? 1 : p.n, column = p.transposed ? p.k : 1;
  for (std::ptrdiff_t i = 0; i < p.k; ++i)
    for (std::ptrdiff_t j = begin; j < end; ++j) p.packed[i * p.n + j] = p.w[i * row + j * column];
}

template <class T> void product(const Product<T>& p, T* scratch) {
  for (int i = 0; i < p.rows; ++i) {
    const T* a = p.a.row(i);
    T* c = p.c.row(i);
    for (int j = 0; j < p.n; ++j) {
      T sum = p.bias ? p.bias[j] : T(0);
      for (std::ptrdiff_t l = 0; l < p.k; ++l) sum += a[l] * p.b[l * p.n + j];
      if (p.accumulate) sum = c[j] + sum;
      using Relu = typename ops::Activations<One<T>>::Relu;
      if (p.rectify) sum = Relu{}.f({sum}).v;
      if (p.gate) sum *= Relu{}.df({sum}, {p.gate[i % p.c.per_segment * p.c.stride + j]}).v;
      c[j] = sum;
    }
  }
  if (p.also) product(*p.also, scratch);
}

std::size_t no_panels(int, int) { return 0; }
template <class T> void packs_nothing(const Panels<T>&) {}

template <class T> void weight_gradient(const WeightTile<T>& w, T*) {
  for (std::ptrdiff_t m = w.m_begin; m < w.m_end; ++m)
    for (std::ptrdiff_t n = w.n_begin; n < w.n_end; ++n) {
      const std::ptrdiff_t at = m * w.n_in + n;
      T total = T(0);
      for (int s = 0; s < w.streams; ++s) {
        T* dw = w.grad[s] + w.offset;
        T sum = w.first_chunk ? T(0) : dw[at];
        for (std::ptrdiff_t r = 0; r < w.rows; ++r)
          sum += w.delta[s * w.stream_stride + r * w.n_out + m] * w.x[r * w.n_in + n];
        dw[at] = sum;
        total += static_cast<T>(w.weight[s]) * sum;
      }
      if (w.summed && w.last_chunk) w.summed[at] = total;
    }
}

template <class T> void bias_gradient(const BiasTile<T>& b) {
  for (std::ptrdiff_t n = b.n_begin; n < b.n_end; ++n) {
    T total = T(0);
    for (int s = 0; s < b.streams; ++s) {
      T* db = b.grad[s] + b.offset;
      T sum = b.first_chunk ? T(0) : db[n];
      for (std::ptrdiff_t r = 0; r < b.rows; ++r) sum += b.delta[s * b.stream_stride + r * b.n_out + n];
      db[n] = sum;
      if (b.summed) total += static_cast<T>(b.weight[s]) * sum;
    }
    if (b.summed && b.last_chunk) b.summed[n] = total;
  }
}

template <class T> bool all_finite(std::size_t count, const T* x) {
  T zeros = 0; // 0·x is 0, unless x is infinite or NaN
  for (std::size_t i = 0; i < count; ++i) zeros += T(0) * x[i];
  return zeros == T(0);
}

template <class T> Dots dots(std::size_t count, const T* a, const T* b) {
  Dots sum{};
  for (std::size_t i = 0; i < count; ++i) {
    const double left = static_cast<double>(a[i]), right = static_cast<double>(b[i]);
    sum.aa += left * left;
    sum.ab += left * right;
    sum.bb += right * right;
  }
  return sum;
}

template <class T> constexpr KernelTable<T> table() {
  using V = One<T>;
  return {
      .isa = "naive",
      .row_tile = 1,
      .m_tile = 64,
      .n_tile = 64,
      .lanes = 0,
      .reads_as_it_lies = never,
      .packed_size = packed_size,
      .scratch_size = scratch_size,
      .pieces = pieces,
      .pack = pack<T>,
      .product = product<T>,
      .narrow_product = nullptr,
      .x_panels_size = no_panels,
      .delta_panels_size = no_panels,
      .pack_x = packs_nothing<T>,
      .pack_delta = packs_nothing<T>,
      .weight_gradient = weight_gradient<T>,
      .bias_gradient = bias_gradient<T>,
      .activation_forward = ops::Elementwise<V>::forward,
      .activation_backward = ops::Elementwise<V>::backward,
      .loss = ops::Losses<V>::rows,
      .all_finite = all_finite<T>,
      .dots = dots<T>,
      .screen = ops::Screens<V>::rows,
  };
}

} // namespace

constinit const Kernels naive_kernels{table<float>(), table<double>()};

} // namespace pyengine
