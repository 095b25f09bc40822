// Which instruction set's functions a call uses.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernel_table.hpp"

namespace pyengine {

struct Kernels {
  KernelTable<float> f32;
  KernelTable<double> f64;

  template <class T> const KernelTable<T>& of() const {
    if constexpr (sizeof(T) == sizeof(float))
      return f32;
    else
      return f64;
  }
};

extern const Kernels naive_kernels, sse2_kernels, avx2_kernels, avx512_kernels;

/// The instruction sets that this processor can run, best first.
std::vector<std::string> available_isas();

/// The chosen one: PYENGINE_ISA if that is set, else the fastest available.
/// Throws std::invalid_argument, listing the valid names, where PYENGINE_ISA names none of them.
const Kernels& kernels();

/// Chooses by name from now on; throws std::invalid_argument as above.
void choose_isa(std::string_view name);

} // namespace pyengine
