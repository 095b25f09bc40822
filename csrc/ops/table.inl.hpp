// One instruction set's table, filled from the operations over its vector type.
#pragma once

#include "activation.inl.hpp"
#include "gemm.inl.hpp"
#include "loss.inl.hpp"
#include "narrow.inl.hpp"
#include "screen.inl.hpp"

namespace pyengine::ops {

template <class V> constexpr KernelTable<typename V::Scalar> table(const char* isa) {
  using G = Gemm<V>;
  using N = Narrow<V>;
  using E = Elementwise<V>;
  return {
      .isa = isa,
      .row_tile = G::mr,
      .m_tile = G::mc,
      .n_tile = G::nc,
      .lanes = V::lanes,
      .reads_as_it_lies = G::reads_as_it_lies,
      .packed_size = G::packed_size,
      .scratch_size = G::scratch_size,
      .pieces = G::pieces,
      .pack = G::pack,
      .product = G::product,
      .narrow_product = N::product,
      .x_panels_size = G::template panels_size<G::nr>,
      .delta_panels_size = G::template panels_size<G::mr>,
      .pack_x = G::template pack_panels<G::nr>,
      .pack_delta = G::template pack_panels<G::mr>,
      .weight_gradient = G::weight_gradient,
      .bias_gradient = G::bias_gradient,
      .activation_forward = E::forward,
      .activation_backward = E::backward,
      .loss = Losses<V>::rows,
      .all_finite = E::all_finite,
      .dots = N::dots,
      .screen = Screens<V>::rows,
  };
}

} // namespace pyengine::ops
