// The width of AVX-512 on any machine.
#include "emulation/emulated.hpp"

#include "of.inl.hpp"

namespace {
bool runs_here() { return true; }
} // namespace

constinit const elementary::Functions elementary::emulated =
    all<Emulated<float, 64, 8, 3>, Emulated<double, 64, 8, 3>>("emulated", runs_here);
