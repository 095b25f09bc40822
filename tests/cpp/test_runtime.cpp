#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/wait.h>
#include <unistd.h>
#endif

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

TEST_CASE("many callers at once each get their own work done") {
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&wrong] {
      for (int call = 0; call < 500; ++call) {
        const int tasks[] = {3, 1, 8};
        std::atomic<int> done{0};
        run_phases(3, tasks, [&](std::size_t phase, int, int) {
          const int before[] = {0, 3, 4};
          if (done.load() < before[phase]) wrong++;
          done++;
        });
        if (done != 12) wrong++;
      }
    });
  for (auto& caller : callers) caller.join();
  CHECK(wrong == 0);
}

TEST_CASE("calls after a pause, when the workers sleep, are served too") {
  std::atomic<int> done{0};
  for (int call = 0; call < 50; ++call) {
    std::this_thread::sleep_for(std::chrono::milliseconds(call % 3));
    const int tasks[] = {4, 4};
    run_phases(2, tasks, [&](std::size_t, int, int) { done++; });
  }
  CHECK(done == 50 * 8);
}

TEST_CASE("a phase ends when its tasks are done, though a worker has taken none") {
  // One slow task: the workers that find nothing must not be waited for, and must not run into the next call's tasks.
  for (int call = 0; call < 20; ++call) {
    std::vector<std::atomic<int>> runs(2);
    const int tasks[] = {1, 1};
    run_phases(8, tasks, [&](std::size_t phase, int, int) {
      if (phase == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
      runs[phase]++;
    });
    CHECK(runs[0] == 1);
    CHECK(runs[1] == 1);
  }
}

#if defined(__unix__) || defined(__APPLE__)
TEST_CASE("a forked process works, on one thread") {
  const int tasks[] = {6};
  run_phases(2, tasks, [](std::size_t, int, int) {}); // the workers exist before the fork
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int done = 0;
    run_phases(num_threads(), tasks, [&](std::size_t, int, int) { ++done; });
    _exit(num_threads() == 1 && done == 6 ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}
#endif
