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
            for (; j + 4 * WIDTH <= m->stride; j += 4 * WIDTH)
                sum_features(weight + j, stride, active, count, spk, 4, sum + j);
            for (; j < m->stride; j += WIDTH)
                sum_features(weight + j, stride, active, count, spk, 1, sum + j);
            /* Column b of a feature at place c lies in cell c - (q_w - 1) + b. */
            int64_t left = (c - (m->columns - 1)) * m->depth, from = left < 0 ? -left : 0;
            int64_t until = left + length > W * m->depth ? W * m->depth - left : length;
            for (int64_t n = from; n < until; n++) to[left + n] += sum[n];
        }
    }
}

/* to += z from, over n numbers. */
static inline ALWAYS_INLINE void add_run(float *restrict to, const float *restrict from, float z,
                                         int64_t n) {
    int64_t j = 0;
    for (; j + WIDTH <= n; j += WIDTH) *(Vector *)(to + j) += z * *(const Vector *)(from + j);
    for (; j < n; j++) to[j] += z * from[j];
}

typedef struct {
    int64_t batch, height, width, latents; /* of the counts, (batch, height, width, K) */
    int64_t rows, columns, depth;          /* of a feature, q_h, q_w cells of D values */
    const uint8_t *counts;                 /* of count_bytes each */
    int32_t count_bytes;
    const float *cells; /* (batch, height - q_h + 1, width - q_w + 1, D) */
    float *grad;        /* (threads, K, q_h, q_w, D): cells times counts are added */
    float *spk;         /* (threads, K): work */
    int32_t *active;    /* (threads, K): work */
    int32_t threads;
} MapGradient;

/* Add the cells around each spike of one row of places to the gradient of its neuron's feature. */
static void gradient_row(const MapGradient *m, int64_t image, int64_t row, int thread) {
    int64_t K = m->latents, D = m->depth, q = m->columns, feature = m->rows * q * D;
    int64_t H = m->height - m->rows + 1, W = m->width - q + 1;
    float *grad = m->grad + thread * K * feature, *spk = m->spk + thread * K;
    int32_t *active = m->active + thread * K;
    for (int64_t c = 0; c < m->width; c++) {
        int64_t place = (image * m->height + row) * m->width + c;
        load_counts(spk, m->counts + place * K * m->count_bytes, m->count_bytes, K);
        int64_t count = list_active(spk, K, active);
        int64_t left = c - (q - 1), from = left < 0 ? -left : 0;
        int64_t until = left + q > W ? W - left : q;
        for (int64_t a = 0; a < m->rows && count; a++) {
            int64_t cell_row = row - (m->rows - 1) + a;
            if (cell_row < 0 || cell_row >= H) continue;
            const float *cells = m->cells + ((image * H + cell_row) * W + left + from) * D;
            float *to = grad + (a * q + from) * D;
            for (int64_t e = 0; e < count; e++)
                add_run(to + active[e] * feature, cells, spk[active[e]], (until - from) * D);
        }
    }
}

typedef struct {
    int64_t height, width, latents, reach_h, reach_w; /* a neuron inhibits places up to reach away */
    const float *spk;                                 /* (height, width, K) */
    const float *gram;   /* (K, 2 reach_h + 1, 2 reach_w + 1, K): what a spike takes from others */
    float *inhibition;   /* (height, width, K) out */
    int32_t *active;     /* (height, width, K): work */
    int32_t *count;      /* (height, width): work */
    int32_t threads;
} MapInhibition;

/* What all spikes take from one row of places. A spike adds one run of numbers to it. */
static void inhibit_row(const MapInhibition *m, int64_t row) {
    int64_t K = m->latents, span = 2 * m->reach_w + 1, W = m->width;
    int64_t rows = 2 * m->reach_h + 1;
    float *to = m->inhibition + row * W * K;
    memset(to, 0, sizeof(float) * (size_t)(W * K));
    int64_t above = row - m->reach_h < 0 ? 0 : row - m->reach_h;
    int64_t below = row + m->reach_h < m->height ? row + m->reach_h : m->height - 1;
    for (int64_t r = above; r <= below; r++) {
        const float *gram = m->gram + (row - r + m->reach_h) * span * K;
        for (int64_t c = 0; c < W; c++) {
            int64_t place = r * W + c, count = m->count[place];
            int64_t from = c < m->reach_w ? m->reach_w - c : 0;
            int64_t until = c + m->reach_w < W ? span : W - c + m->reach_w;
            const int32_t *active = m->active + place * K;
            float *first = to + (c - m->reach_w + from) * K;
            for (int64_t e = 0; e < count; e++) {
                add_run(first, gram + active[e] * rows * span * K + from * K,
                        m->spk[place * K + active[e]], (until - from) * K);
            }
        }
    }
}

#endif
