"""Transformers: networks of two layers or so, from each architecture's own configuration made small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

from architectures.case import Case, Cases, Inputs, fresh, images

VOCABULARY, LENGTH = 120, 16
FIRST = 5
"""Words below are left out of the inputs: they pad, begin and end a text."""
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
DECODER = {**TEXT, "use_cache": False, "max_position_embeddings": 64}
GROUPED = {**DECODER, "num_key_value_heads": 2}
PICTURE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
PYRAMID = {"num_channels": 3, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 2}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}


def words(batch: int, mask: bool = True) -> dict[str, Tensor]:
    """A batch of texts, all but the first of which end early."""
    found = {"input_ids": torch.randint(FIRST, VOCABULARY, (batch, LENGTH))}
    if mask:
        found["attention_mask"] = (torch.arange(LENGTH) < LENGTH - 4 * torch.arange(batch)[:, None]).long()
    return found


def unmasked(batch: int) -> dict[str, Tensor]:
    """A batch of texts of one length."""
    return words(batch, mask=False)


def translation(batch: int) -> dict[str, Tensor]:
    """Texts, and how their translations begin."""
    return {**words(batch), "decoder_input_ids": torch.randint(FIRST, VOCABULARY, (batch, 6))}


def pictures(side: int) -> Callable[[int], dict[str, Tensor]]:
    """A batch of images of this side."""
    return lambda batch: {"pixel_values": images(batch, side)}


def hidden_patches(batch: int) -> dict[str, Tensor]:
    """Images, and numbers that tell which of their parts are hidden."""
    return {"pixel_values": images(batch, 32), "noise": torch.rand(batch, 16)}


def captioned(batch: int) -> dict[str, Tensor]:
    """Images, each with a text; a text ends with the word that means so."""
    return {**words(batch), "pixel_values": images(batch, 32)}


def sound(batch: int) -> dict[str, Tensor]:
    """Sound waves, the last of which ends early."""
    mask = torch.ones(batch, 1600, dtype=torch.long)
    mask[-1, 1200:] = 0
    return {"input_values": torch.randn(batch, 1600), "attention_mask": mask}


def spectrum(batch: int) -> dict[str, Tensor]:
    """Spectrograms, and how what is said begins."""
    return {"input_features": torch.randn(batch, 20, 64), "decoder_input_ids": torch.randint(FIRST, 60, (batch, 6))}


def spectrogram(batch: int) -> dict[str, Tensor]:
    """Spectrograms to tell the kind of."""
    return {"input_values": torch.randn(batch, 64, 32)}


def network(
    kind: str, config: str, settings: dict[str, Any], inputs: Callable[[int], dict[str, Tensor]], task: str
) -> Callable[[], Case]:
    """What makes the case of class `kind`, from `config` with these settings."""

    def case() -> Case:
        transformers.logging.set_verbosity_error()
        model = fresh(lambda: getattr(transformers, kind)(getattr(transformers, config)(**settings)))
        more = {"use_cache": False} if "use_cache" in settings else {}
        return Case(model, (), {**inputs(2), **more}, Inputs((), {**inputs(3), **more}), task)

    return case


def reader(name: str, kind: str = "ForSequenceClassification", **more: Any) -> Callable[[], Case]:
    """A network that reads a text."""
    return network(name + kind, f"{name}Config", {**TEXT, **more}, words, "text encoder")


def writer(name: str, base: dict[str, Any] | None = None, kind: str = "ForCausalLM", **more: Any) -> Callable[[], Case]:
    """A network that goes on with a text."""
    return network(name + kind, f"{name}Config", {**(base or GROUPED), **more}, words, "text decoder")


def viewer(name: str, side: int = 32, kind: str = "ForImageClassification", **settings: Any) -> Callable[[], Case]:
    """A network that looks at images."""
    return network(name + kind, f"{name}Config", settings, pictures(side), "vision")


READERS: Cases = {
    "bert": reader("Bert"),
    "roberta": reader("Roberta"),
    "distilbert": reader("DistilBert", dim=64, n_layers=2, n_heads=4, hidden_dim=128),
    "albert": reader("Albert", embedding_size=32),
    "electra": reader("Electra", embedding_size=32),
    "deberta_v2": reader("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8),
    "mpnet": reader("MPNet"),
    "mobilebert": reader(
        "MobileBert", embedding_size=32, true_hidden_size=32, intra_bottleneck_size=32, num_feedforward_networks=2
    ),
    "modernbert": reader("ModernBert", cls_token_id=2, sep_token_id=3, global_attn_every_n_layers=2),
    "camembert_masked": reader("Camembert", "ForMaskedLM"),
    "squeezebert": reader("SqueezeBert", embedding_size=64),
    "fnet": network("FNetForSequenceClassification", "FNetConfig", TEXT, unmasked, "text encoder"),
    "xlm_roberta_tokens": reader("XLMRoberta", "ForTokenClassification"),
    "funnel": network(
        "FunnelForSequenceClassification",
        "FunnelConfig",
        {"vocab_size": VOCABULARY, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 64}
        | {"n_head": 4, "d_head": 16, "d_inner": 128},
        words,
        "text encoder",
    ),
}

WRITERS: Cases = {
    "gpt2": writer("GPT2", DECODER, "LMHeadModel", n_embd=64, n_layer=2, n_head=4, n_positions=64),
    "gpt_neo": writer("GPTNeo", DECODER, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]),
    "gpt_neox": writer("GPTNeoX", DECODER),
    "gptj": writer("GPTJ", DECODER, n_embd=64, n_layer=2, n_head=4, n_positions=64, rotary_dim=8),
    "opt": writer("OPT", DECODER, ffn_dim=128, word_embed_proj_dim=64),
    "bloom": writer("Bloom", DECODER, n_layer=2, n_head=4),
    "falcon": writer("Falcon", DECODER, multi_query=True, new_decoder_architecture=False),
    "llama": writer("Llama"),
    "mistral": writer("Mistral", sliding_window=8),
    "qwen2": writer("Qwen2"),
    "qwen3": writer("Qwen3", head_dim=16),
    "gemma2": writer("Gemma2", head_dim=16, sliding_window=8),
    "phi": writer("Phi", partial_rotary_factor=0.5),
    "phi3": writer("Phi3"),
    "stablelm": writer("StableLm"),
    "cohere": writer("Cohere"),
    "olmo2": writer("Olmo2"),
    "mixtral": writer("Mixtral", num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": writer("Qwen2Moe", num_experts=4, shared_expert_intermediate_size=64, **EXPERTS),
    "qwen3_moe": writer("Qwen3Moe", num_experts=4, head_dim=16, **EXPERTS),
    "mamba": writer("Mamba", TEXT | {"use_cache": False}, state_size=8),
    "mamba2": writer(
        "Mamba2", TEXT | {"use_cache": False}, state_size=16, num_heads=8, head_dim=16, n_groups=2, chunk_size=8
    ),
}

TRANSLATOR = {
    **{key: TEXT[key] for key in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")},
    "use_cache": False,
    "decoder_start_token_id": 2,
}
LAYERS = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
}
RELATIVE = {**TRANSLATOR, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}

TRANSLATORS: Cases = {
    "t5": network("T5ForConditionalGeneration", "T5Config", RELATIVE, translation, "encoder-decoder"),
    "t5_gated": network("MT5ForConditionalGeneration", "MT5Config", RELATIVE, translation, "encoder-decoder"),
    "bart": network(
        "BartForConditionalGeneration", "BartConfig", {**TRANSLATOR, **LAYERS}, translation, "encoder-decoder"
    ),
    "marian": network(
        "MarianMTModel",
        "MarianConfig",
        {**TRANSLATOR, **LAYERS, "max_position_embeddings": 64},
        translation,
        "encoder-decoder",
    ),
    "pegasus": network(
        "PegasusForConditionalGeneration",
        "PegasusConfig",
        {**TRANSLATOR, **LAYERS, "max_position_embeddings": 64},
        translation,
        "encoder-decoder",
    ),
    "whisper": network(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {**TRANSLATOR, **LAYERS, "num_mel_bins": 20, "max_source_positions": 32, "max_target_positions": 16},
        spectrum,
        "speech",
    ),
}

SEGFORMER = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [16, 32, 48, 64],
    "num_attention_heads": [1, 2, 2, 4],
    "decoder_hidden_size": 32,
}
MASKED = {
    **PICTURE,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 64,
}
DETR = {**LAYERS, "num_queries": 8, "use_timm_backbone": False, "use_pretrained_backbone": False}


def small_resnet(stages: list[str]) -> Any:
    """The configuration of a small backbone."""
    return transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[32, 64, 64, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=stages,
    )


def small_rt_resnet() -> Any:
    """The configuration of a small backbone of RT-DETR."""
    return transformers.RTDetrResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 48, 64, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def rt_detr() -> Case:
    """A detector with a deformable decoder."""
    settings = {
        "backbone_config": small_rt_resnet(),
        "encoder_hidden_dim": 32,
        "encoder_in_channels": [48, 64, 128],
        "encoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "decoder_in_channels": [32, 32, 32],
        "decoder_ffn_dim": 64,
        "decoder_attention_heads": 4,
        "decoder_layers": 2,
        "d_model": 32,
        "num_queries": 10,
    }
    return network("RTDetrForObjectDetection", "RTDetrConfig", settings, pictures(64), "detection")()


def detr() -> Case:
    """A detector that asks by learned queries."""
    settings = {**DETR, "backbone_config": small_resnet(["stage4"])}
    return network("DetrForObjectDetection", "DetrConfig", settings, pictures(64), "detection")()


def upernet() -> Case:
    """A segmenter on a ConvNeXt."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = transformers.ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], out_features=stages)
    settings = {"backbone_config": backbone, "hidden_size": 32, "auxiliary_in_channels": 48, "auxiliary_channels": 16}
    return network("UperNetForSemanticSegmentation", "UperNetConfig", settings, pictures(64), "segmentation")()


