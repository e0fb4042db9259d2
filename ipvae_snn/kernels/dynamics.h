/* Shared by forward and backward: the settings of the neurons, and the storage of counts.
 *
 * The clamps are computed without softplus or logarithm. With h = alpha * current, r = 1 / rate and
 * e = exp(-clamp),
 *   u' = clamp(u + clamp(h))   is   r' = e + min(r (e + min(exp(-h), e^8)), e^8),
 * and its derivatives are ratios of the same numbers:
 *   du'/du = 1 - e rate',  du'/dh = 1 - e rate' (1 + 1 / rate),  0 where a minimum is e^8. */
#ifndef IPVAE_DYNAMICS_H
#define IPVAE_DYNAMICS_H

#include "poisson.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

#define FLOOR 2980.9580f /* e^8: 1 / rate at the floor of both clamps, -8 nats */

#define ALWAYS_INLINE __attribute__((always_inline))

/* Floats per vector register, and vectors per row of sum_dense that stay in registers. */
#ifdef __AVX512F__
#define WIDTH 16
#define DENSE_VECTORS 4
#else
#define WIDTH 8
#define DENSE_VECTORS 2
#endif
typedef float Vector __attribute__((vector_size(4 * WIDTH), aligned(4)));

typedef struct {
    const float *bias, *mem_rest; /* (places, K), (K,) */
    int64_t places;               /* rows of bias: a row of neurons takes those in turn */
    float alpha, lateral_scale, leak, epsilon; /* alpha: step size; epsilon: exp(-clamp) */
    int32_t published, rounded; /* form of the KL; counts round(rate) instead of Poisson */
} Dynamics;

/* Counts in 1, 2 or 4 bytes; those too large for 1 or 2 become the maximum. */

static void store_counts(uint8_t *to, const float *spk, int bytes, int64_t n) {
    if (bytes == 1)
        for (int64_t i = 0; i < n; i++) to[i] = (uint8_t)at_most(spk[i], 255.0f);
    else if (bytes == 2)
        for (int64_t i = 0; i < n; i++) ((int16_t *)to)[i] = (int16_t)at_most(spk[i], 32767.0f);
    else
        for (int64_t i = 0; i < n; i++) ((int32_t *)to)[i] = (int32_t)spk[i];
}

static void load_counts(float *spk, const uint8_t *from, int bytes, int64_t n) {
    if (bytes == 1)
        for (int64_t i = 0; i < n; i++) spk[i] = (float)from[i];
    else if (bytes == 2)
        for (int64_t i = 0; i < n; i++) spk[i] = (float)((const int16_t *)from)[i];
    else
        for (int64_t i = 0; i < n; i++) spk[i] = (float)((const int32_t *)from)[i];
}

#endif
