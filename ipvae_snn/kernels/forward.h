/* The forward pass. Samples do not interact: a team of rows runs through all timesteps with its
 * state in the first-level cache. zG is the sum of the rows of G of the neurons that spiked, so
 * that the work grows with the spikes. Where most spike, the rows of a team share one pass over G.
 */
#ifndef IPVAE_FORWARD_H
#define IPVAE_FORWARD_H

#include "dynamics.h"

#define TEAM 4 /* rows of the batch */
#define MAX_CACHED_LATENTS 2048 /* G takes 16 MB: larger ones do not stay in the caches */

typedef struct {
    int64_t steps, rows, latents, stride; /* stride: row length of gram, a multiple of LANES */
    const float *drive;                   /* (rows, K), or (steps, rows, K) */
    int64_t drive_stride;                 /* elements from one timestep's drive to the next */
    const float *gram;                    /* (K, stride), or NULL: the drive is the whole current */
    const uint64_t *keys;                 /* (steps,): of the draws; NULL if nothing is drawn */
    const uint64_t *row_ids;              /* (rows,): row numbers for the draws; NULL: 0, 1, ... */
    float *spk, *mem;                     /* (rows, K): state, updated in place */
    float *inhibition;                    /* (rows, K): zG of spk, updated in place, or NULL */
    float *all_spk, *all_mem;             /* (steps / every, rows, K), or NULL */
    int64_t spk_every, mem_every;         /* each n-th timestep of them is recorded */
    uint8_t *all_counts;                  /* (steps, rows, K) of count_bytes each, or NULL */
    int32_t count_bytes;
    float *kl, *quad; /* (steps, rows), or NULL */
    float *work;      /* threads * TEAM * (stride + K) */
    int32_t threads;
    float dense_above; /* share of neurons that spike above which a team makes a dense product */
} Forward;

/* Sum over a block of KL(Poisson(e^after) || Poisson(e^before)). Lanes of rate 0 add nothing.
 * Not inlined: GCC does not vectorize it inside another loop. */
static __attribute__((noinline)) float divergence(const float *restrict after,
                                                  const float *restrict before,
                                                  const float *restrict rate,
                                                  const float *restrict inverse, int published) {
    float kl = 0;
#pragma omp simd reduction(+ : kl)
    for (int i = 0; i < LANES; i++) {
        float x = after[i] - before[i], grown = rate[i] * inverse[i]; /* e^x */
        float far = 1.0f + grown * (x - 1.0f);
        float near = 1.0f / 30 + x * (1.0f / 144 + x * (1.0f / 840 + x * (1.0f / 5760)));
        near = x * x * (0.5f + x * (1.0f / 3 + x * (0.125f + x * near)));
        float nats = fabsf(x) < 0.5f ? near : far; /* far cancels where x is small */
        kl += nats * (published ? rate[i] : rate[i] * fast_exp(-x));
    }
    return kl;
}

/* Membrane update, emission and KL of up to LANES neurons of one row; returns the KL. The
 * formula of the update is at the top of dynamics.h. */
static inline ALWAYS_INLINE float step_block(const Dynamics *f, int n, const float *restrict drive,
                        const float *restrict inhibition, const float *restrict bias,
                        const float *restrict mem_rest, float *restrict mem, float *restrict spk,
                        uint64_t key, uint64_t row, uint32_t block, int with_kl) {
    float rate[LANES] = {0}, inverse[LANES] = {0}, before[LANES] = {0}, after[LANES] = {0};
    float drawn[LANES], kl = 0;
    /* Copies, so that the compiler knows that no store changes a setting. */
    float epsilon = f->epsilon, leak = f->leak, alpha = f->alpha, lateral_scale = f->lateral_scale;
#pragma omp simd
    for (int i = 0; i < n; i++) {
        float u = mem[i];
        float current = drive[i] - lateral_scale * inhibition[i] - bias[i]
                        - leak * (u - mem_rest[i]);
        float r = fast_exp(-u);
        float s = r * (epsilon + fast_exp(at_most(-alpha * current, 8.0f)));
        float new_inverse = at_most(s, FLOOR) + epsilon;
        before[i] = u;
        inverse[i] = r;
        rate[i] = 1.0f / new_inverse;
        after[i] = mem[i] = -fast_log(new_inverse);
    }
    if (with_kl) kl = divergence(after, before, rate, inverse, f->published);
    if (f->rounded)
        for (int i = 0; i < n; i++) spk[i] = rintf(rate[i]);
    else {
        draw_poisson(rate, key, row, block, drawn);
        memcpy(spk, drawn, sizeof(float) * (size_t)n);
    }
    return kl;
}

