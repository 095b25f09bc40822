// Instruction sets, threads, and how the module was built.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cmath>

#include "bind.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"

namespace {

const char* compiler() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#else
  return "GCC " __VERSION__;
#endif
}

} // namespace

void bind_runtime(py::module_& m) {
  m.def("isa", [] { return pyengine::kernels().f32.isa; });
  m.def("isas", &pyengine::available_isas);
  m.def("set_isa", [](const std::string& name) { pyengine::choose_isa(name); }, py::arg("name"));
  m.def("num_threads", &pyengine::num_threads);
  m.def("set_num_threads", &pyengine::set_num_threads, py::arg("n"));
  // Of the C library, elementwise: NumPy has none, and Python's own takes 100 ns a number.
  m.def("erfc", py::vectorize([](double z) { return std::erfc(z); }), py::arg("z"));
  m.def("build_info", [] {
    py::dict info;
    info["compiler"] = compiler();
    info["openmp"] = pyengine::has_openmp();
    return info;
  });
}
