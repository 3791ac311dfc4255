"""Identities backend `diffusers`: sampled people, each drawn from a text by a published model.

Who they are comes from the attribute dictionary, as for `procedural`; the portrait is the model's, so nothing that needs the exact
attributes (the procedural teacher) can follow it. Loaded once, on the run's device, one batch after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from avatar_core.config import one_of, ranged
from avatar_core.device import Compute
from avatar_core.errors import UserError
from avatar_core.identities import NewPerson
from avatar_core.models.card import Card, failures, need_packages, start
from avatar_core.models.files import check_pipeline, find_model, is_local, verify_folder
from avatar_core.models.pipeline import DTYPES, OFFLOADS, PACKAGES, load_pipeline

WHERE = "identities.diffusers"
SIDE_STEP = 32  # px: what the networks of all presets divide a picture into
MOST_PIXELS = 2_400_000  # beyond what these models were trained on they draw people twice
FLAT = 4.0  # of 255: less contrast than any photograph, as a half-precision decoder that overflowed gives


@dataclass(frozen=True)
class Preset:
    """A published model and the arguments that its makers recommend."""

    card: Card
    steps: int
    guidance: tuple[str, float]  # the argument's name and value
    negative: bool = False  # takes a negative prompt
    brief: bool = False  # reads no more than 75 tokens


PRESETS = {
    "z-image-turbo": Preset(
        Card(
            "Tongyi-MAI/Z-Image-Turbo", "Apache-2.0", "yes", gpu_gb=16,
            revision="f332072aa78be7aecdf3ee76d5c247082da564a6",
        ),
        9, ("guidance_scale", 0.0),
    ),
    "flux2-klein": Preset(
        Card(
            "black-forest-labs/FLUX.2-klein-4B", "Apache-2.0", "yes", gpu_gb=13,
            revision="e7b7dc27f91deacad38e78976d1f2b499d76a294",
        ),
        4, ("guidance_scale", 1.0),
    ),
    "qwen-image": Preset(
        Card(
            "Qwen/Qwen-Image", "Apache-2.0", "yes", gpu_gb=58,
            revision="75e0b4be04f60ec59a75f475837eced720f823b6",
        ),
        50, ("true_cfg_scale", 4.0), negative=True,
    ),
    "sdxl": Preset(
        Card(
            "stabilityai/stable-diffusion-xl-base-1.0", "CreativeML Open RAIL++-M", "conditions",
            "the use restrictions of its attachment A go with what is made", gpu_gb=10,
            revision="462165984030d82259a11f4367a4eed129e94a7b",
        ),
        40, ("guidance_scale", 6.0), negative=True, brief=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class DiffusionIdentities:
    """preset: which model's arguments; model: a hub id or a local folder in its place, "" for the preset's own.

    revision: commit of a hub id, "" for the preset's; sha256: digest of a local folder. steps 0 and guidance below 0: the
    preset's. offload: parts (model) or layers (sequential) wait in the CPU's memory. Each person's noise comes from a seed of
    its own.
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    preset: str = one_of(*PRESETS)
    model: str = ""
    revision: str = ""
    sha256: str = ""
    variant: str = ""  # of the weights' files, e.g. fp16
    width: int = ranged(768, 256, 2048)  # px
    height: int = ranged(1344, 256, 2048)
    steps: int = ranged(0, 0, 200)
    guidance: float = ranged(-1.0, -1, 30)
    batch: int = ranged(1, 1, 64)
    dtype: str = one_of(*DTYPES)
    offload: str = one_of(*OFFLOADS)

    @property
    def card(self) -> Card:
        known = PRESETS[self.preset].card
        if self.offload != "none":  # how much is left then, no maker says
            known = replace(known, gpu_gb=0)
        if not self.model or self.model == known.id:
            return replace(known, revision=self.revision or known.revision)
        if is_local(self.model):
            return replace(
                known,
                id=Path(self.model).name,
                revision=self.sha256,
                note="a local folder; licence of the preset",
            )
        return Card(self.model, "see its page", "unknown", revision=self.revision)

    def lacking(self) -> list[str]:
        """See `models.card.Published`."""
        lines = failures(lambda: need_packages(WHERE, "models", *PACKAGES), self._check_size)
        return lines + failures(lambda: self._check_class(check_pipeline(self._folder())))

    def people(self, count: int, seed: int) -> list[NewPerson]:
        """`count` sampled people, their attributes with the prompt that the portrait is drawn from."""
        from avatar_core.identities.prompts import portrait_prompt
        from avatar_core.procedural.people.identity import load_dictionary, sample_identities

        dictionary = load_dictionary()
        people = []
        for identity in sample_identities(count, seed, "drawn"):
            about = {name: identity.attributes[name] for name in ("sex", "age", "build", "skin_tone")}
            about["prompt"] = portrait_prompt(identity.attributes, dictionary, PRESETS[self.preset].brief)
            people.append(NewPerson(identity.id, identity.seed, about))
        return people

    def portraits(
        self, people: Sequence[NewPerson], compute: Compute
    ) -> Iterator[tuple[NewPerson, np.ndarray, dict[str, float]]]:
        """Each person with a picture (height,width,3) uint8 and numbers for quality control, batch by batch.

        Raises UserError before the model is loaded where something is missing; for a picture without contrast.
        """
        start(WHERE, self, compute)
        folder = self._folder()
        if is_local(self._model):
            verify_folder(folder, self.sha256)
        pipeline = load_pipeline(
            "AutoPipelineForText2Image", folder, self.dtype, self.variant, self.offload, compute.device
        )
        for first in range(0, len(people), self.batch):
            group = people[first : first + self.batch]
            for person, image in zip(group, self._draw(pipeline, group), strict=True):
                contrast = float(image.std())
                if not contrast >= FLAT:
                    raise UserError(
                        f"{WHERE}: expected a portrait of {person.id}, found an even picture; "
                        f"another dtype than {self.dtype} may do"
                    )
                yield person, image, {"contrast": contrast}

    @property
    def _model(self) -> str:
        return self.model or PRESETS[self.preset].card.id

    def folders(self) -> dict[Path, str]:
        """Where its files lie, and the declared digest ("" for a snapshot of the hub)."""
        return {self._folder(): self.sha256 if is_local(self._model) else ""}

    def _folder(self) -> Path:
        return find_model(
            self._model, "" if is_local(self._model) else self.card.revision, self.sha256, WHERE
        )

    def _check_size(self) -> None:
        for name in ("width", "height"):
            if getattr(self, name) % SIDE_STEP:
                raise UserError(
                    f"{WHERE}.{name}: expected a multiple of {SIDE_STEP}, found {getattr(self, name)}"
                )
        if self.width * self.height > MOST_PIXELS:
            raise UserError(
                f"{WHERE}.height: expected at most {MOST_PIXELS} pixels, found {self.width} x {self.height}"
            )

    def _check_class(self, index: dict[str, Any]) -> None:
        if find_spec("transformers") is None:
            return
        from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

        known = {cls.__name__ for cls in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
        if index["_class_name"] not in known:
            raise UserError(
                f"{WHERE}.model: expected a pipeline that draws from text, found {index['_class_name']}, which the installed "
                "diffusers does not list as one"
            )

    def _draw(self, pipeline: Any, people: Sequence[NewPerson]) -> np.ndarray:
        import torch

        preset = PRESETS[self.preset]
        name, value = preset.guidance
        options: dict[str, Any] = {name: self.guidance if self.guidance >= 0 else value}
        if preset.negative:
            from avatar_core.identities.prompts import NEGATIVE

            options["negative_prompt"] = [NEGATIVE] * len(people)
        images = pipeline(
            prompt=[person.attributes["prompt"] for person in people],
            width=self.width,
            height=self.height,
            num_inference_steps=self.steps or preset.steps,
            generator=[torch.Generator("cpu").manual_seed(person.seed) for person in people],
            output_type="np",
            **options,
        ).images
        return (np.clip(np.nan_to_num(images), 0, 1) * 255).round().astype(np.uint8)
