#include "probe.inl.hpp"

namespace pyengine::bench {

constinit const Burst avx512_burst = burst<64>();

} // namespace pyengine::bench
