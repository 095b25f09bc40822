# The compiled modules of the package: _core (pybind11 over the kernel), and _oracle and _rules (Cython), which share
# nothing with it.

find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)

if(NOT pybind11_DIR)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
    OUTPUT_VARIABLE pybind11_DIR
    OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
set(PYBIND11_FINDPYTHON ON)
find_package(pybind11 2.13.6 CONFIG REQUIRED)

# NO_EXTRAS: link-time optimisation may move code across the per-file instruction sets.
pybind11_add_module(_core NO_EXTRAS csrc/bind/module.cpp csrc/bind/network.cpp csrc/bind/runtime.cpp csrc/bind/direct.cpp
                               csrc/bind/screen.cpp)
set_target_properties(_core PROPERTIES CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
target_link_libraries(_core PRIVATE pyengine_kernel pyengine_float pyengine_warnings)

# name: the module pyengine.name from pyengine/name.pyx; further arguments: other files that it includes
function(add_cython_module name)
  set(source ${CMAKE_CURRENT_SOURCE_DIR}/pyengine/${name}.pyx)
  set(generated ${CMAKE_CURRENT_BINARY_DIR}/${name}.c)
  add_custom_command(
    OUTPUT ${generated}
    COMMAND ${Python_EXECUTABLE} -m cython -3 --module-name pyengine.${name} ${source} -o ${generated}
    DEPENDS ${source} ${ARGN}
    COMMENT "Cython: pyengine/${name}.pyx"
    VERBATIM)
  python_add_library(${name} MODULE WITH_SOABI ${generated})
  set_target_properties(${name} PROPERTIES C_VISIBILITY_PRESET hidden)
endfunction()

add_cython_module(_oracle pyengine/_dd.pxd pyengine/_dd_functions.pxd)
target_link_libraries(_oracle PRIVATE pyengine_float)
add_cython_module(_rules)
target_link_libraries(_rules PRIVATE pyengine_kernel_float)

install(TARGETS _core _oracle _rules LIBRARY DESTINATION pyengine)
