// Compiled once for all tests: emulated tiles are slow to compile.
#include "emulated.hpp"

#include "dispatch.hpp"

namespace {
template <class S> using Wide = Emulated<S, 64, 8, 3>;
} // namespace

extern const pyengine::Kernels emulated_avx512;

constinit const pyengine::Kernels emulated_avx512{pyengine::ops::table<Wide<float>>("avx512 emulated"),
                                                  pyengine::ops::table<Wide<double>>("avx512 emulated")};
