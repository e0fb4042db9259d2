/* Sums over the spikes of a map of neurons: images from counts. The work grows with the spikes, and
 * the order of the sums at a cell is that of its places, whatever the size of the map: a part of a
 * map gives the same cells, to the last bit. */
#ifndef IPVAE_MAPS_H
#define IPVAE_MAPS_H

#include "forward.h"

typedef struct {
    int64_t batch, height, width, latents; /* of the counts, (batch, height, width, K) */
    int64_t rows, columns, depth, stride;  /* of a feature: q_h, q_w cells of D values; stride:
                                              q_w D, up to the next multiple of a vector */
    const float *spk;                      /* (batch, height, width, K) */
    const float *weight;                   /* (K, q_h, stride) */
    float *cells;                          /* (batch, height - q_h + 1, width - q_w + 1, D) out */
    int32_t *active;                       /* (batch, height, width, K): work */
    int32_t *count;                        /* (batch, height, width): work */
    float *sum;                            /* (threads, stride): work */
    int32_t threads;
} Map;

/* sum = the rows of features of the neurons that spiked at a place, over `width` vectors. */
static inline ALWAYS_INLINE void sum_features(const float *weight, int64_t stride,
                                              const int32_t *active, int64_t count,
                                              const float *spk, int width, float *sum) {
    Vector total[8] = {{0}};
    for (int64_t e = 0; e < count; e++) {
        const Vector *feature = (const Vector *)(weight + active[e] * stride);
        float z = spk[active[e]];
        for (int v = 0; v < width; v++) total[v] += z * feature[v];
    }
    memcpy(sum, total, sizeof(Vector) * (size_t)width);
}

/* One row of cells of one image. sum: a row of features. */
static void decode_row(const Map *m, int64_t image, int64_t row, float *sum) {
    int64_t W = m->width - m->columns + 1, H = m->height - m->rows + 1;
    int64_t length = m->columns * m->depth;
    float *to = m->cells + (image * H + row) * W * m->depth;
    memset(to, 0, sizeof(float) * (size_t)(W * m->depth));
    for (int64_t a = m->rows - 1; a >= 0; a--) { /* places from above to below */
        int64_t first = (image * m->height + row + m->rows - 1 - a) * m->width;
        for (int64_t c = 0; c < m->width; c++) {
            int64_t place = first + c, count = m->count[place];
            if (!count) continue;
            const int32_t *active = m->active + place * m->latents;
            const float *spk = m->spk + place * m->latents, *weight = m->weight + a * m->stride;
            int64_t j = 0, stride = m->rows * m->stride;
            for (; j + 8 * WIDTH <= m->stride; j += 8 * WIDTH)
                sum_features(weight + j, stride, active, count, spk, 8, sum + j);
            for (; j < m->stride; j += WIDTH)
                sum_features(weight + j, stride, active, count, spk, 1, sum + j);
            /* Column b of a feature at place c lies in cell c - (q_w - 1) + b. */
            int64_t left = (c - (m->columns - 1)) * m->depth, from = left < 0 ? -left : 0;
            int64_t until = left + length > W * m->depth ? W * m->depth - left : length;
            for (int64_t n = from; n < until; n++) to[left + n] += sum[n];
        }
    }
}

#endif
