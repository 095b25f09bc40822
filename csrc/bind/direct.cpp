// The short way from Python to the kernel. Where every argument is exactly what the kernel takes (plain arrays of the
// right dtype and shape, contiguous, finite, classes in range, no sample weights) the call goes straight through; in
// all other cases it is declined, nothing having been touched, and Python converts the arguments or says what is wrong
// with them.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <structmember.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>
#include <stdexcept>
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

/// Where an object of a class with __slots__ keeps one of them: read there, it costs no look-up.
Py_ssize_t slot(py::handle type, const char* name) {
  const py::object descriptor = type.attr(name);
  if (Py_TYPE(descriptor.ptr()) != &PyMemberDescr_Type) throw std::invalid_argument("_core: not a slot");
  return reinterpret_cast<PyMemberDescrObject*>(descriptor.ptr())->d_member->offset;
}

/// A result's arrays, bound to the network that made them.
class Direct {
 public:
  Direct(py::object network, py::dtype dtype, std::vector<py::object> per_loss, std::optional<py::object> summed,
         std::optional<py::array> gramian, py::dict losses)
      : network_object_(std::move(network)), network_(network_object_.cast<Network&>()), dtype_(std::move(dtype)),
        per_loss_(std::move(per_loss)), summed_(std::move(summed)), gramian_(std::move(gramian)),
        losses_(std::move(losses)), values_(network_.net().heads.size()), classes_(py::dtype::of<std::int64_t>()) {
    for (const auto& [name, value] : losses_) names_.push_back(py::reinterpret_borrow<py::object>(name));
    for (const py::object& part : per_loss_) flat_ = slot(py::type::handle_of(part), "flat");
    if (summed_) flat_ = slot(py::type::handle_of(*summed_), "flat");
    single_ = dtype_.is(py::dtype::of<float>());
    const auto wanted = per_loss_.empty() ? pyengine::Wanted::summed : pyengine::Wanted::per_loss;
    flops_of_a_row_ = pyengine::flops_of_a_row(network_.net(), wanted);
    const auto prepare = [this](auto& call) {
      call.targets.resize(names_.size());
      call.per_loss.resize(per_loss_.size());
      call.losses = values_.data();
      call.gramian = gramian_ ? static_cast<double*>(gramian_->mutable_data()) : nullptr;
    };
    single_ ? prepare(f32_) : prepare(f64_);
  }

  /// run(network, per_loss, summed, params, x, targets): runs and returns the total loss, or declines and returns None.
  /// A method of Python's own making: pybind11's take as long as a tenth of a small network.
  static PyObject* run(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
    if (count != 6) {
      PyErr_SetString(PyExc_TypeError, "_core: run() takes 6 arguments");
      return nullptr;
    }
    const auto held = reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder();
    if (!held.value_ptr()) {
      PyErr_SetString(PyExc_TypeError, "_core: Direct was not initialised");
      return nullptr;
    }
    Direct& direct = *held.value_ptr<Direct>();
    try {
      const int per_loss = PyObject_IsTrue(arguments[1]), summed = PyObject_IsTrue(arguments[2]);
      if (per_loss < 0 || summed < 0) return nullptr;
      if (!(per_loss || summed) || arguments[0] != direct.network_object_.ptr() ||
          (per_loss == 1) == direct.per_loss_.empty() || (summed == 1) != direct.summed_.has_value())
        return py::none().release().ptr();
      return (direct.single_ ? direct.run_as(direct.f32_, arguments[3], arguments[4], arguments[5])
                             : direct.run_as(direct.f64_, arguments[3], arguments[4], arguments[5]))
          .release()
          .ptr();
    } catch (py::error_already_set& error) {
      error.restore();
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
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

  template <class T> py::object run_as(GradientCall<T>& call, py::handle params, py::handle x, py::handle targets) {
    if (busy_.exchange(true)) return py::none();
    const Release done{busy_};
    const Net& net = network_.net();
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
    for (std::size_t k = 0; k < names_.size(); ++k)
      if (!bind_target(net.heads[k], call.batch, PyDict_GetItem(targets.ptr(), names_[k].ptr()), call.targets[k] = {}))
        return py::none();
    if (!bind_results(call)) return py::none();

    // Handing the interpreter's lock over takes longer than other threads would wait for a small call.
    std::optional<py::gil_scoped_release> release;
    if (static_cast<double>(call.batch) * flops_of_a_row_ >= pyengine::worth_a_thread) release.emplace();
    network_.gradients<T>(call);
    release.reset();

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
      PyObject* const a = *reinterpret_cast<PyObject* const*>(reinterpret_cast<const char*>(part.ptr()) + flat_);
      if (!a || !is_plain(a, dtype_, true) || !has_shape(a, static_cast<py::ssize_t>(size))) return nullptr;
      const Span written = span(data<T>(a), size);
      for (const Span& read : inputs_)
        if (written.overlaps(read)) return nullptr;
      return data<T>(a);
    };
    for (std::size_t k = 0; k < per_loss_.size(); ++k)
      if (!(call.per_loss[k] = take(per_loss_[k], net.trunk_size + net.head_size(k)))) return false;
    return !summed_ || (call.summed = take(*summed_, net.size));
  }

  py::object network_object_;
  Network& network_;
  py::dtype dtype_;
  std::vector<py::object> per_loss_; // pyengine.Parameters
  std::optional<py::object> summed_;
  std::optional<py::array> gramian_;
  py::dict losses_;
  std::vector<py::object> names_;
  std::vector<double> values_;
  // Of the call that is being made, with memory for the next.
  GradientCall<float> f32_{};
  GradientCall<double> f64_{};
  std::vector<Span> inputs_;
  py::dtype classes_;
  Py_ssize_t flat_ = 0; // where each of the parts has its array
  double flops_of_a_row_;
  bool single_ = false;
  std::atomic<bool> busy_ = false; // a call is writing into these arrays
};

} // namespace

void bind_direct(py::module_& m) {
  py::class_<Direct> direct(m, "Direct");
  direct.def(py::init<py::object, py::dtype, std::vector<py::object>, std::optional<py::object>,
                      std::optional<py::array>, py::dict>(),
             py::arg("network"), py::arg("dtype"), py::arg("per_loss"), py::arg("summed"), py::arg("gramian"),
             py::arg("losses"));
  static PyMethodDef run{"run", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Direct::run)),
                         METH_FASTCALL, nullptr};
  direct.attr("run") =
      py::reinterpret_steal<py::object>(PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(direct.ptr()), &run));
}
