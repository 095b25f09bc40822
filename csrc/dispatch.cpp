#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace pyengine {
namespace {

struct Seat {
  const char* name;
  const Kernels* kernels;
  bool available;
};

/// All seats of this build in order of preference, the last available one being the best.
const std::vector<Seat>& seats() {
  static const std::vector<Seat> all = [] {
    std::vector<Seat> list{{"naive", &naive_kernels, true}};
#ifdef PYENGINE_HAVE_X86
    __builtin_cpu_init();
    list.push_back({"sse2", &sse2_kernels, true});
    list.push_back({"avx2", &avx2_kernels, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")});
    list.push_back({"avx512", &avx512_kernels,
                    __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")});
#endif
    return list;
  }();
  return all;
}

const Kernels* find(std::string_view name, const char* argument) {
  std::string valid;
  bool known = false;
  for (const Seat& seat : seats()) {
    if (seat.name == name && seat.available) return seat.kernels;
    known = known || seat.name == name;
    if (!seat.available) continue;
    if (!valid.empty()) valid += ", ";
    valid += seat.name;
  }
  std::string message = "`";
  message.append(argument).append("` is '").append(name).append("'");
  if (known) message += ", which this processor lacks";
  message.append("; expected one of ").append(valid).append(". Leave it out to use the fastest.");
  throw std::invalid_argument(message);
}

const Kernels* initial() {
  if (const char* forced = std::getenv("PYENGINE_ISA"); forced && *forced) return find(forced, "PYENGINE_ISA");
  const Kernels* best = nullptr;
  for (const Seat& seat : seats())
    if (seat.available) best = seat.kernels;
  return best;
}

std::atomic<const Kernels*> chosen{nullptr};

} // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Seat& seat : seats())
    if (seat.available) names.emplace(names.begin(), seat.name);
  return names;
}

const Kernels& kernels() {
  const Kernels* now = chosen.load(std::memory_order_acquire);
  if (!now) {
    now = initial();
    chosen.store(now, std::memory_order_release);
  }
  return *now;
}

void choose_isa(std::string_view name) { chosen.store(find(name, "isa"), std::memory_order_release); }

} // namespace pyengine
