"""Models of other families, tiny and with random weights, and broken ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "num_heads": 4,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 48,
    "use_linear_in_transformer": False,
    "legacy": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "dtype": torch.float32,
}
FLUX = {
    "image_model": "flux",
    "in_channels": 4,
    "out_channels": 4,
    "vec_in_dim": 16,
    "context_in_dim": 32,
    "hidden_size": 32,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [4, 6, 6],
    "theta": 10_000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
    "dtype": torch.float32,
}


def patcher(model: Any) -> Any:
    import comfy.model_patcher

    cpu = torch.device("cpu")
    torch.manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        parameter.requires_grad_(False)
        parameter.data.normal_(std=0.05)
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=cpu, offload_device=cpu)


def flux(_good: Any) -> Any:
    import inspect

    import comfy.ldm.flux.model
    import comfy.model_base
    import comfy.supported_models

    known = inspect.signature(comfy.ldm.flux.model.FluxParams).parameters
    kept = {"image_model", "dtype"}
    config = comfy.supported_models.Flux(
        {name: value for name, value in FLUX.items() if name in known or name in kept}
    )
    config.set_inference_dtype(torch.float32, None)
    return patcher(comfy.model_base.Flux(config))


def unet(**changes: Any) -> Callable[[Any], Any]:
    def make(_good: Any) -> Any:
        import comfy.model_base
        import comfy.supported_models

        config = comfy.supported_models.SD15({**UNET, **changes})
        config.set_inference_dtype(torch.float32, None)
        model = comfy.model_base.BaseModel(config)
        if config.unet_config["in_channels"] != 4:
            model.set_inpaint()
        return patcher(model)

    return make


def answers(value: float) -> Callable[[Any], Any]:
    """The good model, whose every answer is this number."""

    def make(good: Any) -> Any:
        def call(apply_model: Any, args: dict[str, Any]) -> Any:
            return apply_model(args["input"], args["timestep"], **args["c"]) * value

        made = good.clone()
        made.set_model_unet_function_wrapper(call)
        return made

    return make


def sample_as(name: str) -> Callable[[Any], Any]:
    """The good model with another family's sampling."""

    def make(good: Any) -> Any:
        import comfy.model_sampling

        class Sampling(getattr(comfy.model_sampling, name), comfy.model_sampling.CONST):
            pass

        made = good.clone()
        made.add_object_patch("model_sampling", Sampling(good.model.model_config))
        return made

    return make


def clip_of(widths: dict[str, int]) -> Callable[[Any], Any]:
    """SD 1.5's text encoder at another width (l), or SDXL's two (l, g)."""

    def make(_good: Any) -> Any:
        import comfy.sd
        import comfy.sd1_clip
        import comfy.sdxl_clip
        from comfy.supported_models_base import ClipTarget

        classes = (
            (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
            if "g" in widths
            else (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
        )
        configs = {
            f"clip_{name}_model_config": {
                "hidden_size": width,
                "intermediate_size": 2 * width,
                "num_attention_heads": 4,
                "num_hidden_layers": 4,
                "projection_dim": width,
            }
            for name, width in widths.items()
        }
        clip = comfy.sd.CLIP(
            ClipTarget(*classes), model_options={**configs, "dtype": torch.float32}
        )
        torch.manual_seed(0)
        for parameter in clip.cond_stage_model.parameters():
            parameter.requires_grad_(False)
            parameter.data.normal_(std=0.1)
        return clip

    return make


def vae_of(latent_channels: int) -> Callable[[Any], Any]:
    def make(_good: Any) -> Any:
        import comfy.sd
        import comfy.taesd.taesd

        torch.manual_seed(0)
        made = comfy.taesd.taesd.TAESD(latent_channels=latent_channels)
        for parameter in made.parameters():
            parameter.data.normal_(std=0.05)
        return comfy.sd.VAE(sd=made.state_dict())

    return make


class OfNaN:
    """A VAE that encodes as the good one, and decodes to NaN."""

    def __init__(self, good: Any) -> None:
        self._good = good

    def __getattr__(self, name: str) -> Any:
        return getattr(self._good, name)

    def decode(self, samples: Any, *args: Any, **kwargs: Any) -> Any:
        return self._good.decode(samples, *args, **kwargs) * float("nan")


BY_TYPE = {
    "MODEL": {
        "Flux": flux,
        "text of another width": unet(),
        "inpainting channels": unet(in_channels=9, context_dim=128),
        "answers NaN": answers(float("nan")),
        "answers inf": answers(float("inf")),
        "samples by flow matching": sample_as("ModelSamplingDiscreteFlow"),
    },
    "CLIP": {"of another width": clip_of({"l": 96}), "SDXL's two": clip_of({"l": 32, "g": 48})},
    "VAE": {"of 16 channels": vae_of(16), "decodes to NaN": OfNaN},
}
MODELS = {
    f"{name}: {kind}": maker for name, makers in BY_TYPE.items() for kind, maker in makers.items()
}
