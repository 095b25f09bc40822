#include <cstdio>
#include <exception>
#include <sstream>

#include "run.hpp"

namespace {

using namespace pyengine::bench;

std::string text(const Peak& peak) {
  std::ostringstream line;
  line.setf(std::ios::fixed);
  line.precision(1);
  line << "best " << peak.best() << ", median " << peak.median() << " GFLOP/s of " << peak.gflops.size() << " bursts";
  return line.str();
}

std::string name(const Peak& peak) {
  return "peak " + peak.isa + (peak.f32 ? " float32 " : " float64 ") + std::to_string(peak.threads) +
         (peak.threads == 1 ? " thread" : " threads");
}

int run(int argc, char** argv) {
  add_products();
  add_dense();
  add_networks();
  add_activations();
  add_losses();

  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  for (const std::string& isa : chosen_isas())
    for (const bool f32 : {true, false})
      for (const int threads : thread_counts()) {
        measure_peak(isa, f32, threads);
        const Peak& peak = measure_peak(isa, f32, threads);
        benchmark::AddCustomContext(name(peak), text(peak));
      }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();

  for (const Peak& peak : measured_peaks()) std::fprintf(stderr, "%s: %s\n", name(peak).c_str(), text(peak).c_str());
  if (any_failed()) std::fprintf(stderr, "A check failed: see the errors above.\n");
  return any_failed() ? 1 : 0;
}

} // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
