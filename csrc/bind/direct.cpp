// The short way from Python to the kernel. Where every argument is exactly what the kernel takes (plain arrays of the
// right dtype and shape, contiguous, finite, classes in range, no sample weights) the call goes straight through; in
// all other cases it is declined, nothing having been touched, and Python converts the arguments or says what is wrong
// with them.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>

#include "bind.hpp"
#include "dispatch.hpp"
#include "network.hpp"

namespace {

using pyengine::GradientCall;
using pyengine::Head;
using pyengine::HeadTarget;
using pyengine::Loss;
using pyengine::Net;
using pyengine::Network;

// ---- arrays, looked at without a reference or a conversion ---------------------------------------------------------

const py::detail::PyArray_Proxy& fields(py::handle a) { return *py::detail::array_proxy(a.ptr()); }

/// Whether `a` is a plain, aligned, C-contiguous array of exactly this dtype.
bool is_plain(py::handle a, py::handle dtype, bool writeable = false) {
  const auto& api = py::detail::npy_api::get();
  if (Py_TYPE(a.ptr()) != api.PyArray_Type_ || fields(a).descr != dtype.ptr()) return false;
  const int needed = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_ |
                     (writeable ? py::detail::npy_api::NPY_ARRAY_WRITEABLE_ : 0);
  return (fields(a).flags & needed) == needed;
}

bool has_shape(py::handle a, py::ssize_t rows, py::ssize_t columns) {
  return fields(a).nd == 2 && fields(a).dimensions[0] == rows && fields(a).dimensions[1] == columns;
}

bool has_shape(py::handle a, py::ssize_t rows) { return fields(a).nd == 1 && fields(a).dimensions[0] == rows; }

template <class T> T* data(py::handle a) { return reinterpret_cast<T*>(fields(a).data); }

template <class T> bool all_finite(py::ssize_t count, const T* x) {
  return pyengine::kernels().of<T>().all_finite(static_cast<std::size_t>(count), x);
}

template <class T> bool all_within(py::ssize_t count, const T* x, T high) {
  bool within = true;
  for (py::ssize_t i = 0; i < count; ++i) within &= x[i] >= T(0) && x[i] <= high;
  return within;
}

bool all_classes(py::ssize_t count, const std::int64_t* x, std::int64_t classes) {
  std::uint64_t signs = 0;
  for (py::ssize_t i = 0; i < count; ++i) {
    const auto given = static_cast<std::uint64_t>(x[i]);
    signs |= given | (static_cast<std::uint64_t>(classes - 1) - given);
  }
  return signs >> 63 == 0;
}

bool takes_probabilities(Loss loss) {
  return loss == Loss::binary_cross_entropy || loss == Loss::clipped_binary_cross_entropy;
}

bool takes_classes(Loss loss) { return loss == Loss::softmax_cross_entropy || loss == Loss::clipped_cross_entropy; }

// ---- the call ------------------------------------------------------------------------------------------------------

/// A result's arrays, bound to the network that made them.
class Direct {
 public:
  Direct(Network& network, py::dtype dtype, std::vector<py::object> per_loss, std::optional<py::object> summed,
         std::optional<py::array> gramian, py::dict losses)
      : network_(network), dtype_(std::move(dtype)), per_loss_(std::move(per_loss)), summed_(std::move(summed)),
        gramian_(std::move(gramian)), losses_(std::move(losses)), values_(network.net().heads.size()),
        classes_(py::dtype::of<std::int64_t>()) {
    for (const auto& [name, value] : losses_) names_.push_back(py::reinterpret_borrow<py::object>(name));
    single_ = dtype_.is(py::dtype::of<float>());
  }

  /// Runs and returns the total loss, or declines and returns None.
  py::object run(const Network& network, bool per_loss, bool summed, py::handle params, py::handle x,
                 py::handle targets) {
    if (!(per_loss || summed) || &network != &network_ || per_loss == per_loss_.empty() ||
        summed != summed_.has_value())
      return py::none();
    return single_ ? run_as<float>(params, x, targets) : run_as<double>(params, x, targets);
  }

 private:
  struct Release {
    std::atomic<bool>& flag;
    ~Release() { flag = false; }
  };

  /// The memory of an argument.
  struct Span {
    const char* begin;
    std::size_t bytes;

    bool overlaps(const Span& other) const { return begin < other.begin + other.bytes && other.begin < begin + bytes; }
  };

  template <class T> static Span span(const T* begin, std::size_t count) {
    return {reinterpret_cast<const char*>(begin), count * sizeof(T)};
  }

