// NEON: the seat is kept, nobody sits in it yet; until then AArch64 runs the textbook loops. To fill it, define the two
// vector types (Float4, Double2) as in sse2.cpp over <arm_neon.h>, and name the table in dispatch.cpp.
