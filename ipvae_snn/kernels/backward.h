/* The backward pass of one timestep, and the gradient of G from the spikes. */
#ifndef IPVAE_BACKWARD_H
#define IPVAE_BACKWARD_H

#include "forward.h"

#define ROUNDING 0.99999f /* FLOOR, computed from a stored membrane, is exact up to this factor */
#define SATURATED 0.1f    /* smallest du'/dh that is computed from membranes alone */

typedef struct {
    int64_t rows, latents, stride;   /* stride: row length of gram_factor, a multiple of LANES */
    const float *mem, *mem_before;   /* (rows, K): u of this timestep and of the previous one */
    const uint8_t *counts, *counts_before; /* (rows, K); counts_before NULL: no spikes */
    int32_t count_bytes;
    const float *drive;              /* (rows, K); NULL where no lane is near its clamp */
    const float *gram;               /* (K, stride), or NULL: the drive is the whole current */
    const float *first_spk;          /* (rows, K): spikes before the first timestep, else NULL */
    float *work;                     /* threads * (stride + 2 K) */
    const float *product;            /* (rows, K): product_input of this timestep, times G^T */
    const float *slope;              /* (rows, K), or NULL: see slope_kind */
    float slope_floor;               /* the least slope of the kinds 0 and 1 */
    int32_t slope_kind;              /* 0: (z + rate) / 2, 1: rate, 2: slope[], 3: no gradient */
    const float *quad_grad, *kl_grad; /* (rows,): dL/d quad (c below) or NULL, dL/d kl */
    const float *quad_grad_before;   /* (rows,): of the previous timestep, or NULL */
    const float *spk_grad;           /* (rows, K): of recorded spikes, or NULL */
    float *mem_grad;                 /* (rows, K): dL/du, in: this timestep, out: the previous */
    float *drive_grad;               /* (rows, K): added to; or NULL */
    float *product_input;            /* (rows, K) out: c z - alpha lateral_scale dL/dh */
    float *gram_factor;              /* (rows, stride) out: the same with c z / 2, or NULL */
    float *bias_grad;                /* (threads, stride): sum of dL/dh, added to */
    double *step_sum;                /* (rows,): sum of h dL/dh, added to */
    int32_t threads;
} Backward;

/* Derivatives of the clamped step, floors aside: s = 1 / rate' - e and a = exp(-h) / rate, with
 * du'/du = s rate' and du'/dh = a rate'. Computed from the membranes, as r = 1 / rate' and
 * r0 = 1 / rate are. Returns whether a lane is so near its clamp that this subtracts nearly equal
 * numbers. */
static inline ALWAYS_INLINE int clamp_derivatives(const Dynamics *f, int n,
                                                  const float *restrict mem,
                                                  const float *restrict before,
                                                  float *restrict s, float *restrict a,
                                                  float *restrict r, float *restrict r0) {
    float epsilon = f->epsilon;
    int saturated = 0;
#pragma omp simd reduction(| : saturated)
    for (int i = 0; i < n; i++) {
        r[i] = fast_exp(-mem[i]);
        r0[i] = fast_exp(-before[i]);
        s[i] = r[i] - epsilon;
        a[i] = s[i] - epsilon * r0[i];
        saturated |= a[i] < SATURATED * r[i];
    }
    return saturated;
}

/* The same from h = alpha * current, without cancellation; inhibition is zG of the previous
 * timestep. */
static void exact_clamp_derivatives(const Dynamics *f, int n, const float *restrict drive,
                                    const float *restrict inhibition, const float *restrict bias,
                                    const float *restrict mem_rest, const float *restrict before,
                                    float *restrict s, float *restrict a, float *restrict r) {
    for (int i = 0; i < n; i++) {
        float u = before[i], r0 = fast_exp(-u);
        float current = drive[i] - f->lateral_scale * inhibition[i] - bias[i]
                        - f->leak * (u - mem_rest[i]);
        a[i] = r0 * fast_exp(at_most(-f->alpha * current, 8.0f));
        s[i] = a[i] + f->epsilon * r0;
        r[i] = at_most(s[i], FLOOR) + f->epsilon;
    }
}

