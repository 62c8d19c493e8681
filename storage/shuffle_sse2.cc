// SPDX-License-Identifier: Apache-2.0
#if defined(__x86_64__)
#define VARVE_SHUFFLE_KERNELS kShuffleSse2
#define VARVE_SHUFFLE_NAME "sse2"
#define VARVE_SHUFFLE_NAMESPACE shuffle_sse2
#define VARVE_SHUFFLE_LANES 1
#include "storage/shuffle_kernels.inc"
#endif
