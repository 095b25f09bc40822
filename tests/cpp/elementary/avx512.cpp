// The shipped vector types: they live in the anonymous namespace of this file.
#include "isa/avx512.cpp"

#include "of.inl.hpp"

namespace {
bool runs_here() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"); }
} // namespace

constinit const elementary::Functions elementary::avx512 =
    all<pyengine::Float16, pyengine::Double8>("avx512", runs_here);
