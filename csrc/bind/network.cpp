// The network class: arrays in, arrays filled. pyengine/engine.py has validated what a user can get wrong; the checks
// here only keep a caller of _core from reading or writing past an array.
#include "network.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>

#include "bind.hpp"

namespace {

using pyengine::Activation;
using pyengine::GradientCall;
using pyengine::Head;
using pyengine::HeadTarget;
using pyengine::Layer;
using pyengine::Loss;
using pyengine::Net;
using pyengine::Network;
using pyengine::Reduction;

using LayerTuple = std::tuple<int, int, std::string, double, bool>;
using HeadTuple = std::tuple<std::vector<LayerTuple>, std::string, std::string, double, double, double>;

// In the order of the enumerations.
constexpr std::array<std::string_view, 10> activations{"linear",  "relu",     "leaky_relu", "elu",  "tanh",
                                                       "sigmoid", "softplus", "silu",       "gelu", "gelu_tanh"};
constexpr std::array<std::string_view, 7> losses{
    "softmax_cross_entropy",       "clipped_cross_entropy", "binary_cross_entropy", "mse", "mae", "huber",
    "clipped_binary_cross_entropy"};
constexpr std::array<std::string_view, 3> reductions{"mean", "sum", "weighted_mean"};

template <class Kind, std::size_t n> Kind kind(const std::array<std::string_view, n>& names, std::string_view name) {
  for (std::size_t i = 0; i < n; ++i)
    if (names[i] == name) return static_cast<Kind>(i);
  throw std::invalid_argument("the kernel does not know '" + std::string(name) + "'");
}

Layer layer_from(const LayerTuple& given) {
  const auto& [n_in, n_out, activation, slope, has_bias] = given;
  return {n_in, n_out, kind<Activation>(activations, activation), slope, has_bias, 0, 0};
}

std::vector<Layer> layers_from(const std::vector<LayerTuple>& given) {
  std::vector<Layer> layers;
  for (const LayerTuple& layer : given) layers.push_back(layer_from(layer));
  return layers;
}

std::unique_ptr<Network> make_network(int n_in, const std::vector<LayerTuple>& trunk,
                                      const std::vector<HeadTuple>& heads) {
  Net net;
  net.n_in = n_in;
  net.trunk = layers_from(trunk);
  for (const auto& [layers, loss, reduction, label_smoothing, delta, weight] : heads)
    net.heads.push_back(Head{layers_from(layers), kind<Loss>(losses, loss), kind<Reduction>(reductions, reduction),
                             label_smoothing, delta, weight});
  return std::make_unique<Network>(std::move(net));
}

// ---- arrays --------------------------------------------------------------------------------------------------------

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("_core: ") + what);
}

template <class T> const T* read(const py::array& a, py::ssize_t size, const char* what) {
  require(py::isinstance<py::array_t<T>>(a) && (a.flags() & py::array::c_style) && a.size() == size, what);
  return static_cast<const T*>(a.data());
}

template <class T> T* write(py::array& a, py::ssize_t size, const char* what) {
  require(a.writeable(), what);
  read<T>(a, size, what);
  return static_cast<T*>(a.mutable_data());
}

py::ssize_t batch_of(const Network& network, const py::array& x) {
  require(x.ndim() == 2 && x.shape(0) > 0 && x.shape(1) == network.net().n_in, "x is not (batch, n_in)");
  return x.shape(0);
}

// ---- calls ---------------------------------------------------------------------------------------------------------

template <class T>
bool forward(Network& network, const py::array& params, const py::array& x, std::vector<py::array>& outputs) {
  const Net& net = network.net();
  const py::ssize_t batch = batch_of(network, x);
  const T* p = read<T>(params, static_cast<py::ssize_t>(net.size), "params has another size or dtype");
  const T* input = read<T>(x, batch * net.n_in, "x is not contiguous or has another dtype");
  require(outputs.size() == net.heads.size(), "one output per head");
  std::vector<T*> out;
  for (std::size_t k = 0; k < outputs.size(); ++k)
    out.push_back(write<T>(outputs[k], batch * net.heads[k].n_out(), "an output has another size or dtype"));
  const py::gil_scoped_release release;
  return network.forward<T>(p, input, batch, out);
}

