"""Training stage 5: the UNet, eps-prediction on SD 1.5's schedule, with the frozen text encoder.

The error of eps is weighted with sigma, so that noisy steps, which decide layout and colours, count
as much as the others. At first a small grounding loss pulls the attention of an object's pixels
from other objects' words to its own. Words are dropped from some captions while their end-of-text
run stays, so that both carry meaning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .caption_sampler import TOKENS, CaptionSampler, TokenizedCaptions
from .latents import LatentShard
from .models import new_unet, tokenize
from .scenes import MAX_OBJECTS
from .stage import Stage, StagePlan, build_seeded
from .text_encoder import TrainableText

_EMPTY_CAPTION = 0.10  # share of samples trained without any caption, for classifier-free guidance
_DROP_ALL_WORDS = 0.16  # share of captions that keep only their end-of-text run
_DROP_SOME_WORDS = 0.10  # share that lose each word with a probability drawn from [0, 1]
_DROP_OBJECT = 0.08  # share that lose all words of one object
_GROUNDING = 0.06  # weight of the grounding loss
_GROUNDING_UNTIL = 0.8  # of the stage


def alpha_bars() -> Tensor:
    """Cumulative signal share (1000,) of SD 1.5's noise schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


class TrainingAttention:
    """ComfyUI attention override: plain softmax, hidden tokens, and a record of the text maps."""

    def __init__(self, hidden: Tensor):
        self.bias = hidden.float()[:, None, None] * -1e4  # (B, 1, 1, N)
        self.maps: list[Tensor] = []  # (B, L, N) each, mean over heads

    def __call__(self, _default, q: Tensor, k: Tensor, v: Tensor, heads: int, **_options) -> Tensor:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # (B, h, L, D)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        is_text = k.shape[2] == TOKENS
        shares = (
            (scores + self.bias.to(scores.dtype) if is_text else scores).softmax(-1).to(v.dtype)
        )
        if is_text:
            self.maps.append(shares.float().mean(1))
        return (shares @ v).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Sample:
    """A batch of B scenes with captions, some words of which are dropped."""

    latents: Tensor  # (B, 4, h, w), unit variance
    noise: Tensor  # (B, 4, h, w)
    context: Tensor  # (B, N, 128); some dropped words are zero here
    hidden: Tensor  # (B, N) the other dropped words, which attention must not see
    owner: Tensor  # (B, N) object index of a word token, else -1
    masks: Tensor  # (B, 4, h, w)
    is_intact: Tensor  # (B,) no word was dropped


class SampleSource:
    """Draws training samples: scenes of the shard, with new captions at each visit."""

    def __init__(
        self,
        text: TrainableText,
        shard: LatentShard,
        device: torch.device,
        drops_words: bool = True,
    ):
        self._text, self._shard, self._device = text, shard, device
        self._drops_words = drops_words
        self._captions = CaptionSampler(tokenize)

    def draw(self, rng: np.random.Generator, count: int, empty: float) -> Sample:
        """`count` samples that depend on rng alone, a share `empty` of them without caption."""
        batch = self._shard.batch(rng.integers(0, len(self._shard), count))
        is_empty = rng.random(count) < empty
        captions = self._captions.draw(batch.labels, batch.backgrounds, rng, is_empty)
        dropped = drop_words(captions, rng)
        dropped = (dropped if self._drops_words else torch.zeros_like(dropped)).to(self._device)
        captions = captions.to(self._device)
        is_zeroed = torch.from_numpy(rng.random(count) < 0.5).to(self._device)[:, None]
        with torch.no_grad():
            context = self._text(captions.ids)
        noise = rng.standard_normal(batch.latents.shape, dtype=np.float32)
        return Sample(
            latents=batch.latents.to(self._device),
            noise=torch.from_numpy(noise).to(self._device),
            context=context.masked_fill((dropped & is_zeroed)[..., None], 0),
            hidden=dropped & ~is_zeroed,
            owner=captions.owner,
            masks=batch.masks.to(self._device),
            is_intact=~dropped.any(1),
        )

    def empty_context(self) -> Tensor:
        """Context (1, N, 128) of the empty caption."""
        rng, labels = np.random.default_rng(0), np.full((1, MAX_OBJECTS, 3), -1)
        empty = self._captions.draw(labels, np.zeros(1, dtype=int), rng, np.ones(1, dtype=bool))
        with torch.no_grad():
            return self._text(empty.ids.to(self._device))


