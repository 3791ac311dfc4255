"""Audio-particle embedding: speech and particle motion in one space, aligned frame by frame and patch by patch.

Source: paper section "Audio-Particle Motion Embedding" (CLIP-style InfoNCE on frames, and on mean-pooled sliding windows).
The motion side reads the latents of E_X. By default L_sim does not change them, and the embedding is a diagnosis: how well
sound and motion agree (retrieval of a motion's own sound). `embed.align` has the paper's form, where E_X is trained along and
the generator hears the sound's side.

Shapes: B windows, T frames, D latents, E embedding, P patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avatar_core import ranks
from avatar_core.audio.backends import AudioFeatures
from avatar_core.audio.mel import CLEAN
from avatar_core.device import CPU, Compute
from avatar_core.embed.batches import Batches, LatentClip, some_clips
from avatar_core.embed.codec import MotionCodec
from avatar_core.embed.config import BatchConfig, ContrastiveConfig
from avatar_core.io.rows import Rows
from avatar_core.networks.blocks import AudioTrunk, ConvBlock
from avatar_core.progress import Progress, silent
from avatar_core.training.ahead import Ahead
from avatar_core.training.loop import History, Loop, one_thread, run_loop
from avatar_core.training.state import fingerprint_of

RETRIEVED_FRAMES = 6_000  # that pick their sound: each is compared with each other


class Embedding(nn.Module):
    """Two encoders into one unit sphere: embed_audio (B,4T,80) and embed_motion (B,T,D) -> (B,T,E)."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        c = config.motion_channels
        self.trunk = AudioTrunk(
            config.mels, config.audio_channels, config.audio_blocks, config.kernel, config.dropout
        )
        self.audio_head = nn.Linear(config.audio_channels, config.embedding)
        self.motion_in = nn.Linear(config.dims, c)
        self.motion_blocks = nn.ModuleList([ConvBlock(c, 7, 0.1) for _ in range(config.motion_blocks)])
        self.motion_head = nn.Linear(c, config.embedding)
        self.log_scale = nn.Parameter(torch.tensor(2.3))  # ln of the inverse temperature

    def embed_audio(self, log_mel: Tensor) -> Tensor:
        """Log-mel (B,4T,80) -> unit vectors (B,T,E)."""
        return F.normalize(self.audio_head(self.trunk(log_mel)), dim=-1)

    def embed_motion(self, x: Tensor) -> Tensor:
        """Latents (B,T,D) -> unit vectors (B,T,E)."""
        h = self.motion_in(x)
        for block in self.motion_blocks:
            h = block(h)
        return F.normalize(self.motion_head(h), dim=-1)

    def patches(self, embedded: Tensor) -> Tensor:
        """Mean-pooled sliding windows (B,P,E) of (B,T,E), on the unit sphere again."""
        windows = embedded.unfold(1, self.config.patch, self.config.stride)
        return F.normalize(windows.mean(-1), dim=-1)

    def tensors(self) -> tuple[dict[str, Tensor], dict]:
        """What a checkpoint holds: tensors by name, and the config that `from_tensors` needs."""
        return dict(self.state_dict()), asdict(self.config)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping) -> Embedding:
        """The inverse of `tensors`, in eval mode."""
        with torch.device("cpu"):
            model = cls(ContrastiveConfig(**config))
        model.load_state_dict(dict(tensors))
        return model.eval()


