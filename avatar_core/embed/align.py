"""Training E_X, its decoder and the audio-particle embedding together: motion is coded so that sound and motion agree.

The linear bases of the codec stay (`embed.codec_fit`); what is trained are the residual networks on either side of the latents,
the embedding's two encoders, and its temperature. Loss: L_sim of frames and patches, which reaches E_X, and the share of
the particles' motion that is lost on the way through the latents, which keeps E_X from coding what is heard and nothing else.

Source: paper section "Audio-Particle Motion Embedding". Not the default: see docs/paper.md.

Shapes: B windows, W frames a window, T frames, D latents, C coefficients of the bases (`MotionCodec.coefficients`), M features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from avatar_core import ranks
from avatar_core.audio.backends import AudioFeatures
from avatar_core.audio.mel import CLEAN
from avatar_core.device import CPU, Compute
from avatar_core.embed.batches import Batches, LatentClip, some_clips
from avatar_core.embed.codec import DECODED, MotionCodec
from avatar_core.embed.config import AlignedConfig, BatchConfig, ContrastiveConfig
from avatar_core.embed.contrastive import Embedding, embedding_loss
from avatar_core.progress import Progress, silent
from avatar_core.training.ahead import Ahead
from avatar_core.training.loop import History, Loop, one_thread, run_loop
from avatar_core.training.state import fingerprint_of


class Aligned(nn.Module):
    """What is trained: the embedding, and the codec's networks of some regions."""

    def __init__(self, embedding: Embedding, codec: MotionCodec, regions: Sequence[str]) -> None:
        super().__init__()
        self.embedding = embedding
        parts = [codec.region(region) for region in regions]
        self.encoders = nn.ModuleList([part.encoder_residual for part in parts])
        self.decoders = nn.ModuleList([part.decoder_residual for part in parts])


def train_aligned(
    clips: Sequence[LatentClip],
    codec: MotionCodec,
    config: ContrastiveConfig,
    aligned: AlignedConfig,
    audio: AudioFeatures = CLEAN,
    checkpoint_dir: Path | None = None,
    progress: Progress = silent,
    compute: Compute = CPU,
) -> tuple[Embedding, MotionCodec, History]:
    """Train on clips whose x are coefficients (T,C); the codec in place. Returns the averages and the losses of every step.

    One thread, resumable. Locked by test_the_embedding_shapes_the_latents, test_embedding_resumes_exactly.
    """
    torch.manual_seed(config.seed)
    rng = torch.Generator().manual_seed(config.seed + 1)
    batches = Batches(clips, codec, BatchConfig(batch=config.batch, window=config.window, silence=0.0), audio)
    with torch.device("cpu"):
        embedding = Embedding(config)
    embedding.trunk.fit_normalisation(c.audio for c in some_clips(clips))
    # Not the head's: the body's motion is coded as what the head's latents leave of it.
    model = Aligned(embedding, codec, [r for r in DECODED if any(clip.visible[r] for clip in clips)])
    mark = fingerprint_of(
        config,
        aligned,
        arrays=[*(c.x for c in clips), *(v.numpy() for v in model.encoders.state_dict().values())],
    )
    codec.to(compute.device)
    model.to(compute.device)
    masks = batches.latent_masks.to(compute.device)

    def draw(rng: torch.Generator) -> tuple[Tensor, ...]:
        features, coefficients, weight, visibility_id, _ = batches.draw(rng)
        return audio.augment(features, rng), coefficients, weight, visibility_id

    def losses() -> dict[str, Tensor]:
        with ranks.share(*drawn()) as part:
            features, coefficients, weight, visibility_id = compute.put(*part)
            shown = masks[visibility_id]
            sim, lost = alignment_loss(embedding, codec, features, coefficients, weight, shown, compute)
            return {"loss": sim + aligned.reconstruction * lost, "sim": sim, "lost": lost}

    with one_thread(), Ahead(draw, rng, compute.ahead) as drawn:
        history = run_loop(
            Loop("embed", config.steps, config.learning_rate, config.ema, config.checkpoint_every),
            model,
            compute.adamw(model.parameters(), lr=config.learning_rate, weight_decay=0.05),
            rng,
            losses,
            fingerprint=mark,
            checkpoint_dir=checkpoint_dir,
            progress=progress,
        )
    return embedding.eval(), codec.eval(), history


def alignment_loss(
    embedding: Embedding,
    codec: MotionCodec,
    features: Tensor,
    coefficients: Tensor,
    weight: Tensor,
    shown: Tensor,
    compute: Compute = CPU,
) -> tuple[Tensor, Tensor]:
    """L_sim, and what is lost: features (B,4W,M), coefficients (B,W,C), weight (B,W), shown (B,D).

    Lost: squared error of the coefficients after latents and decoder, relative to each region's own variance.
    """
    x = codec.from_coefficients(coefficients) * shown[:, None]
    lost = x.new_zeros(())
    for region in DECODED:
        part = codec.region(region)
        energy = part.std.square() / part.std.square().sum()
        error = (
            part.decode_coefficients(x[..., codec.slices[region]]) - coefficients[..., codec.bases[region]]
        )
        of_shown = weight * shown[:, None, codec.slices[region].start]
        lost = lost + ((error.square() * energy).sum(-1) * of_shown).mean()
    return embedding_loss(embedding, features, x, compute), lost
