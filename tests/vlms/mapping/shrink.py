"""Small configs: a config class's own defaults, with every size replaced by a small one that fits the others.

All widths are 64, with 4 heads of 16. Values that the tables do not name keep their default. A model type whose sizes
depend on each other in its own way has an entry in `types.py`.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

WIDTH, HEADS, HEAD_DIM, LAYERS, INNER, IMAGE, PATCH = 64, 4, 16, 4, 48, 32, 8

NAMES = {
    WIDTH: """hidden_size d_model embed_dim encoder_hidden_size out_hidden_size projection_dim text_hidden_size
        vision_hidden_size vision_output_dim word_embed_proj_dim decoder_hidden_size patch_embed_hidden_size
        projector_hidden_size projector_input_dim projector_output_dim image_text_hidden_size adapter_in_dim
        adapter_out_dim output_dim moe_hidden_size image_token_embed_dim projection_hidden_size pooler_output_size
        adapter_input_size rel_extent""",
    INNER: """intermediate_size ffn_dim d_ff mlp_dim encoder_ffn_dim decoder_ffn_dim dense_intermediate_size
        intermediate_size_mlp shared_intermediate_size projection_intermediate_size alignment_intermediate_size
        shared_expert_intermediate_size shared_experts_intermediate_size share_expert_dim
        moe_shared_expert_intermediate_size projection_hidden_dim merged_hidden_size""",
    16: """head_dim d_kv swa_head_dim index_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim
        qk_nope_head_dim qk_rope_head_dim v_head_dim resampler_head_dim resampler_dim_head mamba_head_dim q_lora_rank
        kv_lora_rank laurel_rank hidden_size_per_layer_input ssm_state_size d_rel chunk_size hc_lowrank
        moe_intermediate_size block_multiple_of rotary_dim query_pre_attn_scalar
        num_position_embeddings num_patches window_size""",
    4: """num_hidden_layers depth layers num_layers encoder_layers decoder_layers num_decoder_layers n_layers
        max_window_layers num_attention_heads num_heads attention_heads encoder_attention_heads
        decoder_attention_heads resampler_n_heads resampler_heads swa_num_attention_heads num_sliding_attention_heads
        index_n_heads linear_num_value_heads linear_num_heads mamba_num_heads n_routed_experts num_experts
        num_local_experts moe_num_experts resampler_n_latents resampler_num_latents latent_query_num num_query_tokens
        image_seq_length mm_tokens_per_image pos_emb_height pos_emb_width""",
    2: """num_key_value_heads swa_num_key_value_heads linear_num_key_heads n_groups num_experts_per_tok moe_topk moe_k
        resampler_depth""",
    1: "n_group topk_group first_k_dense_replace insert_layer_id",
    0.0: "attention_dropout attention_probs_dropout_prob hidden_dropout_prob dropout dropout_rate",
    IMAGE: "image_size min_image_size base_channels num_embeddings codebook_size output_channels",
    PATCH: "patch_size sliding_window sliding_window_size attention_chunk_size",
    512: "max_position_embeddings max_2d_position_embeddings seq_len index_topk",
}
SIZES: dict[str, Any] = {name: size for size, names in NAMES.items() for name in names.split()}
SIZES |= {"deepstack_visual_indexes": [1, 2], "fullatt_block_indexes": [1, 3], "global_attn_indexes": [1, 3]}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}


def small(config: PreTrainedConfig, changes: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """Return the arguments of a small config, nested configs as dictionaries with their model_type.

    Args:
        config: A config with default values.
        changes: Values for this config; a dictionary for a nested config.
        vocabulary: Number of tokens.
    """
    values: dict[str, Any] = {"model_type": config.model_type} if config.model_type else {}
    nested = set()
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            nested.add(name)
            values[name] = small(value, changes.get(name, {}), vocabulary)
        elif name in SIZES and value is not None:
            values[name] = like(value, SIZES[name])
        elif name.startswith("vocab_size"):
            values[name] = vocabulary
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            values[name] = value % 256
        elif name == "rope_parameters" and isinstance(value, dict) and value.get("mrope_section"):
            values[name] = value | {"mrope_section": ROPE["mrope_section"]}
    return values | {name: value for name, value in changes.items() if name not in nested}


def like(default: Any, size: Any) -> Any:
    """Return a size in the form of the default, which may be a pair; a flag stays."""
    if isinstance(default, bool):
        return default
    if isinstance(default, list | tuple) and not isinstance(size, list):
        return type(default)(size for _ in default)
    return size
