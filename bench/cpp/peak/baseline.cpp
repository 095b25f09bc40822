#include "probe.inl.hpp"

namespace pyengine::bench {

constinit const Burst baseline_burst = burst<16>();

} // namespace pyengine::bench
