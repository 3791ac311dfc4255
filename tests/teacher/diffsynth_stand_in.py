"""Takes the place of the package diffsynth: the names that `teacher.diffsynth_s2v` uses, with the arguments of the real ones.

tests/teacher/test_diffsynth.py compares them with the package's source. Pictures are the given one, darkened by how loud the sound
is then; of a first run, the reference comes first and the next three are spoilt; a later run starts with what it was shown.
"""

import os
from dataclasses import dataclass

import imageio_ffmpeg
import numpy as np
import torch
from PIL import Image

UNIT = 16  # pixels that sides are multiples of


@dataclass
class ModelConfig:
    path: str | list | None = None
    offload_device: str | None = None
    offload_dtype: object = None
    onload_device: str | None = None
    onload_dtype: object = None
    preparing_device: str | None = None
    preparing_dtype: object = None
    computation_device: str | None = None
    computation_dtype: object = None


class WanVideoUnit_S2V:
    @staticmethod
    def pre_calculate_audio_pose(
        pipe, input_audio=None, audio_sample_rate=16000, num_frames=81, height=448, width=832, fps=16
    ):
        assert audio_sample_rate == 16000 and fps == 16 and input_audio.dtype == np.float32
        count = len(input_audio) * fps // audio_sample_rate
        runs = count // (num_frames - 1) + 1
        heard = np.zeros(runs * (num_frames - 1))
        parts = np.array_split(input_audio[: count * audio_sample_rate // fps], count)
        heard[:count] = [np.sqrt(np.mean(part**2)) for part in parts]
        return list(torch.from_numpy(heard).split(num_frames - 1)), None, runs


class WanVideoPipeline:
    @staticmethod
    def from_pretrained(
        torch_dtype,
        device,
        model_configs,
        tokenizer_config,
        audio_processor_config,
        redirect_common_files=True,
        vram_limit=None,
    ):
        assert torch_dtype == torch.bfloat16 and device == "cuda" and not redirect_common_files
        for config in (*model_configs, tokenizer_config, audio_processor_config):
            for path in config.path if isinstance(config.path, list) else [config.path]:
                assert os.path.exists(path), path
        assert [os.path.basename(str(c.path)) for c in model_configs[1:]] == [
            "model.safetensors", "models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth",
        ]  # fmt: skip
        return WanVideoPipeline()

    def __call__(
        self, prompt="", negative_prompt="", input_image=None, audio_embeds=None, motion_video=None, seed=None, height=480,
        width=832, num_frames=81, cfg_scale=5.0, num_inference_steps=50, output_type="quantized",
    ):  # fmt: skip
        assert prompt and negative_prompt and seed >= 0 and num_inference_steps and cfg_scale > 1
        assert input_image.size == (width, height) and width % UNIT == height % UNIT == 0
        assert output_type == "floatpoint" and audio_embeds.shape == (num_frames - 1,) and num_frames % 4 == 1
        picture = torch.from_numpy(np.array(input_image)).permute(2, 0, 1)[None, :, None] / 255
        made = picture * (1 - (audio_embeds * 2).clamp(max=0.9)).float()[:, None, None] * 2 - 1
        if motion_video is None:
            made[:, :, :3] = torch.rand_like(made[:, :, :3])
            return torch.cat([picture * 2 - 1, made], 2)
        assert motion_video.shape == (1, 3, 73, height, width)
        return torch.cat([motion_video, made], 2)

    def vae_output_to_video(self, vae_output):
        frames = ((vae_output[0].permute(1, 2, 3, 0) + 1) * 127.5).clamp(0, 255).byte().numpy()
        return [Image.fromarray(frame) for frame in frames]


def save_video(frames, save_path, fps, quality=9):
    writer = imageio_ffmpeg.write_frames(save_path, frames[0].size, fps=fps, quality=quality)
    writer.send(None)
    for frame in frames:
        writer.send(np.asarray(frame).tobytes())
    writer.close()