/* y += the rows of G of the active neurons, in order, over columns first ... last - 1. */
static void add_rows(const float *spk, const int32_t *active, int64_t count, const float *gram,
                     int64_t stride, int64_t first, int64_t last, float *y) {
    int64_t m = 0;
    for (; m + 4 <= count; m += 4) {
        const float *g[4];
        float z[4];
        for (int c = 0; c < 4; c++) {
            g[c] = gram + active[m + c] * stride;
            z[c] = spk[active[m + c]];
        }
        for (int64_t j = first; j < last; j += WIDTH) {
            Vector sum = *(Vector *)(y + j);
            for (int c = 0; c < 4; c++) sum += z[c] * *(const Vector *)(g[c] + j);
            *(Vector *)(y + j) = sum;
        }
    }
    for (; m < count; m++)
        for (int64_t j = first; j < last; j += WIDTH)
            *(Vector *)(y + j) += spk[active[m]] * *(const Vector *)(gram + active[m] * stride + j);
}

/* y = z G of one row: the sum of the rows of G of the active neurons, in order. If G fits into the
 * caches, a panel of y stays in registers; otherwise each row of G is read from end to end. */
static void sum_events(const float *spk, const int32_t *active, int64_t count, const float *gram,
                       int64_t stride, float *y) {
    if (stride > MAX_CACHED_LATENTS) {
        memset(y, 0, sizeof(float) * (size_t)stride);
        add_rows(spk, active, count, gram, stride, 0, stride, y);
        return;
    }
    int64_t j = 0;
    for (; j + 8 * WIDTH <= stride; j += 8 * WIDTH) {
        Vector sum[8] = {{0}};
        for (int64_t m = 0; m < count; m++) {
            const Vector *g = (const Vector *)(gram + active[m] * stride + j);
            float z = spk[active[m]];
            for (int c = 0; c < 8; c++) sum[c] += z * g[c];
        }
        memcpy(y + j, sum, sizeof sum);
    }
    for (; j < stride; j += 4 * WIDTH) {
        Vector sum[4] = {{0}};
        for (int64_t m = 0; m < count; m++) {
            const Vector *g = (const Vector *)(gram + active[m] * stride + j);
            float z = spk[active[m]];
            for (int c = 0; c < 4; c++) sum[c] += z * g[c];
        }
        memcpy(y + j, sum, sizeof sum);
    }
}

/* The same for TEAM rows in which most neurons spiked. Silent neurons add 0 in the same order, so
 * that the result is equal to the last bit. */
static void sum_dense(const float *spk, int64_t latents, const float *gram, int64_t stride,
                      float *y) {
    for (int64_t j = 0; j < stride; j += DENSE_VECTORS * WIDTH) {
        Vector sum[TEAM][DENSE_VECTORS] = {{{0}}};
        for (int64_t k = 0; k < latents; k++) {
            const Vector *g = (const Vector *)(gram + k * stride + j);
            for (int row = 0; row < TEAM; row++)
                for (int c = 0; c < DENSE_VECTORS; c++)
                    sum[row][c] += spk[row * latents + k] * g[c];
        }
        for (int row = 0; row < TEAM; row++) memcpy(y + row * stride + j, sum[row], sizeof sum[0]);
    }
}

/* Which of n <= WIDTH neurons spiked: bit i for neuron i. */
static inline uint32_t spiked_of(const float *spk, int n) {
#if defined(__AVX512F__)
    __mmask16 there = (__mmask16)((1u << n) - 1);
    __m512 z = _mm512_maskz_loadu_ps(there, spk);
    return _mm512_mask_cmp_ps_mask(there, z, _mm512_setzero_ps(), _CMP_NEQ_UQ);
#else
    uint32_t spiked = 0;
    float z[WIDTH] = {0};
    memcpy(z, spk, sizeof(float) * (size_t)n);
#if defined(__AVX__)
    __m256 differs = _mm256_cmp_ps(_mm256_loadu_ps(z), _mm256_setzero_ps(), _CMP_NEQ_UQ);
    spiked = (uint32_t)_mm256_movemask_ps(differs);
#else
    for (int i = 0; i < WIDTH; i++) spiked |= z[i] != 0.0f ? 1u << i : 0u;
#endif
    return spiked;
#endif
}

