/* What an evaluation needs of the counts of one timestep, in one pass over them. */
#ifndef IPVAE_MEASURE_H
#define IPVAE_MEASURE_H

#include "forward.h"

typedef struct {
    int64_t rows, latents, pixels, stride; /* stride: row length of weight, a multiple of LANES */
    const float *spk, *weight, *x;         /* (rows, K), (K, stride), (rows, pixels) */
    float *error, *total, *squares, *fired;      /* (rows,) */
    float *by_neuron, *squares_by_neuron;        /* (threads, K): added to */
    float *work;                                 /* threads * TEAM * (stride + K) */
    int32_t threads;
} Measure;

static void measure_team(const Measure *m, int64_t first, int64_t team, float *work,
                         float *by_neuron, float *squares_by_neuron) {
    int64_t K = m->latents, count[TEAM];
    const float *spk = m->spk + first * K;
    int32_t *active = (int32_t *)(work + TEAM * m->stride);
    inhibit(spk, team, K, m->weight, m->stride, 1.0f, work, active, count);
    for (int64_t i = 0; i < team; i++, spk += K, active += K) {
        const float *x = m->x + (first + i) * m->pixels, *decoded = work + i * m->stride;
        float error = 0, total = 0, squares = 0;
#pragma omp simd reduction(+ : error)
        for (int64_t j = 0; j < m->pixels; j++) {
            float left = x[j] - decoded[j];
            error += left * left;
        }
        for (int64_t n = 0; n < count[i]; n++) {
            float z = spk[active[n]];
            total += z;
            squares += z * z;
            by_neuron[active[n]] += z;
            squares_by_neuron[active[n]] += z * z;
        }
        m->error[first + i] = error;
        m->total[first + i] = total;
        m->squares[first + i] = squares;
        m->fired[first + i] = (float)count[i];
    }
}

#endif
