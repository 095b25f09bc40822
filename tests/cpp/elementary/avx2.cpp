// The shipped vector types: they live in the anonymous namespace of this file.
#include "isa/avx2.cpp"

#include "of.inl.hpp"

namespace {
bool runs_here() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
} // namespace

constinit const elementary::Functions elementary::avx2 = all<pyengine::Float8, pyengine::Double4>("avx2", runs_here);
