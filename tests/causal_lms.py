"""Every causal LM of the installed transformers, tiny: its default configuration shrunk, random weights, no downloads.

What shrinks is found by the name of the attribute; what that rule gets wrong stands in ``EXCEPTIONS``.
"""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TYPES = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCAB, WIDTH, HEADS, LAYERS = 96, 32, 4, 2

# (limit, the attributes that are cut down to it)
SIZES = (
    (VOCAB, "vocab_size decoder_vocab_size vocab_size_per_layer_input unpadded_vocab_size audio_vocab_size "
            "shape_vocab_size pronunciation_vocab_size"),
    (WIDTH, "hidden_size d_model n_embd emb_dim embedding_dim embedding_size input_embedding_size input_size "
            "output_embedding_size attention_hidden_size lru_width hidden_size_global word_embed_proj_dim "
            "backbone_hidden_size pronunciation_embed_dim shape_embed_dim vision_output_dim out_hidden_size "
            "adapter_in_dim adapter_input_size adapter_out_dim"),
    (64, "intermediate_size d_inner d_ff dff dim_ff ffn_dim ffn_hidden_size encoder_ffn_dim decoder_ffn_dim mlp_dim "
         "dense_intermediate_size intermediate_size_mlp shared_intermediate_size feed_forward_size prompt_mid_dim "
         "shared_expert_intermediate_size shared_experts_intermediate_size moe_shared_expert_intermediate_size "
         "mamba_d_ssm codebook_size encoder_hash_byte_group_vocab"),
    (HEADS, "num_attention_heads n_head n_heads num_heads attention_heads encoder_attention_heads "
            "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads num_codebooks "
            "swa_num_attention_heads linear_num_heads linear_num_value_heads conf_num_attention_heads"),
    (LAYERS, "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_encoder_layers "
             "num_decoder_layers depth conf_num_hidden_layers num_blocks num_global_layers num_layers_per_stack"),
    (2, "num_key_value_heads kv_n_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads num_query_groups "
        "index_n_heads n_shared_experts mamba_n_groups n_groups topk_group n_group num_experts_per_tok moe_k "
        "num_experts_per_token moe_top_k moe_topk num_expert_group zero_expert_num o_groups heads_per_ngram "
        "upsample_groups num_quantizers first_k_dense_replace"),
    (8, "head_dim d_head dim_head attention_head_size kv_channels swa_head_dim linear_head_dim linear_key_head_dim "
        "linear_value_head_dim qk_nope_head_dim v_head_dim qk_rope_head_dim index_head_dim d_kv q_lora_rank "
        "kv_lora_rank o_lora_rank n_routed_experts num_experts num_local_experts moe_num_experts mamba_d_state "
        "state_size ssm_state_size mamba_d_head mamba_head_dim mamba_headdim mamba_n_heads mamba_num_heads "
        "mamba_dt_rank time_step_rank laurel_rank hidden_size_per_layer_input adapter_rank hc_lowrank rotary_dim "
        "gated_norm_rank"),
    (16, "attention_head_dim ple_embed_dim router_hidden_size"),
    (32, "moe_intermediate_size expert_ffn_hidden_size block_size chunk_size mamba_chunk_size image_size "
         "ngram_vocab_size_base split_ngram_parts num_centroids"),
    (128, "max_position_embeddings n_positions n_ctx max_seq_len context_length max_target_positions "
          "max_source_positions num_position_embeddings model_max_length"),
)  # fmt: skip
LIMITS = {name: limit for limit, names in SIZES for name in names.split()}
# one entry a layer: the kinds that occur, once each
PATTERNS = ("layer_types", "mlp_layer_types", "layers_block_type", "indexer_types")

