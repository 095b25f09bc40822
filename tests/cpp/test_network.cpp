#include <doctest/doctest.h>

#include <algorithm>
#include <thread>

#include "dispatch.hpp"
#include "network.hpp"
#include "parallel.hpp"
#include "tables.hpp"

using namespace pyengine;

namespace {

Layer dense(int n_in, int n_out, Activation activation) { return {n_in, n_out, activation, 0.25, true, 0, 0}; }

/// Layers wider than 256 take other ways through memory than narrow ones.
Net example(Activation activation, int width = 70) {
  Net net;
  net.n_in = 19;
  net.trunk = {dense(19, width, activation), dense(width, 33, activation)};
  net.heads = {
      Head{{dense(33, 10, Activation::linear)}, Loss::softmax_cross_entropy, Reduction::mean, 0, 0, 1.0},
      Head{{dense(33, 21, activation), dense(21, 2, Activation::linear)}, Loss::mse, Reduction::mean, 0, 0, 0.5},
      Head{{dense(33, 1, Activation::linear)}, Loss::mae, Reduction::mean, 0, 0, -2.0}};
  return net;
}

template <class T> struct Problem {
  Network network;
  std::ptrdiff_t batch;
  std::vector<T> params, x, values, value;
  std::vector<std::int64_t> classes;

  Problem(Net net, int batch_size)
      : network(std::move(net)), batch(batch_size), params(dyadic<T>(network.net().size, 1)),
        x(dyadic<T>(to_size(batch) * to_size(network.net().n_in), 2)), values(dyadic<T>(to_size(batch) * 2, 3)),
        value(dyadic<T>(to_size(batch), 4)) {
    for (T& p : params) p /= T(8);
    for (std::ptrdiff_t i = 0; i < batch; ++i) classes.push_back(i % 10);
  }

  /// losses, Gramian, summed and per-loss gradients, one after the other.
  std::vector<double> run(bool per_loss = true) {
    const Net& net = network.net();
    const std::size_t heads = net.heads.size();
    std::vector<double> result(heads + heads * heads);
    std::vector<T> summed(net.size, T(99));
    std::vector<std::vector<T>> parts(heads, std::vector<T>(net.size, T(99)));
    GradientCall<T> call{};
    call.params = params.data();
    call.x = x.data();
    call.batch = batch;
    call.targets = {{classes.data(), nullptr, nullptr, double(batch)},
                    {nullptr, values.data(), nullptr, 2.0 * double(batch)},
                    {nullptr, value.data(), nullptr, double(batch)}};
    if (per_loss)
      for (auto& part : parts) call.per_loss.push_back(part.data());
    call.summed = summed.data();
    call.losses = result.data();
    call.gramian = per_loss ? result.data() + heads : nullptr;
    network.gradients(call);
    result.insert(result.end(), summed.begin(), summed.end());
    for (const auto& part : parts) result.insert(result.end(), part.begin(), part.end());
    return result;
  }
};

} // namespace

TEST_CASE_TEMPLATE("the number of threads changes no bit, nor does a second call", T, float, double) {
  const int before = num_threads();
  for (const std::string& isa : available_isas()) {
    choose_isa(isa);
    for (const int batch : {1, 31, 130, chunk_rows + 7}) {
      CAPTURE(isa);
      CAPTURE(batch);
      Problem<T> problem(example(Activation::tanh, batch == 130 ? 300 : 70), batch);
      set_num_threads(1);
      const auto one = problem.run();
      CHECK(problem.run() == one);
      for (const int threads : {2, 3, 5}) {
        set_num_threads(threads);
        CHECK(problem.run() == one);
      }
    }
  }
  set_num_threads(before);
  choose_isa(available_isas().front());
}

TEST_CASE_TEMPLATE("other parameters are packed anew, by every thread for itself and by one for all", T, float,
                   double) {
  const int before = num_threads();
  for (const std::string& isa : available_isas()) {
    choose_isa(isa);
    for (const int width : {70, 1100}) {
      CAPTURE(isa);
      CAPTURE(width);
      Problem<T> problem(example(Activation::tanh, width), chunk_rows + 130);
      set_num_threads(3);
      problem.run();
      std::reverse(problem.params.begin(), problem.params.end());
      const auto again = problem.run();
      Problem<T> fresh(example(Activation::tanh, width), chunk_rows + 130);
      fresh.params = problem.params;
      set_num_threads(1);
      CHECK(fresh.run() == again);
    }
  }
  choose_isa(available_isas().front());
  set_num_threads(before);
}