def contrastive_loss(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit rows a, b (n,E): row i of one belongs to row i of the other, all others do not.

    Equation: -1/2 mean_i [log softmax_j(s a_i.b_j)(i) + log softmax_j(s b_i.a_j)(i)]. Locked by
    test_contrastive_loss_prefers_the_diagonal.
    """
    logits = scale * a @ b.T
    target = torch.arange(len(a), device=a.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def embedding_loss(model: Embedding, log_mel: Tensor, x: Tensor, compute: Compute = CPU) -> Tensor:
    """Frame-level plus patch-level L_sim of aligned windows.

    Equation: L_sim = frame_weight L(frames) + patch_weight L(mean-pooled patches). Locked by
    test_patches_are_pooled_windows, test_motion_finds_its_own_sound.
    """
    config = model.config
    with compute.autocast():
        audio, motion = model.embed_audio(log_mel), model.embed_motion(x)
    audio, motion = ranks.gather(audio.float()), ranks.gather(motion.float())
    scale = model.log_scale.exp().clamp(max=100)
    step = config.frame_step
    frames = contrastive_loss(audio[:, ::step].flatten(0, 1), motion[:, ::step].flatten(0, 1), scale)
    far = max(1, -(-config.patch // config.stride))  # patches that overlap are not negatives of each other
    patches = contrastive_loss(
        model.patches(audio)[:, ::far].flatten(0, 1), model.patches(motion)[:, ::far].flatten(0, 1), scale
    )
    return config.frame_weight * frames + config.patch_weight * patches


def train_embedding(
    clips: Sequence[LatentClip],
    codec: MotionCodec,
    config: ContrastiveConfig = ContrastiveConfig(),
    audio: AudioFeatures = CLEAN,
    checkpoint_dir: Path | None = None,
    progress: Progress = silent,
    compute: Compute = CPU,
) -> tuple[Embedding, History]:
    """Train both encoders; returns the averaged model and the losses of every step. One thread, resumable."""
    torch.manual_seed(config.seed)
    rng = torch.Generator().manual_seed(config.seed + 1)
    batches = Batches(clips, codec, BatchConfig(batch=config.batch, window=config.window, silence=0.0), audio)
    with torch.device("cpu"):
        model = Embedding(config)
    model.trunk.fit_normalisation(c.audio for c in some_clips(clips))
    model.to(compute.device)

    def draw(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        log_mel, x, *_ = batches.draw(rng)
        return audio.augment(log_mel, rng), x

    def losses() -> dict[str, Tensor]:
        with ranks.share(*drawn()) as part:
            heard, moved = compute.put(*part)
            return {"loss": embedding_loss(model, heard, moved, compute)}

    with one_thread(), Ahead(draw, rng, compute.ahead) as drawn:
        history = run_loop(
            Loop("embed", config.steps, config.learning_rate, config.ema, config.checkpoint_every),
            model,
            compute.adamw(model.parameters(), lr=config.learning_rate, weight_decay=0.05),
            rng,
            losses,
            fingerprint=fingerprint_of(config, arrays=(c.x for c in clips)),
            checkpoint_dir=checkpoint_dir,
            progress=progress,
        )
    return model, history


@torch.no_grad()
def retrieval_accuracy(
    model: Embedding, clips: Sequence[LatentClip], choices: int = 10, seed: int = 0
) -> dict[str, float]:
    """How often a motion picks its own sound out of `choices`: {frame, patch}; 1 / choices is chance.

    The wrong ones are drawn from all the clips, at least one patch away in time; of very many clips only some take part.
    """
    rng = np.random.default_rng([seed, 3])
    found = {"frame": [], "patch": []}
    device = model.log_scale.device
    embedded = [
        (
            model.embed_audio(_batch(c.audio).to(device))[0].cpu(),
            model.embed_motion(_batch(c.x).to(device))[0].cpu(),
        )
        for c in some_clips(clips, RETRIEVED_FRAMES)
        if len(c.x) > 0
    ]
    for name in found:
        sides = [
            (a, m) if name == "frame" else (model.patches(a[None])[0], model.patches(m[None])[0])
            for a, m in embedded
            if name == "frame" or len(a) >= model.config.patch
        ]
        sounds = torch.cat([a for a, _ in sides])
        owner = np.concatenate([np.full(len(a), k) for k, (a, _) in enumerate(sides)])
        time = np.concatenate([np.arange(len(a)) for a, _ in sides])
        gap = model.config.patch if name == "frame" else -(-model.config.patch // model.config.stride)
        similarity = torch.cat([m for _, m in sides]) @ sounds.T
        for row in range(len(owner)):
            wrong = np.flatnonzero((owner != owner[row]) | (np.abs(time - time[row]) >= gap))
            if len(wrong) < choices - 1:
                continue
            rivals = similarity[row, torch.from_numpy(rng.choice(wrong, choices - 1, replace=False))]
            found[name].append(float(similarity[row, row] > rivals.max()))
    return {name: float(np.mean(hits)) if hits else float("nan") for name, hits in found.items()}


def _batch(values: np.ndarray | Rows) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))[None]
