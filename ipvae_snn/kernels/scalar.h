/* exp, log and 1 - exp(-x) without branches, so that compilers vectorize loops over them. Within
 * 2 units in the last place of float32 where they are used.
 * Coefficients: Cephes mathematical library (Moshier 1989), single precision. */
#ifndef IPVAE_SCALAR_H
#define IPVAE_SCALAR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float at_most(float value, float top) { return value > top ? top : value; }
static inline float at_least(float value, float low) { return value < low ? low : value; }

/* e^x = scale (1 + grown), with scale a power of 2 and grown = e^f - 1 for |f| <= ln 2 / 2, for x
 * clamped to [-87, 88], where float32 neither underflows nor overflows. */
static inline void split_exp(float x, float *scale, float *grown) {
    x = at_most(at_least(x, -87.0f), 88.0f);
    float n = rintf(x * 1.44269504f);
    float f = x - n * 0.693359375f + n * 2.12194440e-4f; /* x - n ln 2, with ln 2 split in two */
    float y = 1.9875691500e-4f;
    y = y * f + 1.3981999507e-3f;
    y = y * f + 8.3334519073e-3f;
    y = y * f + 4.1665795894e-2f;
    y = y * f + 1.6666665459e-1f;
    y = y * f + 5.0000001201e-1f;
    *grown = y * f * f + f;
    int32_t bits = ((int32_t)n + 127) << 23; /* 2^n */
    memcpy(scale, &bits, sizeof *scale);
}

static inline float fast_exp(float x) {
    float scale, grown;
    split_exp(x, &scale, &grown);
    return (grown + 1.0f) * scale;
}

/* ln x, for normal positive x. */
static inline float fast_log(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int32_t e = (bits - 0x3f3504f3) >> 23; /* exponent for a mantissa in (sqrt 1/2, sqrt 2) */
    bits -= e * (1 << 23);
    float m, n = (float)e;
    memcpy(&m, &bits, sizeof m);
    float f = m - 1.0f;
    float y = 7.0376836292e-2f;
    y = y * f - 1.1514610310e-1f;
    y = y * f + 1.1676998740e-1f;
    y = y * f - 1.2420140846e-1f;
    y = y * f + 1.4249322787e-1f;
    y = y * f - 1.6668057665e-1f;
    y = y * f + 2.0000714765e-1f;
    y = y * f - 2.4999993993e-1f;
    y = y * f + 3.3333331174e-1f;
    y = y * f * f * f - 0.5f * f * f - n * 2.12194440e-4f;
    return f + y + n * 0.693359375f;
}

/* ln x in float64, for normal positive x = m 2^e: 2 atanh((m - 1) / (m + 1)) + e ln 2. */
static inline double fast_log64(double x) {
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int64_t e = (bits - 0x3fe6a09e667f3bcd) >> 52; /* mantissa in (sqrt 1/2, sqrt 2) */
    bits -= e * ((int64_t)1 << 52);
    double m, y = 1.0 / 19;
    memcpy(&m, &bits, sizeof m);
    double f = (m - 1) / (m + 1), s = f * f;
    for (int k = 17; k >= 1; k -= 2) y = 1.0 / k + s * y;
    return 2 * f * y + (double)(int32_t)e * 0.69314718055994531;
}

/* e^-x and 1 - e^-x for x >= 0, both to full relative precision. */
static inline void decay(float x, float *rest, float *complement) {
    float scale, grown;
    split_exp(-x, &scale, &grown);
    *rest = (grown + 1.0f) * scale;
    *complement = (1.0f - scale) - scale * grown; /* of small x: -grown */
}

#endif
