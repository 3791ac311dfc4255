"""A tiny Wan2.2-S2V of the published classes, with random weights, saved to disk as the real one and Wan2.1 for diffusers are."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from avatar_core.models import wan_s2v

CONFIG = {
    "dim": 24, "in_dim": 16, "ffn_dim": 32, "out_dim": 16, "freq_dim": 16, "eps": 1e-6, "num_heads": 2, "num_layers": 2,
    "cond_dim": 16, "audio_dim": 16, "num_audio_token": 4, "enable_adain": True, "audio_inject_layers": [0, 1],
    "framepack_drop_mode": "padd",
}  # fmt: skip
TEXT = 16


def save_tiny_wan_s2v(folder: Path, parts: Path) -> None:
    """The denoiser and its listener into `folder`; autoencoder and text encoder into `parts`."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
    from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel, Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
    listener = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            hidden_size=16, num_hidden_layers=24, num_attention_heads=2, intermediate_size=16, conv_dim=(16,) * 7, vocab_size=33,
            conv_bias=True, do_stable_layer_norm=True, feat_extract_norm="layer", num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        )
    )  # fmt: skip
    listener.save_pretrained(folder / "wav2vec2-large-xlsr-53-english")
    denoiser = wan_s2v.load_class()(**CONFIG, text_dim=TEXT, patch_size=(1, 2, 2))
    tensors = {name: value.contiguous() for name, value in denoiser.state_dict().items()}
    names = sorted(tensors)
    shards = {f"diffusion_pytorch_model-0000{k + 1}-of-00002.safetensors": names[k::2] for k in range(2)}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    fixed = dict.fromkeys(wan_s2v.FIXED, True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanModel_S2V", **CONFIG, **fixed}))

    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    words += [(chr(c), -3.0) for c in range(33, 127)]
    encoder = UMT5EncoderModel(
        UMT5Config(d_model=TEXT, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=len(words))
    )
    vae = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    tokenizer = T5Tokenizer(vocab=words, extra_ids=0)
    WanPipeline(tokenizer, encoder, vae, FlowMatchEulerDiscreteScheduler()).save_pretrained(parts)
    index = json.loads(
        (parts / "model_index.json").read_text()
    )  # the real one has a denoiser, which nobody fetches
    index["transformer"] = ["diffusers", "WanTransformer3DModel"]
    (parts / "model_index.json").write_text(json.dumps(index))
