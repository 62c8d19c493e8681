// SPDX-License-Identifier: Apache-2.0
#if defined(__x86_64__)
#define VARVE_SHUFFLE_KERNELS kShuffleAvx2
#define VARVE_SHUFFLE_NAME "avx2"
#define VARVE_SHUFFLE_NAMESPACE shuffle_avx2
#define VARVE_SHUFFLE_LANES 2
#include "storage/shuffle_kernels.inc"
#endif