/* zG of one row of the previous timestep. */
static const float *previous_inhibition(const Backward *p, int64_t row, float *work) {
    int64_t K = p->latents;
    float *y = work, *spk = work + p->stride;
    if (!p->gram) return memset(y, 0, sizeof(float) * (size_t)K);
    int32_t *active = (int32_t *)(spk + K);
    if (p->first_spk)
        memcpy(spk, p->first_spk + row * K, sizeof(float) * (size_t)K);
    else
        load_counts(spk, p->counts_before + row * K * p->count_bytes, p->count_bytes, K);
    sum_events(spk, active, list_active(spk, K, active), p->gram, p->stride, y);
    return y;
}

/* The backward pass of up to LANES neurons of one row. */
static inline ALWAYS_INLINE void backward_block(const Dynamics *f, const Backward *p, int64_t row,
                                                int64_t j, int n, float *bias_grad,
                                                int64_t *active, float *step_sum, float *work,
                                                const float **inhibition) {
    int64_t at = row * p->latents + j;
    float s[LANES], a[LANES], inverse[LANES], inverse_before[LANES];
    float spk[LANES] = {0}, spk_before[LANES] = {0}, slope[LANES], spk_grad[LANES] = {0};
    float quad = p->quad_grad ? p->quad_grad[row] : 0.0f, kl = p->kl_grad[row], h_dot_grad = 0;
    float quad_before = p->quad_grad_before ? p->quad_grad_before[row] : 0.0f;
    load_counts(spk, p->counts + at * p->count_bytes, p->count_bytes, n);
    if (p->counts_before)
        load_counts(spk_before, p->counts_before + at * p->count_bytes, p->count_bytes, n);
    if (p->slope_kind == 2) memcpy(slope, p->slope + at, sizeof(float) * (size_t)n);
    if (p->spk_grad) memcpy(spk_grad, p->spk_grad + at, sizeof(float) * (size_t)n);
    float built_in = p->slope_kind == 0 || p->slope_kind == 1;
    float spk_share = p->slope_kind == 0 ? 0.5f : 0, slope_floor = p->slope_floor;
    if (p->slope_kind != 2) memset(slope, 0, sizeof slope);
    int spiked = 0, published = f->published;
    /* Copies, so that the compiler knows that no store changes a setting or a pointer. */
    float leak = f->leak, alpha = f->alpha, lateral_scale = f->lateral_scale;
    const float *restrict mem = p->mem + at, *restrict before = p->mem_before + at;
    float unused_factor[LANES], unused_grad[LANES] = {0}, no_drive[LANES] = {0};
    const float *restrict drive = p->drive ? p->drive + at : no_drive;
    const float *restrict product = p->product + at, *restrict mem_rest = f->mem_rest + j;
    const float *restrict bias = f->bias + row % f->places * p->latents + j;
    float *restrict mem_grad = p->mem_grad + at, *restrict product_input = p->product_input + at;
    float *restrict drive_grad = p->drive_grad ? p->drive_grad + at : unused_grad;
    float *restrict gram_factor =
        p->gram_factor ? p->gram_factor + row * p->stride + j : unused_factor;
    float *restrict bias_sum = bias_grad + j;
    if (clamp_derivatives(f, n, mem, before, s, a, inverse, inverse_before)) {
        if (!*inhibition) *inhibition = previous_inhibition(p, row, work);
        exact_clamp_derivatives(f, n, drive, *inhibition + j, bias, mem_rest, before, s, a,
                                inverse);
    }
#pragma omp simd reduction(+ : h_dot_grad, spiked)
    for (int i = 0; i < n; i++) {
        float u = mem[i], u0 = before[i], z = spk[i], d = drive[i];
        float r0 = inverse_before[i], rate = 1.0f / inverse[i], rate0 = 1.0f / r0;
        float own = at_least(spk_share * z + (1.0f - spk_share) * rate, slope_floor);
        float weight = slope[i] + built_in * own;
        float x = u - u0, grown = rate * r0;
        float kl_by_u = published ? rate * (1.0f + grown * (2.0f * x - 1.0f)) : rate * x;
        float kl_by_u0 = published ? -rate * grown * x : rate0 - rate;
        float grad = mem_grad[i] + weight * (product[i] - quad * d + spk_grad[i]) + kl * kl_by_u;
        float floored = s[i] < FLOOR * ROUNDING ? grad : 0.0f;
        float h_grad = a[i] < FLOOR * ROUNDING * r0 ? floored * a[i] * rate : 0.0f;
        float h = -fast_log(at_least(a[i] * rate0, 1e-37f));
        float by_inhibition = -alpha * lateral_scale * h_grad;
        mem_grad[i] = floored * s[i] * rate + kl * kl_by_u0 - alpha * leak * h_grad;
        drive_grad[i] += alpha * h_grad - quad * z;
        product_input[i] = by_inhibition + quad_before * spk_before[i];
        gram_factor[i] = by_inhibition + 0.5f * quad_before * spk_before[i];
        bias_sum[i] += h_grad;
        h_dot_grad += h_grad * h;
        spiked += spk_before[i] != 0.0f;
    }
    *active += spiked;
    *step_sum += h_dot_grad;
}

