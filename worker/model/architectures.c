// SPDX-License-Identifier: Apache-2.0
// The architectures of one decoder and where they differ:
//     qwen2        q, k, v have a bias                             Yang et al. 2024
//     qwen3        heads of q and k are normalised                 Yang et al. 2025
//     llama        the plain one                                   Grattafiori et al. 2024
//     mistral      every layer slides when there is a window       Jiang et al. 2023
//     gemma3_text  sliding layers between full ones, norms before and after each block, stored less
//                  1, scaled embedding                             Gemma Team 2025
//     lfm2         most layers are short convolutions              Liquid AI 2025
#include "worker/model/config_internal.h"

const struct architecture_info architecture_infos[ARCHITECTURES] = {
    [ARCHITECTURE_QWEN2] =
        {
            .name = "qwen2",
            .class_name = "Qwen2ForCausalLM",
            .epsilon_key = "rms_norm_eps",
            .activation_key = "hidden_act",
            .defaults = {.architecture = ARCHITECTURE_QWEN2,
                         .max_positions = 32768,
                         .rope_theta = 1e4,
                         .rms_epsilon = 1e-6,
                         .window = 4096,
                         .qkv_bias = true},
        },
    [ARCHITECTURE_QWEN3] =
        {
            .name = "qwen3",
            .class_name = "Qwen3ForCausalLM",
            .epsilon_key = "rms_norm_eps",
            .activation_key = "hidden_act",
            .defaults = {.architecture = ARCHITECTURE_QWEN3,
                         .head_width = 128,
                         .max_positions = 32768,
                         .rope_theta = 1e4,
                         .rms_epsilon = 1e-6,
                         .window = 4096,
                         .head_norms = true},
        },
    [ARCHITECTURE_LLAMA] =
        {
            .name = "llama",
            .class_name = "LlamaForCausalLM",
            .epsilon_key = "rms_norm_eps",
            .activation_key = "hidden_act",
            .defaults = {.architecture = ARCHITECTURE_LLAMA,
                         .max_positions = 2048,
                         .rope_theta = 1e4,
                         .rms_epsilon = 1e-6},
        },
    [ARCHITECTURE_MISTRAL] =
        {
            .name = "mistral",
            .class_name = "MistralForCausalLM",
            .epsilon_key = "rms_norm_eps",
            .activation_key = "hidden_act",
            .defaults = {.architecture = ARCHITECTURE_MISTRAL,
                         .kv_heads = 8,
                         .max_positions = 131072,
                         .rope_theta = 1e4,
                         .rms_epsilon = 1e-6,
                         .window = 4096},
        },
    [ARCHITECTURE_GEMMA3] =
        {
            .name = "gemma3_text",
            .class_name = "Gemma3ForCausalLM",
            .epsilon_key = "rms_norm_eps",
            .activation_key = "hidden_activation",
            .defaults = {.architecture = ARCHITECTURE_GEMMA3,
                         .kv_heads = 4,
                         .head_width = 256,
                         .max_positions = 131072,
                         .rope_theta = 1e6,
                         .local_rope_theta = 1e4,
                         .rms_epsilon = 1e-6,
                         .attention_scalar = 256,
                         .window = 4096,
                         .tied = true,
                         .head_norms = true,
                         .block_norms = true,
                         .offset_norms = true,
                         .scaled_embedding = true,
                         .activation = ACTIVATION_GELU_TANH},
        },
    [ARCHITECTURE_LFM2] =
        {
            .name = "lfm2",
            .class_name = "Lfm2ForCausalLM",
            .epsilon_key = "norm_eps",
            .defaults = {.architecture = ARCHITECTURE_LFM2,
                         .kv_heads = 8,
                         .ffn = 12288,
                         .max_positions = 128000,
                         .rope_theta = 1e6,
                         .rms_epsilon = 1e-5,
                         .conv_taps = 3,
                         .tied = true,
                         .head_norms = true},
        },
};