TEST_CASE_TEMPLATE("ReLU everywhere and few outputs: the textbook loops' gradients to the bit", T, float, double) {
  // Small whole numbers, so that every route is exact; losses whose derivatives are whole.
  for (const int n_out : {1, 2, 3, 4, 5})
    for (const int batch : {1, 16, 67})
      for (const bool per_loss : {false, true}) {
        Net net;
        net.n_in = 16;
        net.trunk = {dense(16, 32, Activation::relu), dense(32, 48, Activation::relu)};
        net.heads = {Head{{dense(48, n_out, Activation::relu)}, Loss::mae, Reduction::sum, 0, 0, 1.0},
                     Head{{dense(48, 7, Activation::relu), dense(7, n_out, Activation::leaky_relu)},
                          Loss::mae,
                          Reduction::sum,
                          0,
                          0,
                          2.0}};
        std::vector<std::vector<double>> results;
        for (const std::string& isa : available_isas()) {
          choose_isa(isa);
          Network network(net);
          std::vector<T> params(network.net().size), x = dyadic<T>(to_size(batch * 16), 2),
                                                     y = dyadic<T>(to_size(batch * n_out), 3);
          for (std::size_t i = 0; i < params.size(); ++i) params[i] = static_cast<T>(int(i * 7 % 3) - 1);
          for (T& number : x) number *= 8;
          for (T& number : y) number *= 8;
          std::vector<double> result(2);
          std::vector<T> summed(params.size());
          std::vector<std::vector<T>> parts(2, std::vector<T>(params.size()));
          GradientCall<T> call{};
          call.params = params.data();
          call.x = x.data();
          call.batch = batch;
          call.targets = {{nullptr, y.data(), nullptr, 1.0}, {nullptr, y.data(), nullptr, 1.0}};
          if (per_loss)
            for (auto& part : parts) call.per_loss.push_back(part.data());
          call.summed = summed.data();
          call.losses = result.data();
          network.gradients(call);
          result.insert(result.end(), summed.begin(), summed.end());
          for (const auto& part : parts) result.insert(result.end(), part.begin(), part.end());
          results.push_back(result);
        }
        CAPTURE(n_out);
        CAPTURE(batch);
        for (const auto& result : results) CHECK(result == results.back());
        if (batch > 1) // one row may meet closed gates only
          CHECK(std::any_of(results[0].begin() + 2, results[0].begin() + 2 + 16 * 32, [](double g) { return g != 0; }));
      }
  choose_isa(available_isas().front());
}

TEST_CASE("few threads pack small weights each for itself; many threads, large weights and short calls do not") {
  const auto alone = [](int n_out, int rows, int threads) {
    Net net;
    net.n_in = 256;
    net.heads = {Head{{dense(256, n_out, Activation::linear)}, Loss::mse, Reduction::mean, 0, 0, 1.0}};
    net.lay_out();
    return make_plan(net, kernels().f32, rows, Wanted::outputs, threads).packs_alone;
  };
  CHECK(alone(256, 256, 2));
  CHECK(alone(256, 256, 4));
  CHECK_FALSE(alone(256, 256, 5));
  CHECK_FALSE(alone(1024, 256, 2));
  CHECK_FALSE(alone(256, 256, 1));
  CHECK_FALSE(alone(256, 1, 2));
}

TEST_CASE("threads that call one network at once get what one thread gets") {
  Problem<float> problem(example(Activation::relu), 200);
  const auto expected = problem.run();
  std::vector<std::vector<double>> got(4);
  std::vector<std::thread> callers;
  for (auto& result : got)
    callers.emplace_back([&problem, &result] {
      for (int i = 0; i < 5; ++i) result = problem.run();
    });
  for (std::thread& caller : callers) caller.join();
  for (const auto& result : got) CHECK(result == expected);
}

TEST_CASE("a batch of several chunks has the gradient of its parts") {
  // Linear in everything and dyadic, so that every route is exact and must agree to the bit.
  for (const auto& [n_in, width] : {std::pair{3, 5}, std::pair{259, 265}}) {
    CAPTURE(width);
    Net net;
    net.n_in = n_in;
    net.trunk = {dense(n_in, width, Activation::linear)};
    net.heads = {Head{{dense(width, 1, Activation::linear)}, Loss::mae, Reduction::mean, 0, 0, 0.5}};
    const int batch = 2 * chunk_rows + 3;
    std::vector<double> results[2];
    int at = 0;
    for (const std::string& isa : {std::string("naive"), available_isas().front()}) {
      choose_isa(isa);
      Network network(net);
      const auto params = dyadic<double>(network.net().size, 1), x = dyadic<double>(to_size(batch) * to_size(n_in), 2),
                 y = dyadic<double>(to_size(batch), 3);
      std::vector<double> summed(network.net().size), loss(1);
      GradientCall<double> call{};
      call.params = params.data();
      call.x = x.data();
      call.batch = batch;
      call.targets = {{nullptr, y.data(), nullptr, 1.0}};
      call.summed = summed.data();
      call.losses = loss.data();
      network.gradients(call);
      summed.push_back(loss[0]);
      results[at++] = summed;
    }
    CHECK(results[0] == results[1]);
  }
  choose_isa(available_isas().front());
}
