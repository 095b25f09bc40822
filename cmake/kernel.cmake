# The kernel: plain C++, without Python. _core, the C++ tests and the C++ benchmarks link it.

set(sources csrc/naive.cpp csrc/dispatch.cpp csrc/network.cpp csrc/parallel.cpp csrc/plan.cpp csrc/workers.cpp)
set(x86_sources csrc/isa/sse2.cpp csrc/isa/avx2.cpp csrc/isa/avx512.cpp)
set(arm_sources csrc/isa/neon.cpp)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND sources ${x86_sources})
  # One instruction set a file: what these flags allow must never be met by a CPU that dispatch.cpp did not ask.
  set_property(SOURCE csrc/isa/avx2.cpp APPEND PROPERTY COMPILE_OPTIONS -mavx2 -mfma)
  set_property(SOURCE csrc/isa/avx512.cpp APPEND PROPERTY COMPILE_OPTIONS -mavx512f -mavx512dq -mavx512vl -mavx512bw
                                                          -mfma -mprefer-vector-width=512)
  set(definitions PYENGINE_HAVE_X86)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  list(APPEND sources ${arm_sources})
  set(definitions PYENGINE_HAVE_NEON)
else()
  set(definitions)
endif()

add_library(pyengine_kernel STATIC ${sources})
target_compile_features(pyengine_kernel PUBLIC cxx_std_20)
target_include_directories(pyengine_kernel PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/csrc)
target_compile_definitions(pyengine_kernel PUBLIC ${definitions})
set_target_properties(
  pyengine_kernel
  PROPERTIES CXX_EXTENSIONS OFF
             CXX_VISIBILITY_PRESET hidden
             VISIBILITY_INLINES_HIDDEN ON
             POSITION_INDEPENDENT_CODE ON)
target_link_libraries(pyengine_kernel PRIVATE pyengine_kernel_float pyengine_warnings)

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
target_link_libraries(pyengine_kernel PUBLIC Threads::Threads)

if(PYENGINE_OPENMP)
  find_package(OpenMP COMPONENTS CXX)
  if(OpenMP_CXX_FOUND)
    target_link_libraries(pyengine_kernel PUBLIC OpenMP::OpenMP_CXX)
  endif()
endif()
