// SPDX-License-Identifier: Apache-2.0
// Causal softmax attention (Vaswani et al. 2017) with grouped keys (Ainslie et al. 2023) inside
// each sequence. With s_tu = scale q_t . k_u over the visible u (u <= t, t - u < window):
//     L_t = log sum_u exp s_tu,   p_tu = exp(s_tu - L_t),   out_t = sum_u p_tu v_u
// Backward, with g = grad_out and D_t = g_t . out_t = sum_u p_tu (g_t . v_u) (Dao et al. 2022):
//     ds_tu = p_tu (g_t . v_u - D_t)
//     grad_q_t = scale sum_u ds_tu k_u,   grad_k_u = scale sum_t ds_tu q_t,   grad_v_u = sum_t p_tu
//     g_t
// where sums over t for a key also run over the heads of its group.
#include "kernels/ref/ref.h"

#include <math.h>

static double dot(struct tensor x, size_t x_at, struct tensor y, size_t y_at, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += load(x, x_at + i) * load(y, y_at + i);
    return sum;
}

static size_t first_visible(size_t begin, size_t t, size_t window)
{
    return window > 0 && t - begin >= window ? t - window + 1 : begin;
}

static void attend(const struct attention_forward *a, size_t begin, size_t t, size_t head)
{
    size_t d = a->head_width, group = head / (a->heads / a->kv_heads);
    size_t q_at = t * a->stride + head * d, first = first_visible(begin, t, a->window);
    double largest = -INFINITY, sum = 0, out[HEAD_WIDTH_LIMIT] = {0};
    for (size_t u = first; u <= t; u++)
        largest = fmax(largest, a->scale * dot(a->q, q_at, a->k, u * a->stride + group * d, d));
    for (size_t u = first; u <= t; u++) {
        size_t kv_at = u * a->stride + group * d;
        double weight = exp(a->scale * dot(a->q, q_at, a->k, kv_at, d) - largest);
        sum += weight;
        for (size_t i = 0; i < d; i++)
            out[i] += weight * load(a->v, kv_at + i);
    }
    for (size_t i = 0; i < d; i++)
        store(a->out, (t * a->heads + head) * d + i, out[i] / sum);
    if (a->log_sum_exp)
        a->log_sum_exp[t * a->heads + head] = (float)(largest + log(sum));
}

void ref_attention_forward(struct device *device, const struct attention_forward *a)
{
    (void)device;
    assert(a->head_width <= HEAD_WIDTH_LIMIT);
    for (size_t s = 0; s < a->sequences.count; s++) {
        size_t begin = (size_t)a->sequences.offsets[s], end = (size_t)a->sequences.offsets[s + 1];
        for (size_t t = begin; t < end; t++)
            for (size_t head = 0; head < a->heads; head++)
                attend(a, begin, t, head);
    }
}

// p and ds of one visible pair of a query's head and a key.
struct pair {
    double p;
    double ds;
};

static struct pair pair_of(const struct attention_backward *a, size_t t, size_t head, size_t u)
{
    size_t d = a->head_width, group = head / (a->heads / a->kv_heads);
    size_t q_at = t * a->stride + head * d, kv_at = u * a->stride + group * d;
    size_t out_at = (t * a->heads + head) * d;
    double s = a->scale * dot(a->q, q_at, a->k, kv_at, d);
    double p = exp(s - a->log_sum_exp[t * a->heads + head]);
    double ds = p * (dot(a->grad_out, out_at, a->v, kv_at, d) -
                     dot(a->grad_out, out_at, a->out, out_at, d));
    return (struct pair){.p = p, .ds = ds};
}

static void backward_query(const struct attention_backward *a, size_t begin, size_t t, size_t head)
{
    size_t d = a->head_width, group = head / (a->heads / a->kv_heads);
    double grad[HEAD_WIDTH_LIMIT] = {0};
    for (size_t u = first_visible(begin, t, a->window); u <= t; u++) {
        struct pair pair = pair_of(a, t, head, u);
        for (size_t i = 0; i < d; i++)
            grad[i] += a->scale * pair.ds * load(a->k, u * a->stride + group * d + i);
    }
    for (size_t i = 0; i < d; i++)
        store(a->grad_q, t * a->stride + head * d + i, grad[i]);
}

static void backward_key(const struct attention_backward *a, size_t end, size_t u, size_t group)
{
    size_t d = a->head_width, per_group = a->heads / a->kv_heads;
    double grad_k[HEAD_WIDTH_LIMIT] = {0}, grad_v[HEAD_WIDTH_LIMIT] = {0};
    for (size_t t = u; t < end && (a->window == 0 || t - u < a->window); t++)
        for (size_t head = group * per_group; head < (group + 1) * per_group; head++) {
            struct pair pair = pair_of(a, t, head, u);
            for (size_t i = 0; i < d; i++) {
                grad_k[i] += a->scale * pair.ds * load(a->q, t * a->stride + head * d + i);
                grad_v[i] += pair.p * load(a->grad_out, (t * a->heads + head) * d + i);
            }
        }
    for (size_t i = 0; i < d; i++) {
        store(a->grad_k, u * a->stride + group * d + i, grad_k[i]);
        store(a->grad_v, u * a->stride + group * d + i, grad_v[i]);
    }
}

void ref_attention_backward(struct device *device, const struct attention_backward *a)
{
    (void)device;
    assert(a->head_width <= HEAD_WIDTH_LIMIT);
    for (size_t s = 0; s < a->sequences.count; s++) {
        size_t begin = (size_t)a->sequences.offsets[s], end = (size_t)a->sequences.offsets[s + 1];
        for (size_t t = begin; t < end; t++) {
            for (size_t head = 0; head < a->heads; head++)
                backward_query(a, begin, t, head);
            for (size_t group = 0; group < a->kv_heads; group++)
                backward_key(a, end, t, group);
        }
    }
}
