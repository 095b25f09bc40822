#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"

using namespace pyengine;

TEST_CASE("the fallback is always available, and every available instruction set can be chosen") {
  const auto isas = available_isas();
  CHECK(std::find(isas.begin(), isas.end(), "naive") != isas.end());
  for (const auto& isa : isas) {
    choose_isa(isa);
    CHECK(kernels().f32.isa == isa);
    CHECK(kernels().f64.isa == isa);
  }
  choose_isa(isas.front());
}

TEST_CASE("an unknown instruction set fails and lists the valid ones") {
  const std::string before = kernels().f32.isa;
  CHECK_THROWS_WITH_AS(choose_isa("avx9000"), doctest::Contains("naive"), std::invalid_argument);
  CHECK(kernels().f32.isa == before);
}

TEST_CASE("a number of threads outside its range fails") {
  const int before = num_threads();
  CHECK_THROWS_AS(set_num_threads(0), std::invalid_argument);
  CHECK_THROWS_AS(set_num_threads(-1), std::invalid_argument);
  CHECK(num_threads() == before);
}

TEST_CASE("every task of every phase runs once, and a phase begins when the one before is done") {
  for (const int threads : {1, 2, 7}) {
    const int tasks[] = {5, 0, 300, 1};
    std::vector<std::atomic<int>> runs(306);
    std::atomic<int> finished{0};
    std::atomic<bool> in_order{true};
    run_phases(threads, tasks, [&](std::size_t phase, int task, int thread) {
      const int first[] = {0, 5, 5, 305};
      if (finished.load() < first[phase] || thread < 0 || thread >= threads) in_order = false;
      runs[static_cast<std::size_t>(first[phase] + task)]++;
      finished++;
    });
    CHECK(finished == 306);
    CHECK(in_order.load());
    CHECK(std::all_of(runs.begin(), runs.end(), [](const auto& n) { return n == 1; }));
  }
}
