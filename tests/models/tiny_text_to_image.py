"""Tiny pipelines of the published classes, with random weights, saved to disk as the real ones are."""

from __future__ import annotations

from pathlib import Path

import torch

BYTES = "".join(chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256)))
TURN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _words() -> dict[str, int]:
    """Byte-level vocabulary: what stands for each byte, and no merges."""
    others = [chr(256 + k) for k in range(256 - len(BYTES))]
    return {letter: k for k, letter in enumerate([*BYTES, *others])}


def qwen_tokenizer():
    from transformers import Qwen2Tokenizer

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = _words() | {name: 256 + k for k, name in enumerate(specials)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], chat_template=TURN)
    tokenizer.add_special_tokens({"additional_special_tokens": specials[1:]})
    return tokenizer


def clip_tokenizer():
    from transformers import CLIPTokenizer

    words = _words()
    vocabulary = words | {f"{w}</w>": 256 + k for w, k in words.items()}
    vocabulary |= {"<|startoftext|>": 512, "<|endoftext|>": 513}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def flow_scheduler():
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler()


def qwen3(cls):
    from transformers import Qwen3Config

    return cls(
        Qwen3Config(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            vocab_size=300, max_position_embeddings=1024, head_dim=8,
        )
    )  # fmt: skip


def z_image():
    from diffusers import AutoencoderKL, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Model

    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=16, rope_theta=256.0, t_scale=1000.0, axes_dims=[8, 4, 4], axes_lens=[1536, 512, 512],
    )  # fmt: skip
    with torch.no_grad():  # made by torch.empty
        transformer.x_pad_token.fill_(1.0)
        transformer.cap_pad_token.fill_(1.0)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[32, 64], layers_per_block=1, latent_channels=16, norm_num_groups=32, sample_size=32,
        scaling_factor=0.3611, shift_factor=0.1159,
    )  # fmt: skip
    return ZImagePipeline(flow_scheduler(), vae, qwen3(Qwen3Model), qwen_tokenizer(), transformer)


def flux2_klein():
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    transformer = Flux2Transformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=256, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=False,
    )  # fmt: skip
    # the pipeline joins the states after layers 9, 18 and 27
    encoder = Qwen3ForCausalLM(
        Qwen3Config(
            hidden_size=16, intermediate_size=16, num_hidden_layers=28, num_attention_heads=2, num_key_value_heads=2,
            vocab_size=300, max_position_embeddings=1024, head_dim=8,
        )
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        sample_size=32, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4, layers_per_block=1, latent_channels=1, norm_num_groups=1, use_quant_conv=False,
        use_post_quant_conv=False,
    )  # fmt: skip
    return Flux2KleinPipeline(flow_scheduler(), vae, encoder, qwen_tokenizer(), transformer)


def qwen_image():
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=16, guidance_embeds=False, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "rope_scaling": rope, "rope_theta": 1e6, "vocab_size": 300,
        },
        vision_config={"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
        hidden_size=16, vocab_size=300, vision_end_token_id=290, vision_start_token_id=291, vision_token_id=292,
    )  # fmt: skip
    encoder = Qwen2_5_VLForConditionalGeneration(config)
    return QwenImagePipeline(flow_scheduler(), vae, encoder, qwen_tokenizer(), transformer)


def sdxl():
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    unet = UNet2DConditionModel(
        block_out_channels=(2, 4), layers_per_block=1, sample_size=32, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80, cross_attention_dim=64, norm_num_groups=1,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=[32, 64], down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4, sample_size=128,
    )  # fmt: skip
    config = CLIPTextConfig(
        bos_token_id=512, eos_token_id=513, pad_token_id=513, hidden_size=32, intermediate_size=37, num_attention_heads=4,
        num_hidden_layers=3, vocab_size=514, projection_dim=32, max_position_embeddings=77,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return StableDiffusionXLPipeline(
        vae, CLIPTextModel(config), CLIPTextModelWithProjection(config), clip_tokenizer(), clip_tokenizer(), unet, scheduler
    )  # fmt: skip


TINY = {"z-image-turbo": z_image, "flux2-klein": flux2_klein, "qwen-image": qwen_image, "sdxl": sdxl}


def save_tiny(preset: str, folder: Path) -> Path:
    """The tiny model of a preset, made from seed 0."""
    torch.manual_seed(0)
    TINY[preset]().save_pretrained(folder, safe_serialization=True)
    return folder
