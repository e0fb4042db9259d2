/* The functions that Python calls: the iterative Poisson VAE unrolled in time, in float32. plain.py
 * does the same in PyTorch, and tests compare the two. Threads share rows, teams or blocks; how many
 * there are changes no result, except for the order in which bias_grad is summed. */
#include "backward.h"
#include "maps.h"
#include "measure.h"

#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

void ipvae_poisson(int64_t rows, int64_t latents, const float *rate, uint64_t key, float *spk,
                   int32_t threads) {
    int64_t blocks = (latents + LANES - 1) / LANES;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < rows * blocks; i++) {
        int64_t row = i / blocks, block = i % blocks, at = row * latents + block * LANES;
        int64_t n = latents - block * LANES < LANES ? latents - block * LANES : LANES;
        float padded[LANES] = {0}, drawn[LANES];
        memcpy(padded, rate + at, sizeof(float) * (size_t)n);
        draw_poisson(padded, key, (uint64_t)row, (uint32_t)block, drawn);
        memcpy(spk + at, drawn, sizeof(float) * (size_t)n);
    }
}

void ipvae_forward(const Dynamics *f, const Forward *p) {
    int64_t teams = (p->rows + TEAM - 1) / TEAM;
#pragma omp parallel for num_threads(p->threads) schedule(static)
    for (int64_t i = 0; i < teams; i++) {
        int64_t first = i * TEAM, left = p->rows - first;
        float *work = p->work + THREAD * TEAM * (p->stride + p->latents);
        run_team(f, p, first, left < TEAM ? left : TEAM, work);
    }
}

/* z W of each row of spk (rows, K) into sum (rows, columns), for weight (K, stride). */
void ipvae_sum_rows(int64_t rows, int64_t latents, int64_t columns, int64_t stride,
                    const float *spk, const float *weight, float *sum, float *work,
                    float dense_above, int32_t threads) {
    int64_t teams = (rows + TEAM - 1) / TEAM;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < teams; i++) {
        int64_t count[TEAM], first = i * TEAM, team = rows - first < TEAM ? rows - first : TEAM;
        float *y = work + THREAD * TEAM * (stride + latents);
        int32_t *active = (int32_t *)(y + TEAM * stride);
        inhibit(spk + first * latents, team, latents, weight, stride, dense_above, y, active,
                count);
        for (int64_t row = 0; row < team; row++)
            memcpy(sum + (first + row) * columns, y + row * stride,
                   sizeof(float) * (size_t)columns);
    }
}

/* Of counts (rows, K) that decode to z W: squared error to x, sums of z and z^2, and how many are
 * not 0, of each row; and sums of z and z^2 of each neuron, for each thread. */
void ipvae_measure(const Measure *m) {
    int64_t K = m->latents, teams = (m->rows + TEAM - 1) / TEAM;
#pragma omp parallel for num_threads(m->threads) schedule(static)
    for (int64_t i = 0; i < teams; i++) {
        int64_t left = m->rows - i * TEAM;
        measure_team(m, i * TEAM, left < TEAM ? left : TEAM,
                     m->work + THREAD * TEAM * (m->stride + K), m->by_neuron + THREAD * K,
                     m->squares_by_neuron + THREAD * K);
    }
}

/* Sizes of the structures in bytes: Python compares them with its own when it loads the library. */
void ipvae_sizes(int64_t sizes[8]) {
    sizes[0] = sizeof(Dynamics);
    sizes[1] = sizeof(Forward);
    sizes[2] = sizeof(Backward);
    sizes[3] = sizeof(Map);
    sizes[4] = sizeof(MapInhibition);
    sizes[5] = sizeof(MapGradient);
    sizes[6] = sizeof(Tape);
    sizes[7] = sizeof(Measure);
}

/* Returns the number of neurons that spiked in the previous timestep, over all rows. */
int64_t ipvae_backward(const Dynamics *f, const Backward *p) {
    int64_t active = 0;
#pragma omp parallel for num_threads(p->threads) schedule(static) reduction(+ : active)
    for (int64_t row = 0; row < p->rows; row++) backward_row(f, p, row, THREAD, &active);
    return active;
}

/* The same over several timesteps, each with the product that its rows need. */
int64_t ipvae_backward_tape(const Dynamics *f, const Backward *p, const Tape *a) {
    int64_t active = 0, teams = (p->rows + TEAM - 1) / TEAM;
#pragma omp parallel for num_threads(p->threads) schedule(static) reduction(+ : active)
    for (int64_t i = 0; i < teams; i++) {
        int64_t first = i * TEAM, left = p->rows - first;
        backward_team(f, p, a, first, left < TEAM ? left : TEAM, THREAD, &active);
    }
    return active;
}

void ipvae_gram_gradient(int64_t steps, int64_t rows, int64_t latents, int64_t stride,
                         const uint8_t *counts, int64_t counts_stride, int32_t bytes,
                         const float *gram_factor, float *grad, Event *work, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t first = 0; first < latents; first += LANES)
        gram_gradient_block(steps, rows, latents, stride, first, counts, counts_stride, bytes,
                            gram_factor, grad, work + THREAD * LANES * steps * rows);
}

static void list_places(const float *spk, int64_t places, int64_t latents, int32_t *active,
                        int32_t *count, int32_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < places; i++)
        count[i] = (int32_t)list_active(spk + i * latents, latents, active + i * latents);
}

void ipvae_decode_map(const Map *m) {
    int64_t places = m->batch * m->height * m->width, H = m->height - m->rows + 1;
    list_places(m->spk, places, m->latents, m->active, m->count, m->threads);
#pragma omp parallel for num_threads(m->threads) schedule(static)
    for (int64_t i = 0; i < m->batch * H; i++) decode_row(m, i / H, i % H, m->sum + THREAD * m->stride);
}

void ipvae_inhibit_map(const MapInhibition *m) {
    list_places(m->spk, m->height * m->width, m->latents, m->active, m->count, m->threads);
#pragma omp parallel for num_threads(m->threads) schedule(dynamic, 1)
    for (int64_t row = 0; row < m->height; row++) inhibit_row(m, row);
}

void ipvae_map_gradient(const MapGradient *m) {
#pragma omp parallel for num_threads(m->threads) schedule(static)
    for (int64_t i = 0; i < m->batch * m->height; i++)
        gradient_row(m, i / m->height, i % m->height, THREAD);
}