/* Indices of the neurons that spiked; returns how many. */
static int64_t list_active(const float *spk, int64_t latents, int32_t *active) {
    int64_t count = 0;
    for (int64_t first = 0; first < latents; first += WIDTH) {
        int n = latents - first < WIDTH ? (int)(latents - first) : WIDTH;
        uint32_t spiked = spiked_of(spk + first, n);
        for (; spiked; spiked &= spiked - 1)
            active[count++] = (int32_t)(first + __builtin_ctz(spiked));
    }
    return count;
}

/* y = z G of a team of rows, and which neurons spiked in each. */
static void inhibit(const float *spk, int64_t team, int64_t latents, const float *gram,
                    int64_t stride, float dense_above, float *y, int32_t *active,
                    int64_t count[TEAM]) {
    int64_t total = 0;
    for (int64_t i = 0; i < team; i++)
        total += count[i] = list_active(spk + i * latents, latents, active + i * latents);
    if (team == TEAM && (float)total > dense_above * (float)(team * latents))
        sum_dense(spk, latents, gram, stride, y);
    else
        for (int64_t i = 0; i < team; i++)
            sum_events(spk + i * latents, active + i * latents, count[i], gram, stride,
                       y + i * stride);
}

/* Record the state of the rows first ... first + team - 1 at each n-th timestep. */
static void record(float *all, const float *state, int64_t t, int64_t every, int64_t rows,
                   int64_t first, int64_t team, int64_t latents) {
    if (all && (t + 1) % every == 0)
        memcpy(all + (t / every * rows + first) * latents, state,
               sizeof(float) * (size_t)(team * latents));
}

/* All timesteps of the rows first ... first + team - 1. */
static void run_team(const Dynamics *f, const Forward *p, int64_t first, int64_t team,
                     float *work) {
    int64_t K = p->latents, stride = p->stride, count[TEAM];
    float *y = work, *spk = p->spk + first * K, *mem = p->mem + first * K;
    int32_t *active = (int32_t *)(work + TEAM * stride);
    if (!p->gram)
        memset(y, 0, sizeof(float) * (size_t)(team * stride));
    else if (!p->inhibition)
        inhibit(spk, team, K, p->gram, stride, p->dense_above, y, active, count);
    for (int64_t i = 0; p->inhibition && i < team; i++)
        memcpy(y + i * stride, p->inhibition + (first + i) * K, sizeof(float) * (size_t)K);
    for (int64_t t = 0; t < p->steps; t++) {
        const float *drive = p->drive + t * p->drive_stride + first * K;
        int64_t at = (t * p->rows + first) * K;
        for (int64_t i = 0; i < team; i++) {
            float kl = 0;
            const float *bias = f->bias + (first + i) % f->places * K;
            for (int64_t j = 0; j < K; j += LANES) {
                int64_t offset = i * K + j;
                int n = K - j < LANES ? (int)(K - j) : LANES;
                uint64_t row = p->row_ids ? p->row_ids[first + i] : (uint64_t)(first + i);
                uint32_t block = (uint32_t)(j / LANES);
#define BLOCK(n)                                                                                 \
    step_block(f, n, drive + offset, y + i * stride + j, bias + j, f->mem_rest + j,           \
               mem + offset, spk + offset, p->keys ? p->keys[t] : 0, row, block, p->kl != NULL)
                kl += n == LANES ? BLOCK(LANES) : BLOCK(n); /* constant n: vectorized */
#undef BLOCK
            }
            if (p->kl) p->kl[t * p->rows + first + i] = kl;
        }
        record(p->all_mem, mem, t, p->mem_every, p->rows, first, team, K);
        record(p->all_spk, spk, t, p->spk_every, p->rows, first, team, K);
        if (p->all_counts)
            store_counts(p->all_counts + at * p->count_bytes, spk, p->count_bytes, team * K);
        if (t + 1 == p->steps && !p->inhibition && !p->quad) break; /* the last zG is not used */
        if (!p->gram) continue;
        inhibit(spk, team, K, p->gram, stride, p->dense_above, y, active, count);
        for (int64_t i = 0; p->quad && i < team; i++) {
            float quad = 0; /* z . (zG / 2 - d), the part of the NLL that depends on spikes */
            for (int64_t m = 0; m < count[i]; m++) {
                int64_t k = active[i * K + m];
                quad += spk[i * K + k] * (0.5f * y[i * stride + k] - drive[i * K + k]);
            }
            p->quad[t * p->rows + first + i] = quad;
        }
    }
    for (int64_t i = 0; p->inhibition && i < team; i++)
        memcpy(p->inhibition + (first + i) * K, y + i * stride, sizeof(float) * (size_t)K);
}

#endif
