"""Tiny random configs of transformers' model classes: a class, its sizes, what a batch of it is made of."""

from __future__ import annotations

from typing import Any, NamedTuple

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {
    **GROUPED,
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 16,
}
LATENT = {
    **EXPERTS,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
IMAGE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 8,
    "patch_size": 4,
    "num_labels": 3,
}
SEQ2SEQ = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
SPEECH = {
    **{k: v for k, v in COMMON.items() if k != "max_position_embeddings"},
    "conv_dim": [16, 16],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
STATES = {"state_size": 4, "conv_kernel": 4, "expand": 2, "time_step_rank": 4}
TOWERS = {
    "text_config": COMMON | {"projection_dim": 16, "eos_token_id": 63},
    "vision_config": IMAGE | {"projection_dim": 16},
    "projection_dim": 16,
}
LLAMA = COMMON | GROUPED


class Kind(NamedTuple):
    """A class of models.

    Attributes:
        name: of the class, in transformers.
        inputs: "text", "seq2seq", "image", "speech", "features", "pair" or "prompt".
        options: of its config.
    """

    name: str
    inputs: str
    options: dict[str, Any]


KINDS = [
    Kind("BertForSequenceClassification", "text", COMMON),
    Kind("BertForMaskedLM", "text", COMMON),
    Kind("RobertaForMaskedLM", "text", COMMON),
    Kind("XLMRobertaModel", "text", COMMON),
    Kind(
        "DistilBertForMaskedLM",
        "text",
        {"vocab_size": 64, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    ),
    Kind("ElectraForMaskedLM", "text", COMMON | {"embedding_size": 32}),
    Kind("AlbertForMaskedLM", "text", COMMON | {"embedding_size": 16}),
    Kind("DebertaForMaskedLM", "text", COMMON | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    Kind(
        "DebertaV2ForMaskedLM", "text", COMMON | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    ),
    Kind("MPNetForMaskedLM", "text", COMMON),
    Kind("ModernBertForMaskedLM", "text", COMMON | {"local_attention": 8}),
    Kind("LongformerForMaskedLM", "text", COMMON | {"attention_window": 4}),
    Kind("RoFormerForMaskedLM", "text", COMMON | {"embedding_size": 32}),
    Kind(
        "XLNetLMHeadModel",
        "text",
        {"vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    ),
    Kind("FNetForMaskedLM", "text", COMMON),
    Kind(
        "NystromformerForMaskedLM",
        "text",
        COMMON | {"num_landmarks": 8, "segment_means_seq_len": 8},
    ),
    Kind("LayoutLMForMaskedLM", "text", COMMON),
    Kind("ConvBertForMaskedLM", "text", COMMON | {"embedding_size": 32}),
    Kind("GPT2LMHeadModel", "text", COMMON),
    Kind(
        "GPTNeoForCausalLM", "text", COMMON | {"num_layers": 2, "attention_types": [[["global", "local"], 1]]}
    ),
    Kind("GPTNeoXForCausalLM", "text", COMMON),
    Kind("GPTJForCausalLM", "text", COMMON | {"rotary_dim": 4}),
    Kind("GPTBigCodeForCausalLM", "text", COMMON),
    Kind("OPTForCausalLM", "text", COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    Kind("BloomForCausalLM", "text", COMMON),
    Kind("FalconForCausalLM", "text", COMMON),
    Kind(
        "MptForCausalLM",
        "text",
        {"vocab_size": 64, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    ),
    Kind("CodeGenForCausalLM", "text", COMMON | {"rotary_dim": 4}),
    Kind("LlamaForCausalLM", "text", LLAMA),
    Kind("MistralForCausalLM", "text", LLAMA),
    Kind("Qwen2ForCausalLM", "text", LLAMA),
    Kind("Qwen3ForCausalLM", "text", LLAMA),
    Kind("GemmaForCausalLM", "text", LLAMA),
    Kind("Gemma2ForCausalLM", "text", LLAMA),
    Kind("Gemma3ForCausalLM", "text", LLAMA),
    Kind("PhiForCausalLM", "text", COMMON),
    Kind("Phi3ForCausalLM", "text", LLAMA),
    Kind("CohereForCausalLM", "text", LLAMA),
    Kind("Cohere2ForCausalLM", "text", LLAMA),
    Kind("OlmoForCausalLM", "text", LLAMA),
    Kind("Olmo2ForCausalLM", "text", LLAMA),
    Kind("StableLmForCausalLM", "text", LLAMA),
    Kind("Starcoder2ForCausalLM", "text", LLAMA),
    Kind("GraniteForCausalLM", "text", LLAMA),
    Kind("GlmForCausalLM", "text", LLAMA),
    Kind("NemotronForCausalLM", "text", LLAMA),
    Kind("SmolLM3ForCausalLM", "text", LLAMA),
    Kind("DiffLlamaForCausalLM", "text", LLAMA),
    Kind("PersimmonForCausalLM", "text", COMMON),
    Kind("MixtralForCausalLM", "text", COMMON | EXPERTS),
    Kind("Qwen2MoeForCausalLM", "text", COMMON | EXPERTS),
    Kind("Qwen3MoeForCausalLM", "text", COMMON | EXPERTS),
    Kind("OlmoeForCausalLM", "text", COMMON | EXPERTS),
    Kind("PhimoeForCausalLM", "text", COMMON | EXPERTS),
    Kind("GraniteMoeForCausalLM", "text", COMMON | EXPERTS),
    Kind("GptOssForCausalLM", "text", COMMON | EXPERTS),
    Kind("DeepseekV2ForCausalLM", "text", COMMON | LATENT),
    Kind("DeepseekV3ForCausalLM", "text", COMMON | LATENT),
    Kind("MambaForCausalLM", "text", COMMON | STATES),
    Kind(
        "Mamba2ForCausalLM",
        "text",
        COMMON | STATES | {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4},
    ),
    Kind("FalconMambaForCausalLM", "text", COMMON | STATES),
    Kind("RwkvForCausalLM", "text", COMMON | {"attention_hidden_size": 32, "context_length": 64}),
    Kind(
        "RecurrentGemmaForCausalLM",
        "text",
        LLAMA | {"lru_width": 32, "block_types": ["recurrent", "attention"], "attention_window_size": 16},
    ),
    Kind(
        "JambaForCausalLM",
        "text",
        COMMON
        | EXPERTS
        | {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "use_mamba_kernels": False,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
    ),
    Kind("T5ForConditionalGeneration", "seq2seq", T5),
    Kind("MT5ForConditionalGeneration", "seq2seq", T5),
    Kind("UMT5ForConditionalGeneration", "seq2seq", T5),
    Kind("LongT5ForConditionalGeneration", "seq2seq", T5 | {"local_radius": 3}),
    Kind(
        "SwitchTransformersForConditionalGeneration",
        "seq2seq",
        T5
        | {
            "num_experts": 4,
            "expert_capacity": 64,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
        },
    ),
    Kind("BartForConditionalGeneration", "seq2seq", SEQ2SEQ),
    Kind("MBartForConditionalGeneration", "seq2seq", SEQ2SEQ),
    Kind("MarianMTModel", "seq2seq", SEQ2SEQ),
    Kind("PegasusForConditionalGeneration", "seq2seq", SEQ2SEQ),
    Kind("BlenderbotForConditionalGeneration", "seq2seq", SEQ2SEQ),
    Kind("M2M100ForConditionalGeneration", "seq2seq", SEQ2SEQ),
    Kind(
        "LEDForConditionalGeneration",
        "seq2seq",
        SEQ2SEQ
        | {
            "attention_window": 4,
            "max_encoder_position_embeddings": 64,
            "max_decoder_position_embeddings": 64,
        },
    ),
    Kind(
        "WhisperForConditionalGeneration",
        "features",
        SEQ2SEQ
        | {
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 32,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
    ),
    Kind("Wav2Vec2ForCTC", "speech", SPEECH),
    Kind("HubertForCTC", "speech", SPEECH),
    Kind("WavLMForCTC", "speech", SPEECH),
    Kind("ViTForImageClassification", "image", IMAGE),
    Kind("DeiTForImageClassification", "image", IMAGE),
    Kind("BeitForImageClassification", "image", IMAGE | {"use_relative_position_bias": True}),
    Kind("Dinov2ForImageClassification", "image", IMAGE),
    Kind("Dinov2WithRegistersForImageClassification", "image", IMAGE),
    Kind(
        "SwinForImageClassification",
        "image",
        {
            "image_size": 16,
            "patch_size": 2,
            "embed_dim": 8,
            "depths": [2, 1],
            "num_heads": [2, 4],
            "window_size": 2,
            "num_labels": 3,
        },
    ),
    Kind(
        "ResNetForImageClassification",
        "image",
        {
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "num_labels": 3,
            "layer_type": "basic",
        },
    ),
    Kind(
        "ConvNextForImageClassification",
        "image",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "num_labels": 3},
    ),
    Kind("CLIPVisionModel", "image", IMAGE),
    Kind(
        "SegformerForImageClassification",
        "image",
        {
            "hidden_sizes": [8, 16, 16, 16],
            "num_attention_heads": [1, 2, 2, 2],
            "depths": [1, 1, 1, 1],
            "decoder_hidden_size": 16,
            "num_labels": 3,
        },
    ),
    Kind("CLIPModel", "pair", TOWERS),
    Kind("SiglipModel", "pair", TOWERS),
    Kind(
        "LlavaForConditionalGeneration",
        "prompt",
        {"text_config": LLAMA, "vision_config": IMAGE, "image_token_index": 63, "vision_feature_layer": -1},
    ),
    Kind(
        "PaliGemmaForConditionalGeneration",
        "text",
        {
            "text_config": LLAMA | {"model_type": "gemma"},
            "vision_config": IMAGE | {"model_type": "siglip_vision_model", "projection_dim": 32},
            "image_token_index": 63,
            "projection_dim": 32,
            "hidden_size": 32,
        },
    ),
    Kind(
        "Qwen2VLForConditionalGeneration",
        "text",
        {
            "text_config": LLAMA | {"rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}},
            "vision_config": {
                "depth": 1,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 4,
                "patch_size": 4,
                "mlp_ratio": 2,
            },
        },
    ),
    Kind(
        "Qwen2_5_VLForConditionalGeneration",
        "text",
        {
            "text_config": LLAMA | {"rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}},
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 4,
                "out_hidden_size": 32,
                "patch_size": 4,
                "fullatt_block_indexes": [0],
            },
        },
    ),
]
