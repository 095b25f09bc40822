// The look at a product: pyengine/checks/staged/screen.py has made the operands.
#include "screen.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>

#include "bind.hpp"
#include "column_sums.hpp"

namespace {

using pyengine::Screen;
using pyengine::Screening;

template <class T> const T* read(const py::array& a, py::ssize_t size) {
  if (!py::isinstance<py::array_t<T>>(a) || !(a.flags() & py::array::c_style) || a.size() != size)
    throw std::invalid_argument("_core: an operand has another size, dtype or order");
  return static_cast<const T*>(a.data());
}

struct Factors {
  double up, down, unit, on_q, on_z, smallest, limit;
};

template <class T>
py::tuple screen(const py::array& claimed, const py::array& z, const py::array& q, const std::optional<py::array>& bias,
                 const std::optional<py::array>& bias_v, const py::array& signs, const Factors& f) {
  const py::ssize_t m = claimed.shape(0), n = claimed.shape(1);
  py::array_t<double> rows({py::ssize_t(pyengine::screen_row_sums), m}),
      columns({py::ssize_t(pyengine::screen_column_sums), n});
  const Screening<T> given{m,
                           n,
                           read<T>(claimed, m * n),
                           read<double>(z, m * n),
                           read<T>(q, m * n),
                           bias ? read<double>(*bias, n) : nullptr,
                           bias ? read<T>(bias_v.value(), n) : nullptr,
                           read<T>(signs, pyengine::screen_signs * n),
                           f.up,
                           f.down,
                           f.unit,
                           static_cast<T>(f.on_q),
                           static_cast<T>(f.on_z),
                           static_cast<T>(f.smallest),
                           static_cast<T>(f.limit),
                           rows.mutable_data()};
  Screen<T> looked(given);
  {
    double* to = columns.mutable_data();
    const py::gil_scoped_release release;
    looked.run();
    looked.columns(to);
  }
  T top = 0;
  bool infinite = false, low = false, listed = true;
  py::ssize_t count = 0;
  for (const auto& strip : looked.found()) {
    top = std::max(top, strip.top);
    infinite |= strip.infinite;
    low |= strip.low;
    listed &= strip.count <= strip.room;
    count += strip.count;
  }
  py::array_t<std::int64_t> at(listed ? count : 0);
  py::array_t<T> r(listed ? count : 0);
  if (listed) {
    std::int64_t* to_at = at.mutable_data();
    T* to_r = r.mutable_data();
    for (const auto& strip : looked.found()) {
      to_at = std::copy_n(strip.at, strip.count, to_at);
      to_r = std::copy_n(strip.r, strip.count, to_r);
    }
  }
  return py::make_tuple(rows, columns, static_cast<double>(top), infinite, low, listed, at, r);
}

template <class T> py::array_t<double> column_sums(const py::array& x, double scale) {
  const py::ssize_t m = x.shape(0), n = x.shape(1);
  py::array_t<double> sums({py::ssize_t(3), n});
  double* to = sums.mutable_data();
  const T* from = read<T>(x, m * n);
  const py::gil_scoped_release release;
  pyengine::column_sums(m, n, from, scale, to);
  return sums;
}

} // namespace

void bind_screen(py::module_& m) {
  m.attr("screen_terms") = pyengine::screen_terms;
  m.def(
      "screen",
      [](const py::array& claimed, const py::array& z, const py::array& q, const std::optional<py::array>& bias,
         const std::optional<py::array>& bias_v, const py::array& signs, double up, double down, double unit,
         double on_q, double on_z, double smallest, double limit) {
        if (claimed.ndim() != 2 || claimed.size() == 0)
          throw std::invalid_argument("_core: what is screened is not a matrix, or empty");
        const Factors factors{up, down, unit, on_q, on_z, smallest, limit};
        return (py::isinstance<py::array_t<float>>(claimed) ? screen<float> : screen<double>)(claimed, z, q, bias,
                                                                                              bias_v, signs, factors);
      },
      py::arg("claimed"), py::arg("z"), py::arg("q"), py::arg("bias"), py::arg("bias_v"), py::arg("signs"),
      py::arg("up"), py::arg("down"), py::arg("unit"), py::arg("on_q"), py::arg("on_z"), py::arg("smallest"),
      py::arg("limit"));
  m.def(
      "column_sums",
      [](const py::array& x, double scale) {
        if (x.ndim() != 2) throw std::invalid_argument("_core: what is summed is not a matrix");
        return (py::isinstance<py::array_t<float>>(x) ? column_sums<float> : column_sums<double>)(x, scale);
      },
      py::arg("x"), py::arg("scale"));
}
