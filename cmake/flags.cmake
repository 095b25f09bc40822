# Flags that every target shares, as two interface targets: how floating point behaves, and what is warned about.

# A product and a sum are contracted to an FMA only where the source says so. Without this, GCC contracts wherever the
# instruction set allows, and neither the rounding bounds nor the double-double oracle would describe what is computed.
add_library(pyengine_float INTERFACE)
target_compile_options(pyengine_float INTERFACE -ffp-contract=off)

# Nothing reads errno or the floating-point exception flags, so these two change no value; they let the compiler turn
# selects into blends and sqrt into one instruction. Nothing else of -ffast-math is used: all of it changes values.
add_library(pyengine_kernel_float INTERFACE)
target_compile_options(pyengine_kernel_float INTERFACE -fno-math-errno -fno-trapping-math)
target_link_libraries(pyengine_kernel_float INTERFACE pyengine_float)

# Signs: sizes are signed in the kernel and unsigned in the standard library.
add_library(pyengine_warnings INTERFACE)
target_compile_options(
  pyengine_warnings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
                              $<$<BOOL:${PYENGINE_WERROR}>:-Werror>)
