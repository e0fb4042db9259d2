/* The adjoint of one timestep, and the gradient of G from the spikes. */
#ifndef IPVAE_BACKWARD_H
#define IPVAE_BACKWARD_H

#include "forward.h"

#define NEARLY 0.99999f /* of FLOOR: what rounding leaves of it in a stored membrane */
#define SATURATED 0.1f  /* part of a step that the clamps let through: see passed() */

typedef struct {
    int64_t rows, latents, stride;    /* stride: row length of half_push, a multiple of LANES */
    const float *mem, *mem_before;    /* (rows, K): u of this timestep and of the one before */
    const uint8_t *counts, *counts_before; /* (rows, K); counts_before NULL: no spikes */
    int32_t count_bytes;
    const float *drive;                /* (rows, K) */
    const float *gram;                 /* (K, stride) */
    const float *first_spk;            /* (rows, K): spikes before the first timestep, else NULL */
    float *work;                       /* threads * (stride + 2 K) */
    const float *product;              /* (rows, K): (push of this timestep) G */
    const float *slope;                /* (rows, K), or NULL: see slope_kind */
    int32_t slope_kind;                /* 0 (z + rate) / 2, 1 rate, 2 slope[], 3 none */
    const float *quad_grad, *kl_grad;  /* (rows,) */
    const float *quad_grad_before;     /* (rows,), or NULL */
    const float *spk_grad;             /* (rows, K), or NULL: from recorded spikes */
    float *carry;                      /* (rows, K): dL/du of this timestep in, the one before out */
    float *drive_grad;                 /* (rows, K): added to */
    float *push;                       /* (rows, K) out: c z - alpha scale dL/dh, for the product */
    float *half_push;                  /* (rows, stride) out: c z / 2 - ..., for the gradient of G */
    float *bias_grad;                  /* (threads, stride): dL/dh, added to */
    double *step_sum;                  /* (rows,): sum of h dL/dh, added to */
    int32_t threads;
} Backward;

/* What the clamps let through, as s = 1 / rate' - e and a = exp(-h) / rate, from the membranes.
 * Returns whether a lane is so near its clamp that this is a difference of nearly equal numbers. */
static inline ALWAYS int passed(const Dynamics *f, int n, const float *restrict mem,
                  const float *restrict before, float *restrict s, float *restrict a) {
    float epsilon = f->epsilon;
    int saturated = 0;
#pragma omp simd reduction(| : saturated)
    for (int i = 0; i < n; i++) {
        float r = fast_exp(-mem[i]), r0 = fast_exp(-before[i]);
        s[i] = r - epsilon;
        a[i] = s[i] - epsilon * r0;
        saturated |= a[i] < SATURATED * r;
    }
    return saturated;
}

/* The same from zG of the timestep before, added up again. */
static void passed_again(const Dynamics *f, int n, const float *restrict drive,
                         const float *restrict inhibition, const float *restrict bias,
                         const float *restrict rest, const float *restrict before,
                         float *restrict s, float *restrict a) {
    for (int i = 0; i < n; i++) {
        float u = before[i], r0 = fast_exp(-u);
        float h = drive[i] - f->scale * inhibition[i] - bias[i] - f->leak * (u - rest[i]);
        a[i] = r0 * fast_exp(at_most(-f->alpha * h, 8.0f));
        s[i] = a[i] + f->epsilon * r0;
    }
}

/* zG of one row of the timestep before. */
static const float *earlier_inhibition(const Backward *p, int64_t row, float *work) {
    int64_t K = p->latents;
    float *y = work, *spk = work + p->stride;
    int32_t *active = (int32_t *)(spk + K);
    if (p->first_spk)
        memcpy(spk, p->first_spk + row * K, sizeof(float) * (size_t)K);
    else
        get_counts(spk, p->counts_before + row * K * p->count_bytes, p->count_bytes, K);
    sum_events(spk, active, list_active(spk, K, active), p->gram, p->stride, y);
    return y;
}

