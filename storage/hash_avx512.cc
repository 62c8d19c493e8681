// SPDX-License-Identifier: Apache-2.0
#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// _mm512_undefined_epi32() of gcc 12 is flagged by its own warning (gcc.gnu.org/PR105593); inlining puts that here.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#define VARVE_HASH_KERNELS kHashAvx512
#define VARVE_HASH_NAME "avx512"
#include "storage/hash_kernels.inc"
static_assert(XXH_VECTOR == XXH_AVX512, "storage/CMakeLists.txt gives this unit its instruction set");
#endif
