// What the files of the binding share.
#pragma once

#include <pybind11/pybind11.h>

namespace py = pybind11;

void bind_runtime(py::module_& m);
void bind_network(py::module_& m);
void bind_direct(py::module_& m);
void bind_screen(py::module_& m);
