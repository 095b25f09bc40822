// The shipped vector types: they live in the anonymous namespace of this file.
#include "isa/sse2.cpp"

#include "of.inl.hpp"

namespace {
bool runs_here() { return true; }
} // namespace

constinit const elementary::Functions elementary::sse2 = all<pyengine::Float4, pyengine::Double2>("sse2", runs_here);