  template <class T> py::object run_as(py::handle params, py::handle x, py::handle targets) {
    const Net& net = network_.net();
    GradientCall<T> call{};
    inputs_.clear();
    if (!is_plain(params, dtype_) || !has_shape(params, static_cast<py::ssize_t>(net.size))) return py::none();
    if (!is_plain(x, dtype_) || fields(x).nd != 2) return py::none();
    call.batch = fields(x).dimensions[0];
    if (call.batch < 1 || !has_shape(x, call.batch, net.n_in)) return py::none();
    if (!PyDict_CheckExact(targets.ptr()) || PyDict_GET_SIZE(targets.ptr()) != static_cast<py::ssize_t>(names_.size()))
      return py::none();
    call.params = data<T>(params);
    call.x = data<T>(x);
    if (!all_finite(call.batch * net.n_in, call.x)) return py::none();
    inputs_.push_back(span(call.params, net.size));
    inputs_.push_back(span(call.x, static_cast<std::size_t>(call.batch * net.n_in)));
    call.targets.resize(names_.size());
    for (std::size_t k = 0; k < names_.size(); ++k)
      if (!bind_target(net.heads[k], call.batch, PyDict_GetItem(targets.ptr(), names_[k].ptr()), call.targets[k]))
        return py::none();
    if (!bind_results(call)) return py::none();

    if (busy_.exchange(true)) return py::none();
    {
      const Release done{busy_};
      const py::gil_scoped_release release;
      network_.gradients<T>(call);
    }
    double total = 0;
    for (std::size_t k = 0; k < names_.size(); ++k) {
      if (PyDict_SetItem(losses_.ptr(), names_[k].ptr(), py::float_(values_[k]).ptr()) != 0)
        throw py::error_already_set();
      total += net.heads[k].weight * values_[k];
    }
    return py::float_(total);
  }

  template <class T> bool bind_target(const Head& head, py::ssize_t batch, PyObject* given, HeadTarget<T>& to) {
    if (!given) return false;
    const py::ssize_t n_out = head.n_out();
    to.divisor = head.reduction == pyengine::Reduction::sum ? 1.0 : static_cast<double>(batch);
    if (!takes_classes(head.loss) && head.reduction != pyengine::Reduction::sum)
      to.divisor *= static_cast<double>(n_out);
    if (takes_classes(head.loss) && is_plain(given, classes_)) {
      to.classes = data<std::int64_t>(given);
      inputs_.push_back(span(to.classes, static_cast<std::size_t>(batch)));
      return has_shape(given, batch) && all_classes(batch, to.classes, n_out);
    }
    if (!is_plain(given, dtype_) || !has_shape(given, batch, n_out)) return false;
    to.target = data<T>(given);
    const py::ssize_t count = batch * n_out;
    inputs_.push_back(span(to.target, static_cast<std::size_t>(count)));
    if (takes_probabilities(head.loss)) return all_within(count, to.target, T(1));
    return all_finite(count, to.target) && (!takes_classes(head.loss) || all_within(count, to.target, T(HUGE_VAL)));
  }

  /// The arrays are asked for anew each time: a user may have put another one in their place.
  template <class T> bool bind_results(GradientCall<T>& call) {
    const Net& net = network_.net();
    const auto take = [&](const py::object& part, std::size_t size) -> T* {
      const py::object a = part.attr(flat_);
      if (!is_plain(a, dtype_, true) || !has_shape(a, static_cast<py::ssize_t>(size))) return nullptr;
      const Span written = span(data<T>(a), size);
      for (const Span& read : inputs_)
        if (written.overlaps(read)) return nullptr;
      return data<T>(a);
    };
    call.per_loss.reserve(per_loss_.size());
    for (std::size_t k = 0; k < per_loss_.size(); ++k) {
      call.per_loss.push_back(take(per_loss_[k], net.trunk_size + net.head_size(k)));
      if (!call.per_loss.back()) return false;
    }
    if (summed_ && !(call.summed = take(*summed_, net.size))) return false;
    if (gramian_) call.gramian = data<double>(*gramian_);
    call.losses = values_.data();
    return true;
  }

  Network& network_;
  py::dtype dtype_;
  std::vector<py::object> per_loss_; // pyengine.Parameters
  std::optional<py::object> summed_;
  std::optional<py::array> gramian_;
  py::dict losses_;
  std::vector<py::object> names_;
  std::vector<double> values_;
  std::vector<Span> inputs_; // of the call that is being bound, under the interpreter's lock
  py::dtype classes_;
  py::str flat_{"flat"};
  bool single_ = false;
  std::atomic<bool> busy_ = false; // a call is writing into these arrays
};

} // namespace

void bind_direct(py::module_& m) {
  py::class_<Direct>(m, "Direct")
      .def(py::init<Network&, py::dtype, std::vector<py::object>, std::optional<py::object>, std::optional<py::array>,
                    py::dict>(),
           py::keep_alive<1, 2>(), py::arg("network"), py::arg("dtype"), py::arg("per_loss"), py::arg("summed"),
           py::arg("gramian"), py::arg("losses"))
      .def("run", &Direct::run);
}