VIEWERS: Cases = {
    "vit": viewer("ViT", **PICTURE),
    "deit": viewer("DeiT", **PICTURE),
    "beit": viewer("Beit", **PICTURE, use_relative_position_bias=True, layer_scale_init_value=0.1),
    "dinov2": viewer("Dinov2", **PICTURE),
    "vit_mae": network("ViTMAEForPreTraining", "ViTMAEConfig", MASKED, hidden_patches, "vision"),
    "swin": viewer("Swin", **PYRAMID, image_size=32, patch_size=4),
    "swinv2": viewer("Swinv2", **PYRAMID, image_size=32, patch_size=4),
    "segformer": viewer("Segformer", 64, "ForSemanticSegmentation", **SEGFORMER),
    "pvt_v2": viewer("PvtV2", 64, image_size=64, hidden_sizes=[16, 32, 40, 64], depths=[1, 1, 1, 1]),
    "dpt": viewer(
        "DPT",
        32,
        "ForSemanticSegmentation",
        **PICTURE | {"num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 32, 32, 32],
        fusion_hidden_size=16,
    ),
    "detr": detr,
    "rt_detr": rt_detr,
    "upernet": upernet,
    "yolos": viewer("Yolos", 32, "ForObjectDetection", **PICTURE | {"image_size": [32, 32]}, num_detection_tokens=8),
    "resnet": viewer("ResNet", 64, embedding_size=16, hidden_sizes=[32, 64, 64, 128], depths=[1, 1, 1, 1]),
    "convnext": viewer("ConvNext", 64, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "convnextv2": viewer("ConvNextV2", 64, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "mobilevit": viewer(
        "MobileViT",
        64,
        image_size=64,
        hidden_sizes=[24, 32, 40],
        neck_hidden_sizes=[8, 16, 16, 24, 32, 40, 80],
        num_attention_heads=4,
    ),
    "mobilenet_v2": viewer("MobileNetV2", 64),
    "poolformer": viewer("PoolFormer", 64, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1]),
    "levit": viewer("Levit", 64, image_size=64, hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4]),
    "efficientnet": viewer("EfficientNet", 64, image_size=64, width_coefficient=0.5, hidden_dim=640),
    "regnet": viewer("RegNet", 64, embedding_size=16, hidden_sizes=[32, 48, 64, 96], depths=[1] * 4, groups_width=8),
}

WAVES = {
    **{key: TEXT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
    "conv_dim": [32, 32, 32],
    "conv_stride": [5, 2, 2],
    "conv_kernel": [10, 3, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}

LISTENERS: Cases = {
    "wav2vec2": network("Wav2Vec2ForCTC", "Wav2Vec2Config", WAVES, sound, "speech"),
    "hubert": network("HubertForSequenceClassification", "HubertConfig", WAVES, sound, "audio"),
    "wavlm": network("WavLMForCTC", "WavLMConfig", WAVES, sound, "speech"),
    "ast": network(
        "ASTForAudioClassification",
        "ASTConfig",
        {**{key: PICTURE[key] for key in PICTURE if key not in ("image_size", "patch_size")}, "max_length": 64}
        | {"num_mel_bins": 32, "patch_size": 8, "frequency_stride": 8, "time_stride": 8},
        spectrogram,
        "audio",
    ),
}


def paired(name: str, kind: str, more: dict[str, Any] | None = None) -> Callable[[], Case]:
    """A network that looks at an image and reads a text."""
    settings = {"text_config": {**TEXT, "max_position_embeddings": 64}, "vision_config": PICTURE, **(more or {})}
    return network(name + kind, f"{name}Config", settings, captioned, "multimodal")


PAIRED: Cases = {
    "clip": paired("CLIP", "Model", {"projection_dim": 32}),
    "siglip": paired("Siglip", "Model"),
    "blip": paired("Blip", "ForConditionalGeneration", {"projection_dim": 32}),
    "chinese_clip": paired("ChineseCLIP", "Model", {"projection_dim": 32}),
    "vilt": network(
        "ViltForQuestionAnswering", "ViltConfig", {**TEXT, **PICTURE, "num_labels": 3}, captioned, "multimodal"
    ),
}

CASES: Cases = {**READERS, **WRITERS, **TRANSLATORS, **VIEWERS, **LISTENERS, **PAIRED}
