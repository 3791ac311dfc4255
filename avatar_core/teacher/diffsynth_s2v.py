"""A program of its own, run by the python of DiffSynth-Studio's environment: talking videos by Wan2.2-S2V-14B. No import of ours.

    python diffsynth_s2v.py JOB.json

As the project's examples/wanvideo/model_inference/Wan2.2-S2V-14B_multi_clips.py does, from local files alone: chained runs of 80
pictures at 16 a second, each shown the last 73 of the run before. The example cuts off the first three pictures; here the fourth
stands in for them, so that picture k stays that of sound k.
"""

import json
import sys
import wave
from glob import glob
from pathlib import Path
from typing import Any

FPS, RUN, SEEN, SPOILT = 16, 80, 73, 3  # pictures: a second, of a run, shown to the next, spoilt at the start
NETWORKS = (
    "diffusion_pytorch_model*.safetensors",
    "wav2vec2-large-xlsr-53-english/model.safetensors",
    "models_t5_umt5-xxl-enc-bf16.pth",
    "Wan2.1_VAE.pth",
)
TOKENIZER, LISTENER = "google/umt5-xxl", "wav2vec2-large-xlsr-53-english"


def load(weights: str, offload: bool) -> Any:
    """The pipeline, from a folder Wan2.2-S2V-14B. offload: networks wait in the CPU's memory."""
    import torch
    from diffsynth.pipelines.wan_video import (  # pyright: ignore[reportMissingImports]
        ModelConfig,
        WanVideoPipeline,
    )

    memory, limit = {}, None
    if offload:
        memory = {
            f"{place}_dtype": torch.bfloat16 for place in ("offload", "onload", "preparing", "computation")
        }
        memory |= {
            "offload_device": "cpu",
            "onload_device": "cpu",
            "preparing_device": "cuda",
            "computation_device": "cuda",
        }
        limit = torch.cuda.mem_get_info("cuda")[1] / 2**30 - 2
    files = [sorted(glob(str(Path(weights, name)))) for name in NETWORKS]
    return WanVideoPipeline.from_pretrained(
        torch_dtype=torch.bfloat16,
        device="cuda",
        model_configs=[ModelConfig(path=found if len(found) > 1 else found[0], **memory) for found in files],
        tokenizer_config=ModelConfig(path=str(Path(weights, TOKENIZER))),
        audio_processor_config=ModelConfig(path=str(Path(weights, LISTENER))),
        redirect_common_files=False,
        vram_limit=limit,
    )


def film(pipeline: Any, clip: dict[str, Any], steps: int, guidance: float) -> None:
    """Writes the video of a clip: image, audio (wav of 16 bits), prompt, negative_prompt, seed, out."""
    import numpy as np
    import torch
    from diffsynth.pipelines.wan_video import WanVideoUnit_S2V  # pyright: ignore[reportMissingImports]
    from diffsynth.utils.data import save_video  # pyright: ignore[reportMissingImports]
    from PIL import Image

    image = Image.open(clip["image"]).convert("RGB")
    with wave.open(clip["audio"]) as file:
        rate, count = file.getframerate(), file.getnframes()
        audio = np.frombuffer(file.readframes(count), np.int16).astype(np.float32) / 32768
    sizes = {"num_frames": RUN + 1, "height": image.height, "width": image.width}
    with torch.no_grad():
        heard, _, runs = WanVideoUnit_S2V.pre_calculate_audio_pose(
            pipe=pipeline, input_audio=audio, audio_sample_rate=rate, fps=FPS, **sizes
        )
    before, video = None, []
    for k in range(runs):
        made = pipeline(
            prompt=clip["prompt"],
            negative_prompt=clip["negative_prompt"],
            input_image=image,
            seed=clip["seed"],
            audio_embeds=heard[k],
            motion_video=before,
            num_inference_steps=steps,
            cfg_scale=guidance,
            output_type="floatpoint",
            **sizes,
        )[:, :, -RUN:]
        if k == 0:
            made[:, :, :SPOILT] = made[:, :, SPOILT : SPOILT + 1]
        before = made[:, :, -SEEN:]
        video.extend(pipeline.vae_output_to_video(made))
    save_video(video[: -(-count * FPS // rate)], clip["out"], fps=FPS, quality=9)


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    from diffsynth.version import __version__  # pyright: ignore[reportMissingImports]

    if job["version"] not in ("any", __version__):
        sys.exit(
            f"expected diffsynth {job['version']}, found {__version__}; install that, or give version: any"
        )
    pipeline = load(job["weights"], job["offload"])
    for clip in job["clips"]:
        film(pipeline, clip, job["steps"], job["guidance"])


if __name__ == "__main__":
    main()