/* The backward pass of one row. thread: whose sums of bias_grad and work it uses. */
static void backward_row(const Dynamics *f, const Backward *p, int64_t row, int thread,
                         int64_t *active) {
    float *bias_grad = p->bias_grad + thread * p->stride;
    float *work = p->work + thread * (p->stride + 2 * p->latents);
    const float *inhibition = NULL; /* computed when first needed */
    for (int64_t j = 0; j < p->latents; j += LANES) {
        float step_sum = 0;
        int n = p->latents - j < LANES ? (int)(p->latents - j) : LANES;
        if (n == LANES) /* a constant n: vectorized */
            backward_block(f, p, row, j, LANES, bias_grad, active, &step_sum, work, &inhibition);
        else
            backward_block(f, p, row, j, n, bias_grad, active, &step_sum, work, &inhibition);
        p->step_sum[row] += step_sum;
    }
}

/* What Backward points to in each timestep, as pointers to timestep 0 and elements from one to the
 * next. Its own mem_before and first_spk are those before timestep 0. */
typedef struct {
    int64_t first, last;      /* timesteps last - 1 ... first, in this order */
    int64_t step;             /* of mem and counts */
    int64_t drive_step, drive_grad_step; /* 0 where the drive is constant */
    int64_t slots;            /* of gram_factor: that of timestep t is t % slots */
    const float *mem, *drive, *gram; /* gram: transposed, (K, stride) */
    const uint8_t *counts;
    const float *quad_grad, *kl_grad; /* (steps, rows) */
    float *drive_grad, *gram_factor, *product; /* gram_factor: (slots, rows, stride) */
    float *work;                      /* threads * TEAM * (stride + K) */
} Tape;

