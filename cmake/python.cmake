# The two compiled modules of the package: _core (pybind11 over the kernel) and _oracle (Cython, shares nothing with it).

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

set(oracle_source ${CMAKE_CURRENT_SOURCE_DIR}/pyengine/_oracle.pyx)
set(oracle_generated ${CMAKE_CURRENT_BINARY_DIR}/_oracle.c)
add_custom_command(
  OUTPUT ${oracle_generated}
  COMMAND ${Python_EXECUTABLE} -m cython -3 --module-name pyengine._oracle ${oracle_source} -o ${oracle_generated}
  DEPENDS ${oracle_source} pyengine/_dd.pxd pyengine/_dd_functions.pxd
  COMMENT "Cython: pyengine/_oracle.pyx"
  VERBATIM)
python_add_library(_oracle MODULE WITH_SOABI ${oracle_generated})
set_target_properties(_oracle PROPERTIES C_VISIBILITY_PRESET hidden)
target_link_libraries(_oracle PRIVATE pyengine_float)

install(TARGETS _core _oracle LIBRARY DESTINATION pyengine)
