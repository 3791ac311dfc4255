"""AudioAvatar: a portrait and a voice in, a talking whole-body Gaussian avatar out.

The library: pure functions and `nn.Module`s. It knows no DVC, no Prefect and no params.yaml; `stages/` feed it.
"""

__version__ = "0.2.0"
