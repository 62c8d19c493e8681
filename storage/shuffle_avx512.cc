// SPDX-License-Identifier: Apache-2.0
#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// _mm512_undefined_epi32() of gcc 12 is flagged by its own warning (gcc.gnu.org/PR105593); inlining puts that here.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#define VARVE_SHUFFLE_KERNELS kShuffleAvx512
#define VARVE_SHUFFLE_NAME "avx512"
#define VARVE_SHUFFLE_NAMESPACE shuffle_avx512
#define VARVE_SHUFFLE_LANES 4
#include "storage/shuffle_kernels.inc"
#endif
