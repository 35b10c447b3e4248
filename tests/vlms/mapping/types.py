"""What the small checkpoint of a model_type needs beside the rules of `shrink.py` and `build.py`, type by type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mapping.shrink import ROPE


@dataclass(frozen=True)
class Type:
    """Changes for one model_type.

    Args:
        config: Values of the config; a dictionary for a nested config.
        defaults: Arguments of the config class whose default is None, such as a config of a tower.
        processor: Name of the processor class, if transformers' mapping has none.
        image_processor: Name of the image processor class, likewise.
        audio: Name of the feature extractor class, likewise.
        arguments: Arguments of the processor.
        pixels: Arguments of the image processor.
        image: Text of an image in a prompt; None = the processor's image token, "" = none.
        special: Further special tokens.
        tokens: Named special tokens of the tokenizer.
        ids: Name of a token of the config -> the token.
        id_lists: Name of a list of ids in the config -> the tokens.
        plain: Whether the checkpoint has no chat template.
        encoder_decoder: Whether the language model is an encoder-decoder.
    """

    config: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    processor: str = ""
    image_processor: str = ""
    audio: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    pixels: dict[str, Any] = field(default_factory=dict)
    image: str | None = None
    special: tuple[str, ...] = ()
    tokens: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    id_lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    plain: bool = False
    encoder_decoder: bool = False


HALF_ROPE = ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}
CODES = 32  # of a small image codebook

SAM_256 = {
    "image_size": 128,
    "patch_size": 2,
    "window_size": 16,
    "global_attn_indexes": [],
}  # 256 tokens, a fixed number

TYPES: dict[str, Type] = {
    "aria": Type(
        config={"vision_config": {"image_size": 980, "patch_size": 70}, "projector_patch_to_query_dict": {196: 4}},
        arguments={"size_conversion": {980: 4}},
        pixels={"max_image_size": 980},
    ),
    "chameleon": Type(
        config={
            "vocabulary_map": {f"IMGIMG{chr(65 + i // 10)}{chr(65 + i % 10)}Z": 400 + i for i in range(CODES)}
            | {"<image>": 0}
        },
        arguments={"image_seq_length": 4},
    ),
    "deepseek_vl": Type(arguments={"num_image_tokens": 16}),
    "ernie4_5_vl_moe": Type(config={"text_config": {"rope_parameters": ROPE | {"mrope_section": [3, 3, 2]}}}),
    "glm5_next": Type(
        config={"text_config": {"num_key_value_heads": 4, "index_kpool": 16, "qk_rope_head_dim": 0, "head_dim": 0}}
    ),
    "got_ocr2": Type(config={"vision_config": SAM_256}, pixels={"size": {"height": 128, "width": 128}}),
    "granite_docling": Type(arguments={"image_seq_len": 1}),
    "idefics2": Type(arguments={"image_seq_len": 4}),
    "janus": Type(arguments={"num_image_tokens": 16}),
    "llava_next": Type(config={"image_grid_pinpoints": [[32, 32]]}),
    "llava_next_video": Type(config={"image_grid_pinpoints": [[32, 32]]}),
    "mllama": Type(
        config={
            "vision_config": {"intermediate_layers_indices": [1, 2], "num_global_layers": 1, "vision_output_dim": 192},
            "text_config": {"cross_attention_layers": [1, 3]},
        }
    ),
    "paddleocr_vl": Type(config={"text_config": {"rope_parameters": ROPE}}),
    "qianfan_ocr": Type(image="<image>", arguments={"image_seq_length": 4}),
    "qwen3_vl_moe": Type(image_processor="Qwen2VLImageProcessorPil"),
    "qwen4_exp": Type(
        config={
            "text_config": {
                "indexer_n_heads": 4,
                "indexer_kv_heads": 1,
                "indexer_head_dim": 16,
                "indexer_budget": 512,
                "indexer_compress_ratio": 4,
            }
        }
    ),
    "cohere_compass": Type(
        config={"text_config": {"rope_parameters": {"full_attention": ROPE}}},
        tokens={"image_token": "<|IMAGE_PAD|>", "video_token": "<|VIDEO_PAD|>"},
    ),
    "cosmos3_omni": Type(processor="Qwen3VLProcessor", image_processor="Qwen2VLImageProcessorPil"),
    "deepseek_vl_hybrid": Type(
        config={"high_res_vision_config": {"image_size": 64}},
        arguments={"num_image_tokens": 16},
        pixels={"high_res_size": {"height": 64, "width": 64}},
    ),
    "fuyu": Type(image="", plain=True),
    "gemma4": Type(defaults={"vision_config": {"model_type": "gemma4_vision"}}),
    "glm46v": Type(config={"text_config": {"rope_parameters": ROPE}}),
    "glm4v": Type(config={"text_config": {"rope_parameters": ROPE}}),
    "glm4v_moe": Type(config={"text_config": {"rope_parameters": HALF_ROPE}}, image_processor="Glm4vImageProcessorPil"),
    "glm_ocr": Type(
        config={"text_config": {"rope_parameters": ROPE}},
        processor="Glm46VProcessor",
        image_processor="Glm46VImageProcessorPil",
    ),
    "glmga": Type(
        config={"text_config": {"rope_parameters": ROPE}},
        processor="Glm46VProcessor",
        image_processor="Glm46VImageProcessorPil",
    ),
    "granite4_vision": Type(
        config={
            "downsample_rate": "1/2",
            "deepstack_layer_map": [[1, 0], [2, 1]],
            "spatial_target_layers": [0, 1, 2, 3],
            "image_grid_pinpoints": [[32, 32]],
        }
    ),
    "hunyuan_vl": Type(
        config={"text_config": {"head_dim": 16, "rope_parameters": ROPE}},
        image="<image_start_token><image_token><image_end_token>",
    ),
    "pp_chart2table": Type(
        config={"vision_config": SAM_256},
        pixels={"size": {"height": 128, "width": 128}},
        image="<imgpad>" * 256,
        special=("<imgpad>",),
        ids={"image_token": "<imgpad>"},
    ),
    "qwen2_5_omni_thinker": Type(
        config={"text_config": {"rope_parameters": ROPE}, "vision_start_token_id": 5},
        processor="Qwen2_5OmniProcessor",
        image_processor="Qwen2VLImageProcessorPil",
        audio="WhisperFeatureExtractor",
    ),
    "qwen3_omni_moe_thinker": Type(
        config={"text_config": {"rope_parameters": ROPE}, "vision_start_token_id": 5},
        processor="Qwen3OmniMoeProcessor",
        image_processor="Qwen2VLImageProcessorPil",
        audio="WhisperFeatureExtractor",
    ),
    "qwen2_vl": Type(config={"text_config": {"rope_parameters": ROPE}}),
    "t5gemma2": Type(arguments={"image_seq_length": 4}, ids={"image_token": "<image_token>"}, encoder_decoder=True),
    "vipllava": Type(
        config={"vision_feature_layer": [-1, -2]}, arguments={"vision_feature_select_strategy": "default"}
    ),
    "deepseek_ocr2": Type(
        config={
            "text_config": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "num_experts_per_tok": 2},
            "vision_config": {"sam_config": SAM_256 | {"downsample_channels": [32, 64]}},
        },
        pixels={"size": {"height": 128, "width": 128}, "tile_size": 96},
    ),
    "emu3": Type(
        config={
            "vocabulary_map": {f"<|visual token {i:06d}|>": 400 + i for i in range(CODES)}
            | {"<image>": 0, "<|extra_200|>": 1},
            "vq_config": {"hidden_size": 128},
        },
        pixels={"min_pixels": 1024, "max_pixels": 1024, "size": {"min_pixels": 1024, "max_pixels": 1024}},
    ),
    "kosmos-2": Type(
        processor="Kosmos2Processor",
        image_processor="CLIPImageProcessorPil",
        image="",
        plain=True,
        special=("<unk>",),
        tokens={"unk_token": "<unk>"},
        config={"latent_query_num": 64},
    ),
    "ovis2": Type(
        special=("<IMG_START>", "<IMG_ATOM>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"),
        arguments={"image_seq_length": 16},
        ids={"image_token": "<IMG_ATOM>"},
        id_lists={"visual_indicator_token_ids": ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")},
    ),
    "git": Type(plain=True),
    "mistral3": Type(),
    "cohere2_vision": Type(pixels={"patch_size": 2}),
    "gemma4_unified": Type(defaults={"vision_config": {"model_type": "gemma4_unified_vision"}}),
    "kimi_k25": Type(config={"text_config": {"num_key_value_heads": 4}}),
    "mistral_large4": Type(config={"text_config": {"num_key_value_heads": 4}}),
    "lfm2_vl": Type(
        pixels={
            "encoder_patch_size": 8,
            "max_num_patches": 16,
            "tile_size": 32,
            "max_image_tokens": 4,
            "min_image_tokens": 4,
        }
    ),
    "muse_glimmer": Type(config={"out_hidden_size": 256}),
    "muse_spark": Type(
        config={"out_hidden_size": 256, "audio_config": {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 16, 16]}}
    ),
    "unlimited_ocr": Type(
        config={"vision_config": {"sam_config": {"downsample_channels": [32, 64], "image_size": 128, "patch_size": 8}}},
        pixels={"size": {"height": 128, "width": 128}},
    ),
    "dots3_note": Type(
        config={"text_config": {"num_key_value_heads": 4}, "vision_config": {"pyramid_num_routed": [0, 0, 4, 4]}},
        pixels={"temporal_patch_size": 1},
    ),
    "idefics": Type(tokens={"image_token": "<image>"}, image="", plain=True),
    "molmo2": Type(
        config={"adapter_config": {"vision_feature_layer": [3, 1]}},
        pixels={"overlap_margins": [1, 1]},
        ids={"image_patch": "<im_patch>"},
    ),
    "nemotron_h_omni": Type(
        config={"vision_config": {"video_temporal_patch_size": 2, "patch_dim": 192, "video_patch_dim": 384}},
        image_processor="NemotronH_Omni_Reasoning_V3ImageProcessor",
        audio="ParakeetFeatureExtractor",
    ),
    "step3p7": Type(
        config={"vision_config": {"patch_size": 14, "image_size": 56}, "text_config": {"sliding_window": 8}},
        pixels={"size": {"height": 56, "width": 56}, "patch_size": 56},
    ),
    "llama4": Type(config={"vision_config": {"intermediate_size": 256}}, ids={"image_token": "<|patch|>"}),
    "kosmos-2.5": Type(
        config={"vision_config": {"patch_embed_hidden_size": 768, "max_num_patches": 4096}},
        processor="Kosmos2_5Processor",
        image_processor="Kosmos2_5ImageProcessorPil",
        arguments={"num_image_tokens": 4},
        image="",
        plain=True,
    ),
}
