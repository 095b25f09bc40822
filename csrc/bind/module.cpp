// The module's table of contents.
#include "bind.hpp"

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The compiled kernel of pyengine.";
  bind_runtime(m);
  bind_network(m);
  bind_direct(m);
  bind_screen(m);
}
