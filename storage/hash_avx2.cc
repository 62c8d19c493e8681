// SPDX-License-Identifier: Apache-2.0
#if defined(__x86_64__)
#define VARVE_HASH_KERNELS kHashAvx2
#define VARVE_HASH_NAME "avx2"
#include "storage/hash_kernels.inc"
static_assert(XXH_VECTOR == XXH_AVX2, "storage/CMakeLists.txt gives this unit its instruction set");
#endif