# The default has no attention layer at all.
_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
# The hybrid layers share their weights, so there are two; the widths follow from others, but not where they are given.
_ZAMBA = {
    "layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4,
    "attention_hidden_size": 2 * WIDTH, "attention_head_dim": 16, "mamba_headdim": 8,
}  # fmt: skip
# The last two layers share what the first two keep.
_GEMMA3N = {
    "layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
    "intermediate_size": 64,
}  # fmt: skip
# The indexer has no defaults; the first layer hashes its ids, for which the default has no layer.
_QWEN4 = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 32,
    "indexer_compress_ratio": 4, "eos_token_id": 2, "ple_layer_ids": [1],
}  # fmt: skip
# Sliding layers have sizes of their own, which are arguments and no attributes.
_DOTS3 = {
    "num_key_value_heads": HEADS, "swa_num_attention_heads": HEADS, "swa_num_key_value_heads": HEADS,
    "swa_q_lora_rank": 8, "swa_kv_lora_rank": 8, "swa_qk_nope_head_dim": 8, "swa_qk_rope_head_dim": 8,
    "swa_v_head_dim": 8, "swa_head_dim": 16,
}  # fmt: skip
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},  # as _HYBRID
    "blt": {"num_hidden_layers": 2},  # read by the cache, but no default
    "cohere_compass_text": {"rope_parameters": {"full_attention": _MROPE}},  # read, but no default
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},  # read, but no default
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1},  # no defaults
    "dots1": {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1},  # no defaults
    "dots3_note": {"text_config": _DOTS3},
    "dots3_note_text": _DOTS3,
    "flint": {"mlp_only_layers": [0]},  # the default has no experts in its first two layers
    "gemma3n": {"text_config": _GEMMA3N, "vision_config": {"architecture": "mobilenetv3_small_050"}},  # timm's
    "gemma3n_text": _GEMMA3N,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": _HYBRID,
    "hrm_text": {"num_layers_per_stack": None, "num_hidden_layers": 1},  # of a stack; eight in all
    "hunyuan_v1_dense": {"head_dim": 8},  # no default
    "hunyuan_v1_moe": {"head_dim": 8},  # no default
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},  # no default
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 8},  # no default
    "moshi": {"audio_encoder_config": {"num_quantizers": 32}},
    "nemotron": {"num_key_value_heads": 2},  # no default
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "recurrent_gemma": {"num_hidden_layers": 3},  # the third is attention
    "reformer": {
        "attn_layers": ["local", "lsh"], "axial_pos_embds": False, "hash_seed": 0, "num_buckets": 4,
        "local_attn_chunk_length": 12, "lsh_attn_chunk_length": 12,  # it trains on whole chunks alone
    },
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},  # widths of heads are rounded up to 64
    "xmod": {"default_language": "en_XX"},
    "zamba": _ZAMBA,
    "zamba2": _ZAMBA,
}  # fmt: skip


def shrink(config: PreTrainedConfig, **changes: Any) -> PreTrainedConfig:
    """The configuration again with everything small, and so everything derived from it."""
    small: dict[str, Any] = {}
    attributes = vars(config)
    for name, value in attributes.items():
        if isinstance(value, PreTrainedConfig):
            small[name] = shrink(value, **changes.pop(name, {}))
        elif isinstance(value, int) and not isinstance(value, bool) and value > LIMITS.get(name, value):
            small[name] = LIMITS[name]
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int) and value >= VOCAB:
            small[name] = VOCAB - 1
    heads, key_value_heads = (attributes.get(f"num_{kind}_heads") for kind in ("attention", "key_value"))
    if heads and heads == key_value_heads:
        small["num_key_value_heads"] = min(heads, HEADS)
    if "is_decoder" in attributes:
        small["is_decoder"] = True  # the others see what follows
    kinds = {name: list(dict.fromkeys(attributes[name])) for name in PATTERNS if attributes.get(name)}
    if kinds:
        depth = max(LAYERS, *map(len, kinds.values()))
        small |= {name: (kind * depth)[:depth] for name, kind in kinds.items()}
        small |= {"num_hidden_layers": depth} if "num_hidden_layers" in attributes else {}
    return type(config)(**small | changes)


def tiny_config(kind: str) -> PreTrainedConfig:
    return shrink(CONFIG_MAPPING[kind](), **EXCEPTIONS.get(kind, {}))


def tiny_lm(kind: str, *, seed: int = 0) -> PreTrainedModel:
    """A model of float32 in evaluation mode, whose ``generate`` is plain: no token ends, starts or is forbidden."""
    config = tiny_config(kind)
    torch.manual_seed(seed)
    lm = AutoModelForCausalLM.from_config(config).float().eval()
    _spread(lm)
    lm.generation_config = GenerationConfig(pad_token_id=pad_id(lm))
    return lm


def pad_id(lm: PreTrainedModel) -> int:
    """What a row is padded with: transformers takes positions and lengths from it on some types."""
    own = getattr(lm.config.get_text_config(), "pad_token_id", None)
    return 0 if own is None else own


@torch.no_grad()
def _spread(lm: PreTrainedModel) -> None:
    """Make what transformers draws narrow or as zero wide enough for logits without ties."""
    for weight in lm.parameters():
        if not weight.any():
            weight.normal_(std=0.1)
        elif weight.ndim > 1 and 0 < weight.std() < 0.06:
            weight.mul_(0.25 / weight.std())
