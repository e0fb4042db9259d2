/* Poisson counts from a counter-based generator: a count depends on (key, row, column) alone, and
 * so not on threads, blocks or the rest of the batch.
 *
 * Rates up to MAX_INVERTED_RATE: inversion of the distribution function, LANES elements at a time;
 * the loop ends at the largest count among them. Rates above: transformed rejection (PTRS; Hormann,
 * "The transformed rejection method for generating Poisson random variables", 1993).
 * Generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). */
#ifndef IPVAE_POISSON_H
#define IPVAE_POISSON_H

#include "scalar.h"

#define LANES 64
#define GROUP (LANES / 4) /* Philox gives four words per counter */
#define MAX_INVERTED_RATE 16.0f
#define TAIL_WORDS 0x1000u /* words below this, one in a million, are inverted in float64 */

/* LANES random words of one stream, for elements block * LANES ... of a row. */
static inline void philox(uint64_t key, uint64_t row, uint32_t block, uint32_t stream,
                          uint32_t words[LANES]) {
    uint32_t *a = words, *b = a + GROUP, *c = b + GROUP, *d = c + GROUP;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int i = 0; i < GROUP; i++) {
        a[i] = block * GROUP + (uint32_t)i;
        b[i] = (uint32_t)row;
        c[i] = stream;
        d[i] = (uint32_t)(row >> 32);
    }
    for (int round = 0; round < 10; round++) {
#pragma omp simd
        for (int i = 0; i < GROUP; i++) {
            uint64_t p = (uint64_t)a[i] * 0xD2511F53u, q = (uint64_t)c[i] * 0xCD9E8D57u;
            a[i] = (uint32_t)(q >> 32) ^ b[i] ^ k0;
            b[i] = (uint32_t)q;
            c[i] = (uint32_t)(p >> 32) ^ d[i] ^ k1;
            d[i] = (uint32_t)p;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

static inline double uniform(uint32_t word) { return (word + 0.5) * 0x1p-32; } /* in (0, 1) */

/* ln k!, by Stirling's series at k + 8, where four terms have an error below 1e-12. */
static inline double log_factorial(double k) {
    double rising = 1, x = k + 9, s = 1 / (x * x);
    for (int i = 1; i <= 8; i++) rising *= k + i;
    double series = (1.0 / 12 - s * (1.0 / 360 - s * (1.0 / 1260 - s / 1680))) / x;
    return (x - 0.5) * fast_log64(x) - x + 0.91893853320467274 + series - fast_log64(rising);
}

/* Counts by rejection, for lanes with rates above MAX_INVERTED_RATE. Every round makes proposals
 * for all lanes; those already accepted ignore them. */
static void draw_by_rejection(const float rate[LANES], uint64_t key, uint64_t row, uint32_t block,
                   float spk[LANES]) {
    uint32_t u_words[LANES], v_words[LANES];
    double mean[LANES], log_mean[LANES], b[LANES], quick_below[LANES], inv_alpha[LANES];
    float pending[LANES], remaining = 0; /* 1 where a lane has no count yet, and their sum */
    for (int i = 0; i < LANES; i++) {
        pending[i] = rate[i] > MAX_INVERTED_RATE ? 1.0f : 0.0f;
        mean[i] = rate[i] > MAX_INVERTED_RATE ? rate[i] : MAX_INVERTED_RATE;
        log_mean[i] = fast_log64(mean[i]);
        b[i] = 0.931 + 2.53 * sqrt(mean[i]);
        quick_below[i] = 0.9277 - 3.6224 / (b[i] - 2);
        inv_alpha[i] = 1.1239 + 1.1328 / (b[i] - 3.4);
        remaining += pending[i];
    }
    for (uint32_t stream = 1; remaining > 0; stream += 2) {
        philox(key, row, block, stream, u_words);
        philox(key, row, block, stream + 1, v_words);
        remaining = 0;
#pragma omp simd reduction(+ : remaining)
        for (int i = 0; i < LANES; i++) {
            double a = -0.059 + 0.02483 * b[i];
            double u = uniform(u_words[i]) - 0.5, v = uniform(v_words[i]), us = 0.5 - fabs(u);
            double k = floor((2 * a / us + b[i]) * u + mean[i] + 0.43), count = k < 0 ? 0 : k;
            double height = v * inv_alpha[i] / (a / (us * us) + b[i]);
            double bound = count * log_mean[i] - mean[i] - log_factorial(count);
            int quick_accept = (us >= 0.07) & (v <= quick_below[i]);
            int quick_reject = (k < 0) | ((us < 0.013) & (v > us));
            int accept = quick_accept | (!quick_reject & (fast_log64(height) <= bound));
            float newly = accept ? pending[i] : 0.0f;
            spk[i] = newly > 0 ? (float)count : spk[i];
            pending[i] -= newly;
            remaining += pending[i];
        }
    }
}

/* Inversion in float64 for a first word below TAIL_WORDS: a second word adds 32 bits. */
static double invert_tail(double rate, uint32_t first, uint32_t second) {
    double u = (first + uniform(second)) * 0x1p-32;
    double above = -expm1(-rate), p = exp(-rate), k = 0;
    while (u < above && k < 200) {
        p *= rate / ++k;
        above -= p;
    }
    return k;
}

/* Counts for LANES rates; a rate of 0 gives 0. */
static void draw_poisson(const float rate[LANES], uint64_t key, uint64_t row, uint32_t block,
                         float spk[LANES]) {
    uint32_t words[LANES];
    float u[LANES], lambda[LANES], p[LANES], above[LANES]; /* above: P(count > k) */
    int any_deferred = 0, any_above = 1;
    philox(key, row, block, 0, words);
#pragma omp simd reduction(| : any_deferred)
    for (int i = 0; i < LANES; i++) {
        int deferred = (rate[i] > MAX_INVERTED_RATE) | (words[i] < TAIL_WORDS);
        any_deferred |= deferred;
        lambda[i] = deferred ? 0.0f : rate[i];
        u[i] = (float)words[i] * 0x1p-32f;
        decay(lambda[i], &p[i], &above[i]);
        spk[i] = 0.0f;
    }
    for (int k = 1; any_above && k < 128; k++) {
        float inverse = 1.0f / (float)k;
        any_above = 0;
#pragma omp simd reduction(| : any_above)
        for (int i = 0; i < LANES; i++) {
            int is_above = u[i] < above[i];
            any_above |= is_above;
            spk[i] += is_above ? 1.0f : 0.0f;
            p[i] *= lambda[i] * inverse;
            above[i] -= p[i];
        }
    }
    if (!any_deferred) return;
    draw_by_rejection(rate, key, row, block, spk);
    uint32_t seconds[LANES];
    philox(key, row, block, 0xFFFFFFFFu, seconds);
    for (int i = 0; i < LANES; i++)
        if (words[i] < TAIL_WORDS && rate[i] <= MAX_INVERTED_RATE)
            spk[i] = (float)invert_tail(rate[i], words[i], seconds[i]);
}

#endif