/* Several timesteps of the rows first ... first + team - 1, with the products p G^T. */
static void backward_team(const Dynamics *f, const Backward *p, const Tape *a, int64_t first,
                          int64_t team, int thread, int64_t *active) {
    int64_t K = p->latents, stride = p->stride, count[TEAM];
    float *y = a->work + thread * TEAM * (stride + K), *input = p->product_input + first * K;
    int32_t *listed = (int32_t *)(y + TEAM * stride);
    Backward q = *p;
    q.product = a->product;
    for (int64_t t = a->last - 1; t >= a->first; t--) {
        if (team == TEAM) /* most of p is not 0 */
            sum_dense(input, K, a->gram, stride, y);
        else
            inhibit(input, team, K, a->gram, stride, 1.0f, y, listed, count);
        for (int64_t i = 0; i < team; i++)
            memcpy(a->product + (first + i) * K, y + i * stride, sizeof(float) * (size_t)K);
        q.mem = a->mem + t * a->step;
        q.counts = a->counts + t * a->step * p->count_bytes;
        q.mem_before = t ? q.mem - a->step : p->mem_before;
        q.counts_before = t ? q.counts - a->step * p->count_bytes : NULL;
        q.first_spk = t ? NULL : p->first_spk;
        q.drive = a->drive + t * a->drive_step;
        q.drive_grad = a->drive_grad + t * a->drive_grad_step;
        q.quad_grad = a->quad_grad + t * p->rows;
        q.quad_grad_before = t ? q.quad_grad - p->rows : NULL;
        q.kl_grad = a->kl_grad + t * p->rows;
        int64_t slot = t ? (t - 1) % a->slots : a->slots - 1;
        q.gram_factor = a->gram_factor + slot * p->rows * stride;
        for (int64_t i = 0; i < team; i++) backward_row(f, &q, first + i, thread, active);
    }
}

typedef struct { /* a neuron's count in one row of one timestep */
    int32_t row;
    float spk;
} Event;

/* Add to `width` vectors of one neuron's row of the gradient: the sum of gram_factor over the
 * neuron's events, weighted by their counts. */
static inline ALWAYS_INLINE void add_events(const Event *events, int64_t count,
                                            const float *gram_factor, int64_t stride, int width,
                                            float *to) {
    Vector sum[8];
    for (int c = 0; c < width; c++) sum[c] = ((const Vector *)to)[c];
    for (int64_t m = 0; m < count; m++) {
        const Vector *g = (const Vector *)(gram_factor + events[m].row * stride);
        for (int c = 0; c < width; c++) sum[c] += events[m].spk * g[c];
    }
    for (int c = 0; c < width; c++) ((Vector *)to)[c] = sum[c];
}

/* grad += z^T gram_factor, summed over the rows where a neuron spiked, for LANES neurons. `counts`
 * has `steps` timesteps, `counts_stride` elements apart. work: LANES * steps * rows. */
static void gram_gradient_block(int64_t steps, int64_t rows, int64_t latents, int64_t stride,
                                int64_t first, const uint8_t *counts, int64_t counts_stride,
                                int bytes, const float *gram_factor, float *grad, Event *work) {
    int n = latents - first < LANES ? (int)(latents - first) : LANES;
    int64_t count[LANES] = {0}, capacity = steps * rows;
    float spk[LANES];
    for (int64_t t = 0; t < steps; t++)
        for (int64_t row = 0; row < rows; row++) {
            int64_t offset = t * counts_stride + row * latents + first;
            load_counts(spk, counts + offset * bytes, bytes, n);
            for (int block = 0; block < n; block += WIDTH) {
                uint32_t spiked = spiked_of(spk + block, n - block < WIDTH ? n - block : WIDTH);
                for (; spiked; spiked &= spiked - 1) {
                    int i = block + __builtin_ctz(spiked);
                    Event *event = work + i * capacity + count[i]++;
                    event->row = (int32_t)(t * rows + row);
                    event->spk = spk[i];
                }
            }
        }
    for (int64_t j = 0, width; j < stride; j += width * WIDTH) {
        width = stride - j < 8 * WIDTH ? 4 : 8;
        for (int i = 0; i < n; i++) {
            const Event *events = work + i * capacity;
            float *to = grad + (first + i) * stride + j;
            if (width == 8) /* a constant width: vectorized */
                add_events(events, count[i], gram_factor + j, stride, 8, to);
            else
                add_events(events, count[i], gram_factor + j, stride, 4, to);
        }
    }
}

#endif
