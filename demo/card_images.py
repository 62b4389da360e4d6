"""Images for the model card's figures, sampled as ComfyUI's own nodes sample them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..host.attention.rgb_cam import apply_rgb_cam
from ..host.text.embedding import embed_side
from ..prompts.edits import Edits, make_edit
from ..regions.regions import make_regions
from .caption_sampler import EOS
from .captions import join_phrases, object_phrase
from .judge import Judge
from .render import IMAGE_SIZE, render_batch
from .scenes import CHECK_SEEDS, Scene

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

_BATCH = 25
_DILATION = 0.01  # the paper's


@dataclass(frozen=True)
class DemoSetup:
    """The parts under test, and how images are sampled."""

    model: "ModelPatcher"
    clip: "CLIP"
    vae: "VAE"
    judge: Judge
    folder: Path
    steps: int = 20
    guidance: float = 3.0
    sampler: str = "euler"
    scheduler: str = "normal"

    @property
    def sampling(self) -> str:
        return f"{self.sampler}, {self.steps} steps, guidance {self.guidance:g}"


def phrases_of(scene: Scene) -> list[str]:
    return [object_phrase(o.shape, o.color, o.material) for o in scene.objects]


def encode(demo: DemoSetup, prompt: str) -> Tensor:
    """Context (1, N, 128) of a prompt."""
    return cast("Tensor", demo.clip.encode_from_tokens(demo.clip.tokenize(prompt)))


def _first_end(demo: DemoSetup, prompt: str) -> int:
    return [token for token, _ in demo.clip.tokenize(prompt)["l"][0]].index(EOS)


def splice(demo: DemoSetup, words: str, ends: str) -> Tensor:
    """Context with the words of one prompt and the end-of-text run of another."""
    context, other = encode(demo, words).clone(), encode(demo, ends)
    start, from_ = _first_end(demo, words), _first_end(demo, ends)
    length = context.shape[1] - max(start, from_)
    context[:, start:] = other[:, -1:]
    context[:, start : start + length] = other[:, from_ : from_ + length]
    return context


def zero_part(demo: DemoSetup, prompt: str, *, words: bool) -> Tensor:
    """Context with either the words or the end-of-text run set to zero."""
    context, start = encode(demo, prompt).clone(), _first_end(demo, prompt)
    context[:, slice(1, start) if words else slice(start, None)] = 0
    return context


def plain_images(demo: DemoSetup, scenes: list[Scene]) -> Tensor:
    prompts = [join_phrases(phrases_of(scene)) for scene in scenes]
    return sample(demo, torch.cat([encode(demo, prompt) for prompt in prompts]))


def regional_images(demo: DemoSetup, scenes: list[Scene], has_background: bool) -> Tensor:
    """Object-Restricted Embeddings and RGB-CAM on the scenes' own regions, one KSampler each.

    With has_background the pixels of no region see the word of the scene's background.
    """
    noise = draw_noise(len(scenes))
    masks = render_batch(scenes)[1]
    images = []
    for b, scene in enumerate(scenes):
        phrases = phrases_of(scene)
        edits = Edits(tuple(make_edit(phrase, phrase) for phrase in phrases))
        regions = make_regions(list(masks[b, : len(phrases)]), edits.sources, _DILATION)
        positive = embed_side(demo.clip, edits, "target")
        background = None
        if has_background:
            tokens = demo.clip.tokenize(scene.background.kind)
            background = demo.clip.encode_from_tokens_scheduled(tokens)
        model = apply_rgb_cam(demo.model, regions, background=background)
        patched = replace(demo, model=model)
        images.append(denoise(patched, positive, noise[b : b + 1]))
    return torch.cat(images)


def sample(demo: DemoSetup, contexts: Tensor) -> Tensor:
    """Images (B, H, W, 3) of contexts (B, N, 128), by ComfyUI's own sampler."""
    noise = draw_noise(len(contexts))
    return torch.cat(
        [
            denoise(demo, [[contexts[i : i + _BATCH], {}]], noise[i : i + _BATCH])
            for i in range(0, len(contexts), _BATCH)
        ]
    )


def draw_noise(count: int) -> Tensor:
    """The same noise (B, 4, h, w) for the same prompts, whatever is sampled with it."""
    generator = torch.Generator().manual_seed(CHECK_SEEDS.start)
    return torch.randn(count, 4, IMAGE_SIZE // 8, IMAGE_SIZE // 8, generator=generator)


def denoise(demo: DemoSetup, positive: Any, noise: Tensor) -> Tensor:
    """As KSampler and VAE Decode."""
    import comfy.sample

    samples = comfy.sample.sample(
        demo.model,
        noise,
        demo.steps,
        demo.guidance,
        demo.sampler,
        demo.scheduler,
        positive,
        [[encode(demo, ""), {}]],
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=CHECK_SEEDS.start,
    )
    return demo.vae.decode(samples).cpu()