static inline ALWAYS void backward_block(const Dynamics *f, const Backward *p, int64_t row, int64_t j, int n,
                           float *bias_grad, int64_t *active, float *step_sum, float *work,
                           const float **inhibition) {
    int64_t at = row * p->latents + j;
    float s[LANES], a[LANES];
    float spk[LANES] = {0}, earlier[LANES] = {0}, slope[LANES], extra[LANES] = {0};
    float quad = p->quad_grad[row], kl = p->kl_grad[row], uphill = 0;
    float quad_before = p->quad_grad_before ? p->quad_grad_before[row] : 0.0f;
    get_counts(spk, p->counts + at * p->count_bytes, p->count_bytes, n);
    if (p->counts_before)
        get_counts(earlier, p->counts_before + at * p->count_bytes, p->count_bytes, n);
    if (p->slope_kind == 2) memcpy(slope, p->slope + at, sizeof(float) * (size_t)n);
    if (p->spk_grad) memcpy(extra, p->spk_grad + at, sizeof(float) * (size_t)n);
    float own = p->slope_kind == 0 || p->slope_kind == 1, of_spk = p->slope_kind == 0 ? 0.5f : 0;
    if (p->slope_kind != 2) memset(slope, 0, sizeof slope);
    int spiked = 0, published = f->published;
    /* Locals: the compiler need not fear that a store changes a setting or a pointer. */
    float epsilon = f->epsilon, leak = f->leak, alpha = f->alpha, scale = f->scale;
    const float *restrict mem = p->mem + at, *restrict before = p->mem_before + at;
    const float *restrict drive = p->drive + at, *restrict product = p->product + at;
    const float *restrict bias = f->bias + j, *restrict rest = f->rest + j;
    float *restrict carry = p->carry + at, *restrict drive_grad = p->drive_grad + at;
    float *restrict push = p->push + at, *restrict half = p->half_push + row * p->stride + j;
    float *restrict to_bias = bias_grad + j;
    if (passed(f, n, mem, before, s, a)) {
        if (!*inhibition) *inhibition = earlier_inhibition(p, row, work);
        passed_again(f, n, drive, *inhibition + j, bias, rest, before, s, a);
    }
#pragma omp simd reduction(+ : uphill, spiked)
    for (int i = 0; i < n; i++) {
        float u = mem[i], u0 = before[i], z = spk[i], d = drive[i];
        float r = fast_exp(-u), r0 = fast_exp(-u0), rate = 1.0f / r, rate0 = 1.0f / r0;
        float weight = slope[i] + own * (of_spk * z + (1.0f - of_spk) * rate);
        float x = u - u0, grown = rate * r0;
        float to_u = published ? rate * (1.0f + grown * (2.0f * x - 1.0f)) : rate * x;
        float to_u0 = published ? -rate * grown * x : rate0 - rate;
        float grad = carry[i] + weight * (product[i] - quad * d + extra[i]) + kl * to_u;
        float open = s[i] < FLOOR * NEARLY ? grad : 0.0f;
        float to_h = a[i] < FLOOR * NEARLY * r0 ? open * a[i] / (s[i] + epsilon) : 0.0f;
        float h = -fast_log(at_least(a[i] * rate0, 1e-37f)), pushed = -alpha * scale * to_h;
        carry[i] = open * s[i] / (s[i] + epsilon) + kl * to_u0 - alpha * leak * to_h;
        drive_grad[i] += alpha * to_h - quad * z;
        push[i] = pushed + quad_before * earlier[i];
        half[i] = pushed + 0.5f * quad_before * earlier[i];
        to_bias[i] += to_h;
        uphill += to_h * h;
        spiked += earlier[i] != 0.0f;
    }
    *active += spiked;
    *step_sum += uphill;
}

typedef struct {
    int32_t row;
    float spk;
} Event;

/* `width` vectors of one neuron's row of the gradient: half_push summed over its spikes. */
static inline ALWAYS void add_events(const Event *events, int64_t count, const float *half_push,
                                     int64_t stride, int width, float *to) {
    Vector sum[8];
    for (int c = 0; c < width; c++) sum[c] = ((const Vector *)to)[c];
    for (int64_t m = 0; m < count; m++) {
        const Vector *g = (const Vector *)(half_push + events[m].row * stride);
        for (int c = 0; c < width; c++) sum[c] += events[m].spk * g[c];
    }
    for (int c = 0; c < width; c++) ((Vector *)to)[c] = sum[c];
}

/* grad += sum over rows of z^T half_push, a neuron's row at a time, from the rows where it spiked.
 * Rows of counts are those of `steps` timesteps, `step` elements apart. work: LANES * steps * rows. */
static void gram_gradient_block(int64_t steps, int64_t rows, int64_t latents, int64_t stride,
                                int64_t first, const uint8_t *counts, int64_t step, int bytes,
                                const float *half_push, float *grad, Event *work) {
    int n = latents - first < LANES ? (int)(latents - first) : LANES;
    int64_t found[LANES] = {0}, most = steps * rows;
    float spk[LANES];
    for (int64_t t = 0; t < steps; t++)
        for (int64_t row = 0; row < rows; row++) {
            get_counts(spk, counts + (t * step + row * latents + first) * bytes, bytes, n);
            for (int i = 0; i < n; i++) {
                Event *event = work + i * most + found[i];
                event->row = (int32_t)(t * rows + row);
                event->spk = spk[i];
                found[i] += spk[i] != 0.0f;
            }
        }
    for (int64_t j = 0, width; j < stride; j += width * WIDTH) {
        width = stride - j < 8 * WIDTH ? 4 : 8;
        for (int i = 0; i < n; i++) {
            const Event *events = work + i * most;
            float *to = grad + (first + i) * stride + j;
            if (width == 8) /* known to compilers */
                add_events(events, found[i], half_push + j, stride, 8, to);
            else
                add_events(events, found[i], half_push + j, stride, 4, to);
        }
    }
}

#endif
