// SPDX-License-Identifier: Apache-2.0
#define VARVE_HASH_KERNELS kHashBaseline
#if defined(__x86_64__)
#define VARVE_HASH_NAME "sse2"
#else
#define VARVE_HASH_NAME "baseline"
#endif
#include "storage/hash_kernels.inc"
