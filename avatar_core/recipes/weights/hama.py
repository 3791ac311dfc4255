"""hama's phoneme conformer without its CTC head, from its wheel, and the check against hama's own runtime.

With the head on top and attention to the whole sound the rebuilt net must name the phonemes that the runtime
inside the wheel names for the same speech.
"""

from __future__ import annotations

import importlib
import struct
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avatar_core.audio.encoder import PhonemeEncoder
from avatar_core.errors import UserError
from avatar_core.speech.espeak import synthesize

WHOLE = 4  # blocks in the archive
ARCHIVE = "hama/assets/asr_waveform.hama"
SPOKEN = "The birch canoe slid on the smooth planks. Help the woman get back to her feet. A pot of tea helps to pass the evening."
LEAST_AGREEMENT = 0.99  # share of 20 ms frames on which both runtimes name the same phoneme


def read_archive(data: bytes) -> dict[str, Tensor]:
    """hama's flat archive -> tensors by name: magic, count, a table (name, type, shape, offset, size), then the numbers."""
    (count,), at = struct.unpack_from("<I", data, 8), 12
    rows = []
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        at += 2 + length
        kind, rank = data[at], data[at + 1]
        shape = struct.unpack_from(f"<{rank}I", data, at + 2)
        offset, size = struct.unpack_from("<QQ", data, at + 2 + 4 * rank)
        at += 18 + 4 * rank
        rows.append((name, np.float32 if kind == 0 else np.float16, shape, offset, size))
    base = len(data) - max(offset + size for *_, offset, size in rows)
    return {
        name: torch.from_numpy(
            np.frombuffer(data, kind, int(np.prod(shape)), base + offset).reshape(shape).copy()
        )
        for name, kind, shape, offset, _ in rows
    }


def encoder_tensors(raw: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """The archive's names, some of which an exporter made up, as those of `PhonemeEncoder` with so many blocks."""
    out = {
        "filters": raw["mel_fb"],
        "stem.weight": raw["onnx::Conv_801"],
        "stem.bias": raw["onnx::Conv_802"],
    }
    for b in range(blocks):
        theirs, ours, matrix = f"acoustic_model.model.blocks.{b}.", f"blocks.{b}.", 829 + 9 * b
        for half, name, up in (("first", "ffn1", matrix), ("second", "ffn2", matrix + 7)):
            for part in ("weight", "bias"):
                out[f"{ours}{half}.norm.{part}"] = raw[f"{theirs}{name}.norm.{part}"]
            out[f"{ours}{half}.up.weight"] = raw[f"onnx::MatMul_{up}"].T
            out[f"{ours}{half}.down.weight"] = raw[f"onnx::MatMul_{up + 1}"].T
            out[f"{ours}{half}.up.bias"] = raw[f"{theirs}{name}.fc1.bias"]
            out[f"{ours}{half}.down.bias"] = raw[f"{theirs}{name}.fc2.bias"]
        out[ours + "qkv.weight"] = raw[f"onnx::MatMul_{matrix + 2}"].T
        out[ours + "qkv.bias"] = raw[theirs + "attn.in_proj_bias"]
        out[ours + "out.weight"] = raw[f"onnx::MatMul_{matrix + 6}"].T
        out[ours + "out.bias"] = raw[theirs + "attn.out_proj.bias"]
        out[ours + "depthwise.weight"] = raw[f"onnx::Conv_{804 + 3 * b}"]
        out[ours + "depthwise.bias"] = raw[f"onnx::Conv_{805 + 3 * b}"]
        for part in ("weight", "bias"):
            out[f"{ours}attention_norm.{part}"] = raw[f"{theirs}attn_norm.{part}"]
            out[f"{ours}convolution_norm.{part}"] = raw[f"{theirs}conv.norm.{part}"]
            out[f"{ours}norm.{part}"] = raw[f"{theirs}norm.{part}"]
            out[f"{ours}gate.{part}"] = raw[f"{theirs}conv.pointwise1.{part}"]
            out[f"{ours}mix.{part}"] = raw[f"{theirs}conv.pointwise2.{part}"]
    return {
        name: t.reshape(t.shape[:2]) if name.endswith(("gate.weight", "mix.weight")) else t
        for name, t in out.items()
    }


@torch.no_grad()
def check(wheel: Path, raw: dict[str, Tensor]) -> dict[str, Any]:
    """The rebuilt net with everything above what is kept, against hama's runtime out of the wheel, on spoken sentences."""
    audio = synthesize(SPOKEN, "en", "clara").audio
    encoder = PhonemeEncoder(radius=len(audio), blocks=WHOLE)
    encoder.load_state_dict({k: t.float() for k, t in encoder_tensors(raw, WHOLE).items()})
    hidden = encoder(torch.from_numpy(audio))
    head, bias = (raw[f"acoustic_model.model.proj.{part}"].float() for part in ("weight", "bias"))
    ours = torch.log_softmax(hidden @ head[:, :, 0].T + bias, -1).numpy()
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extractall(folder)
        sys.path.insert(0, folder)
        names = ["log_probs", "out_lengths"]
        given = {"waveform": audio[None], "waveform_lengths": np.array([len(audio)])}
        theirs = np.asarray(importlib.import_module("hama").ASRModel().session.run(names, given)[0][0])[
            : len(ours)
        ]
        sys.path.remove(folder)
    inner = slice(10, -10)  # beyond the ends it mirrors the sound, here is silence
    agreement = float((ours.argmax(-1) == theirs.argmax(-1))[inner].mean())
    if agreement < LEAST_AGREEMENT:
        raise UserError(
            f"{wheel}: expected the runtime's phonemes on {LEAST_AGREEMENT:.0%} of frames, found {agreement:.1%}"
        )
    return {
        "frames": len(ours),
        "same_phoneme": round(agreement, 4),
        "median_log_probability_error": round(float(np.median(np.abs(ours - theirs)[inner])), 5),
        "greatest_log_probability_error": round(float(np.abs(ours - theirs)[inner].max()), 4),
    }
