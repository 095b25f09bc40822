#include "probe.inl.hpp"

namespace pyengine::bench {

constinit const Burst avx2_burst = burst<32>();

} // namespace pyengine::bench