def drop_words(captions: TokenizedCaptions, rng: np.random.Generator) -> Tensor:
    """Which word tokens (B, N) the UNet does not get; BOS and the end-of-text run always stay."""
    is_word = ~captions.is_end
    is_word[:, 0] = False
    dropped = torch.zeros_like(is_word)
    for b, choice in enumerate(rng.random(len(is_word)).tolist()):
        if choice < _DROP_ALL_WORDS:
            dropped[b] = True
        elif choice < _DROP_ALL_WORDS + _DROP_SOME_WORDS:
            dropped[b] = torch.from_numpy(rng.random(TOKENS) < rng.random())
        elif choice < _DROP_ALL_WORDS + _DROP_SOME_WORDS + _DROP_OBJECT:
            named = captions.owner[b].unique()[1:].tolist()
            if len(named) > 1:
                dropped[b] = captions.owner[b] == named[rng.integers(0, len(named))]
    return dropped & is_word


def grounding_loss(maps: list[Tensor], owner: Tensor, masks: Tensor, is_intact: Tensor) -> Tensor:
    """-log of the share that an object's own words have in its pixels' attention to object words.

    maps (B, L, N) each, owner (B, N), masks (B, 4, h, w), is_intact (B,) nothing dropped.
    """
    words = F.one_hot(owner + 1, MAX_OBJECTS + 1)[..., 1:].float()  # (B, N, 4)
    weight = is_intact[:, None] & (words.sum(1) > 0) & ((words.sum(1) > 0).sum(1, keepdim=True) > 1)
    total = torch.zeros((), device=masks.device)
    for attention in maps:
        side = int(attention.shape[1] ** 0.5)
        inside = F.adaptive_avg_pool2d(masks, side).flatten(2) * weight[..., None]  # (B, 4, L)
        mass = (attention @ words).transpose(1, 2)  # (B, 4, L)
        share = mass / (mass.sum(1, keepdim=True) + 1e-6)
        total = total - (inside * (share + 1e-4).log()).sum() / (inside.sum() + 1e-6)
    return total / len(maps)


def train_unet(
    plan: StagePlan,
    out: Path,
    device: torch.device,
    *,
    text: TrainableText,
    shard: LatentShard,
    start: Mapping[str, Tensor] | None = None,
    drops_words: bool = True,
) -> nn.Module:
    """Train (or continue) the UNet and return it with averaged weights.

    A new stage begins with the weights `start`, or with random ones. Without drops_words the
    end-of-text tokens are hardly needed, and so mean less.
    """
    unet = build_seeded(4, new_unet, start)
    stage = Stage(plan, unet.to(device), out)
    samples = SampleSource(text, shard, device, drops_words)
    schedule = alpha_bars().to(device)

    def loss_at(step: int, position: float) -> Tensor:
        rng = np.random.default_rng((44, step))
        sample = samples.draw(rng, plan.batch, _EMPTY_CAPTION)
        attention = TrainingAttention(sample.hidden)
        t = torch.from_numpy(rng.integers(0, 1000, plan.batch)).to(device)
        alpha_bar = schedule[t][:, None, None, None]
        x_t = alpha_bar.sqrt() * sample.latents + (1 - alpha_bar).sqrt() * sample.noise
        eps = predict_eps(unet, x_t, t, sample.context, attention)
        sigma = ((1 - alpha_bar) / alpha_bar).sqrt().flatten()
        loss = (sigma * (eps - sample.noise).square().mean((1, 2, 3))).mean()
        if position < _GROUNDING_UNTIL:
            loss = loss + _GROUNDING * grounding_loss(
                attention.maps, sample.owner, sample.masks, sample.is_intact
            )
        return loss

    unet.load_state_dict(stage.train(loss_at))
    return unet.eval()


def predict_eps(
    unet: nn.Module, x_t: Tensor, t: Tensor, context: Tensor, attention: TrainingAttention
) -> Tensor:
    """The UNet's eps (B, 4, h, w) in fp32; it computes in bf16."""
    with torch.autocast(x_t.device.type, torch.bfloat16):
        options = {"optimized_attention_override": attention}
        eps = unet(x_t, t.float(), context=context, transformer_options=options)
    return eps.float()
