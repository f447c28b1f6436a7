# Sets TORCHSRU_ISAS, the instruction sets to compile the kernels for, and TORCHSRU_FLAGS_<isa>.
# "baseline" is what every processor of the target architecture has: SSE2 on x86-64, NEON on ARM64.
include(CheckCXXCompilerFlag)
include(CheckCXXSourceCompiles)

set(TORCHSRU_ISAS baseline)
set(TORCHSRU_FLAGS_baseline)

# Asks the compiler, not the host: right when cross-compiling, and "no" for a macOS universal build.
check_cxx_source_compiles("#ifndef __x86_64__\n#error\n#endif\nint main() {}" TORCHSRU_X86_64)
if(TORCHSRU_X86_64)
  set(TORCHSRU_FLAGS_avx2 -mavx2 -mfma)
  set(TORCHSRU_FLAGS_avx512
    -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512)
  foreach(isa avx2 avx512)
    list(JOIN TORCHSRU_FLAGS_${isa} " " flags)
    check_cxx_compiler_flag("${flags}" TORCHSRU_COMPILES_${isa})
    if(TORCHSRU_COMPILES_${isa})
      list(APPEND TORCHSRU_ISAS ${isa})
    endif()
  endforeach()
endif()
message(STATUS "torchsru: kernels for ${TORCHSRU_ISAS}")
