// SPDX-License-Identifier: Apache-2.0
// The methods of merging, and the parameters of one tensor.
//
// theta_k are the models, tau_k = theta_k - theta_base their task vectors, computed once in float32
// (exact for bf16 weights of similar size); w_k weights, d_k densities. Everything else is float64,
// rounded once to the output's dtype. All formulas are per tensor unless said otherwise.
//
//   linear            sum w_k theta_k / sum w_k                      Wortsman et al. 2022,
//   2203.05482 task_arithmetic   base + lambda sum w_k tau_k                     Ilharco et al.
//   2023, 2212.04089 ties              trim: keep the max(1, floor(d_k n)) largest |tau_k|, equal
//   ones by lowest
//                     index; elect s = sign(sum w_k tau_k) over what is kept; merged = sum of the
//                     kept w_k tau_k of sign s / sum of their w_k, 0 where s is 0;
//                     base + lambda merged                            Yadav et al. 2023, 2306.01708
//   dare_linear       keep each element with probability d_k, rescale by 1/d_k, then task
//   arithmetic dare_ties         the same, then election, without the division   Yu et al. 2024,
//   2311.03099 della             keep an element with probability p between d_k - epsilon and d_k +
//   epsilon,
//                     linear in the rank of |tau_k| in its row; rescale by 1/p; then election and
//                     division as in ties                             Deep et al. 2024, 2406.11617
//   della_linear      the same, then task arithmetic
//   breadcrumbs       drop the floor(gamma_k n) largest and the smallest, so that floor(d_k n)
//   stay;
//                     then task arithmetic                            Davari, Belilovsky 2024,
//                     2312.06795
//   breadcrumbs_ties  the same, then election, without the division
//   sce               select: keep the floor(topk m) elements whose variance over the vectors is
//                     largest (m: those where it is not 0); calculate: c_k = mean of tau_k^2,
//                     divided by their sum; erase: elect the sign of sum tau_k; base + sum of
//                     agreeing c_k tau_k / sum of their c_k                    Wan et al. 2024,
//                     2408.07990
//   model_stock       t = K cos / (1 + (K - 1) cos), cos the mean cosine of two vectors;
//                     t mean(theta_k) + (1 - t) base                  Jang et al. 2024, 2403.19522
//   slerp             of two models, t = w_2 / (w_1 + w_2): (sin((1-t) a) theta_1 + sin(t a)
//   theta_2)
//                     / sin(a), a the angle between them; linear where |cos a| > 0.9995
//                                                                     Shoemake 1985
//   nuslerp           the same for two task vectors (models, without a base), over the tensor, each
//                     row or each column; linear only where sin(a) <= 1e-8
//   multislerp        barycentre in the tangent space at the normalised weighted mean m of the
//   units
//                     u_k: g = sum w_k (u_k - <u_k, m> m); (m cos|g| + g sin|g| / |g|) sum w_k
//                     |tau_k|
//   karcher           the point m of the unit sphere where sum w_k log_m(u_k) = 0, by at most
//                     max_iter steps; m sum w_k |theta_k|             Karcher 1977
#ifndef MEMO_WORKER_MERGE_METHOD_H
#define MEMO_WORKER_MERGE_METHOD_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum merge_method {
    MERGE_LINEAR,
    MERGE_TASK_ARITHMETIC,
    MERGE_TIES,
    MERGE_DARE_LINEAR,
    MERGE_DARE_TIES,
    MERGE_DELLA,
    MERGE_DELLA_LINEAR,
    MERGE_BREADCRUMBS,
    MERGE_BREADCRUMBS_TIES,
    MERGE_SCE,
    MERGE_MODEL_STOCK,
    MERGE_SLERP,
    MERGE_NUSLERP,
    MERGE_MULTISLERP,
    MERGE_KARCHER,
};
#define MERGE_METHODS 15
#define MERGE_MODELS_LIMIT 60 // so that the products of all pairs fit a block
#define MERGE_METHOD_CHOICES                                                                       \
    "linear|task_arithmetic|ties|dare_linear|dare_ties|della|della_linear|breadcrumbs|"            \
    "breadcrumbs_ties|sce|model_stock|slerp|nuslerp|multislerp|karcher"

// How the values of a vector are thinned out.
enum merge_sparsify {
    SPARSIFY_NONE,
    SPARSIFY_TRIM,
    SPARSIFY_OUTLIERS,
    SPARSIFY_RANDOM,
    SPARSIFY_RANKED
};

// What makes up for what was dropped: nothing; 1 / the probability of being kept; or a factor per
// tensor that restores the sum of magnitudes (as mergekit does).
enum merge_rescale { RESCALE_NONE, RESCALE_DENSITY, RESCALE_L1 };
#define MERGE_RESCALE_CHOICES "none|density|l1"

enum merge_family {
    FAMILY_SUM,  // thin out, elect, add up
    FAMILY_SCE,  // as above, with weights that come from the vectors
    FAMILY_SPAN, // a combination sum c_k x_k whose c_k follow from the products <x_i, x_j>
};

struct merge_traits {
    const char *name;
    enum merge_family family;
    enum merge_sparsify sparsify;
    enum merge_rescale rescale; // default
    bool elects;
    bool normalizes; // default: divides by the sum of weights
    bool on_models;  // combines theta_k, not tau_k
    bool needs_base;
    size_t least, most; // vectors
};

const struct merge_traits *merge_traits(enum merge_method method);
int merge_parse_method(const char *text, enum merge_method *out, struct error *err);

enum merge_groups { GROUP_TENSOR, GROUP_ROW, GROUP_COLUMN }; // what one angle is computed over

// Of one tensor.
struct merge_parameters {
    enum merge_method method;
    size_t vectors;
    const double *weight;    // [vectors]
    const double *density;   // [vectors], in (0, 1]
    const double *gamma;     // [vectors], breadcrumbs
    const double *epsilon;   // [vectors], della
    const uint64_t *streams; // [vectors], of the random masks
    uint64_t seed;
    double lambda;
    bool normalize;
    enum merge_rescale rescale;
    enum merge_groups groups; // nuslerp, model_stock
    double select_topk;       // sce
    int64_t max_iter;         // karcher
    double tol;
};

// How many elements a trim keeps of count: max(1, floor(density count)), all from density 1 on.
uint64_t merge_kept_count(double density, uint64_t count);
// For breadcrumbs: *kept elements, those behind the *dropped largest.
void merge_kept_behind(double density, double gamma, uint64_t count, uint64_t *dropped,
                       uint64_t *kept);

// The random number of element `index`, in [0, 1) in steps of 2^-32: it is kept when this is below
// the probability. A function of seed, stream and index alone.
double merge_uniform(uint64_t seed, uint64_t stream, uint64_t index);

// della's probability of keeping the element that has `rank` smaller ones in a row of `columns`.
double merge_ranked_probability(double density, double epsilon, uint64_t rank, uint64_t columns);

#endif