/// What a gradient or a Gramian is computed from.
template <class T>
GradientCall<T> inputs(const Network& network, const py::array& params, const py::array& x,
                       const std::vector<py::array>& targets, const std::vector<std::optional<py::array>>& weights,
                       const std::vector<double>& divisors) {
  const Net& net = network.net();
  const std::size_t heads = net.heads.size();
  GradientCall<T> call{};
  call.batch = batch_of(network, x);
  call.params = read<T>(params, static_cast<py::ssize_t>(net.size), "params has another size or dtype");
  call.x = read<T>(x, call.batch * net.n_in, "x is not contiguous or has another dtype");
  require(targets.size() == heads && weights.size() == heads && divisors.size() == heads, "one target per head");
  for (std::size_t k = 0; k < heads; ++k) {
    HeadTarget<T> target{};
    if (targets[k].ndim() == 1)
      target.classes = read<std::int64_t>(targets[k], call.batch, "classes are not (batch,) int64");
    else
      target.target = read<T>(targets[k], call.batch * net.heads[k].n_out(), "a target has another size or dtype");
    if (weights[k]) target.weights = read<double>(*weights[k], call.batch, "weights are not (batch,) float64");
    target.divisor = divisors[k];
    call.targets.push_back(target);
    if (target.classes)
      for (py::ssize_t i = 0; i < call.batch; ++i)
        require(target.classes[i] >= 0 && target.classes[i] < net.heads[k].n_out(), "a class is out of range");
  }
  return call;
}

template <class T>
void gradients(Network& network, GradientCall<T> call, std::optional<std::vector<py::array>>& per_loss,
               std::optional<py::array>& summed, py::array& losses_out, std::optional<py::array>& gramian) {
  const Net& net = network.net();
  const auto heads = static_cast<py::ssize_t>(net.heads.size());
  if (per_loss) {
    require(per_loss->size() == net.heads.size(), "one gradient per head");
    for (std::size_t k = 0; k < net.heads.size(); ++k) {
      const std::size_t size = net.trunk_size + net.head_size(k);
      call.per_loss.push_back(
          write<T>((*per_loss)[k], static_cast<py::ssize_t>(size), "a per-loss gradient has another size or dtype"));
    }
  }
  if (summed) call.summed = write<T>(*summed, static_cast<py::ssize_t>(net.size), "summed has another size or dtype");
  require(per_loss || summed, "nothing to compute");
  call.losses = write<double>(losses_out, heads, "losses are not (heads,) float64");
  if (gramian) {
    require(per_loss.has_value(), "the Gramian needs the per-loss gradients");
    call.gramian = write<double>(*gramian, heads * heads, "gramian is not (heads, heads) float64");
  }
  const py::gil_scoped_release release;
  network.gradients<T>(call);
}

template <class T> void gramian(Network& network, GradientCall<T> call, py::array& out) {
  const auto heads = static_cast<py::ssize_t>(network.net().heads.size());
  call.gramian = write<double>(out, heads * heads, "gramian is not (heads, heads) float64");
  std::vector<double> unused(network.net().heads.size());
  call.losses = unused.data();
  const py::gil_scoped_release release;
  network.gramian<T>(call);
}

bool is_single(const py::array& params) { return py::isinstance<py::array_t<float>>(params); }

} // namespace

void bind_network(py::module_& m) {
  py::class_<Network>(m, "Network")
      .def(py::init(&make_network), py::arg("n_in"), py::arg("trunk"), py::arg("heads"))
      .def(
          "forward",
          [](Network& network, const py::array& params, const py::array& x, std::vector<py::array> outputs) {
            return (is_single(params) ? forward<float> : forward<double>)(network, params, x, outputs);
          },
          py::arg("params"), py::arg("x"), py::arg("outputs"))
      .def(
          "gradients",
          [](Network& network, const py::array& params, const py::array& x, const std::vector<py::array>& targets,
             const std::vector<std::optional<py::array>>& weights, const std::vector<double>& divisors,
             std::optional<std::vector<py::array>> per_loss, std::optional<py::array> summed, py::array losses_out,
             std::optional<py::array> gramian) {
            if (is_single(params))
              gradients(network, inputs<float>(network, params, x, targets, weights, divisors), per_loss, summed,
                        losses_out, gramian);
            else
              gradients(network, inputs<double>(network, params, x, targets, weights, divisors), per_loss, summed,
                        losses_out, gramian);
          },
          py::arg("params"), py::arg("x"), py::arg("targets"), py::arg("weights"), py::arg("divisors"),
          py::arg("per_loss"), py::arg("summed"), py::arg("losses"), py::arg("gramian"))
      .def(
          "gramian",
          [](Network& network, const py::array& params, const py::array& x, const std::vector<py::array>& targets,
             const std::vector<std::optional<py::array>>& weights, const std::vector<double>& divisors, py::array out) {
            if (is_single(params))
              gramian(network, inputs<float>(network, params, x, targets, weights, divisors), out);
            else
              gramian(network, inputs<double>(network, params, x, targets, weights, divisors), out);
          },
          py::arg("params"), py::arg("x"), py::arg("targets"), py::arg("weights"), py::arg("divisors"), py::arg("out"));
}
