"""Prompt-to-Prompt on diffusers' UNet2DConditionModel, variance preserving: the oracle of a whole
edit.

Hertz et al.: Prompt-to-Prompt Image Editing with Cross Attention Control (arXiv 2208.01626) and its
published code with the numbers of PIE-Bench. Naive on purpose: one image at a time, four rows a
step, [source, target] x [uncond, cond], every map of every layer whole and kept. Written from the
specification alone (methods.md C.1, C.14); shares no line with the pack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .ale_diffusers import Network, Step, heads
from .inverted_diffusers import Sampling, edit_inverted
from .ore_by_hand import N, TextEncoder, find
from .words_by_hand import aligned, seen_by_target

SOURCE_COND, TARGET_COND = 2, 3
PROMPTS = ("grey wolf and yellow moon over a house", "brown goat and yellow ball over a house")


@dataclass(frozen=True)
class Settings:
    """What the oracle does; the switches exist to show that each component matters."""

    sampling: Sampling = Sampling()
    prompts: tuple[str, str] = PROMPTS
    mode: str = "refine"  # or "replace"
    cross: float = 0.4
    self_: float = 0.6
    factors: tuple[tuple[str, float], ...] = ()
    blend: str = ""
    subtract: str = ""
    threshold: float = 0.3
    start: float = 0.2
    plain: str = ""
    counts_words: bool = True  # not as the published code after the last word that differs


def rows_of(encoder: TextEncoder, prompt: str, word: str) -> list[int]:
    """Of a word between blanks, wherever it stands."""
    found, row = [], 1
    for other in prompt.split(" "):
        count = len(encoder.ids(other)) - 2
        if other == word:
            found += range(row, row + count)
        row += count
    return found


def replacement(encoder: TextEncoder, source: str, target: str, counts_words: bool) -> Tensor:
    """The 77 x 77 mapper of AttentionReplace, source by target."""
    x, y = source.split(" "), target.split(" ")
    assert len(x) == len(y)
    mapper = torch.zeros(N, N)
    mapper[0, 0] = 1
    i = j = 1
    changed = [k for k in range(len(x)) if x[k] != y[k]]
    for k, (theirs, mine) in enumerate(zip(x, y, strict=True)):
        many, few = len(encoder.ids(theirs)) - 2, len(encoder.ids(mine)) - 2
        for a in range(many):
            for b in range(few):
                if many == few:
                    mapper[i + a, j + b] = float(a == b)
                else:
                    mapper[i + a, j + b] = 1 / few
        if not counts_words and changed and k > changed[-1]:
            mapper[:, j : j + few] = 0
            for b in range(few):
                mapper[j + b, j + b] = 1
        i, j = i + many, j + few
    ahead = i - j
    for row in range(j, N):
        if counts_words:
            mapper[min(row + ahead, N - 1), row] = 1
        elif row + ahead < N:
            mapper[row, row] = 1
    return mapper


@dataclass
class P2PAttention:
    """diffusers' attention processor for the rows [source, target] x [uncond, cond].

    places: the name of each attention module. size: of the latent. maps: of each cross-attention
    layer the two conditional rows as they attend, (2, heads, L, 77), summed over the steps.
    """

    settings: Settings
    encoder: TextEncoder
    places: dict[Any, str]
    size: tuple[int, int]
    step: int = 0
    count: int = 1
    maps: dict[str, Tensor] = field(default_factory=dict)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        assert attention_mask is None and hidden_states.ndim == 3 and len(hidden_states) == 4
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        scores = torch.einsum("rlhd,rnhd->rhln", heads(q, attn), heads(k, attn)) * attn.scale
        probabilities = scores.softmax(-1)
        if encoder_hidden_states is not None:
            place = self.places[attn]
            probabilities[TARGET_COND] = self.crossed(probabilities)
            pair = probabilities[[SOURCE_COND, TARGET_COND]]
            self.maps[place] = pair + self.maps[place] if place in self.maps else pair
        elif self.step < int(self.settings.self_ * self.count + 1e-9):
            half = tuple(-(-side // 2) for side in self.size)
            if q.shape[1] <= half[0] * half[1]:
                probabilities[TARGET_COND] = probabilities[SOURCE_COND]
        out = torch.einsum("rhln,rnhd->rlhd", probabilities, heads(v, attn)).flatten(2)
        return attn.to_out[0](out)

    def crossed(self, probabilities: Tensor) -> Tensor:
        """The target's conditional cross-attention map (heads, L, 77) after control."""
        settings, source, own = (
            self.settings,
            probabilities[SOURCE_COND],
            probabilities[TARGET_COND],
        )
        if self.step >= int(settings.cross * (self.count + 1) + 1e-9):
            return own
        if settings.mode == "replace":
            mapper = replacement(self.encoder, *settings.prompts, settings.counts_words)
            new = torch.einsum("hlw,wn->hln", source, mapper)
        else:
            x, y = (self.encoder.ids(prompt) for prompt in settings.prompts)
            new = seen_by_target(source, own, aligned(x, y) + list(range(len(y), N)))
        equalizer = torch.ones(N)
        for word, factor in settings.factors:
            ids = self.encoder.ids(settings.prompts[1])
            equalizer[find(self.encoder.ids(word)[1:-1], ids)] = factor
        return new * equalizer

    # -- local blend -------------------------------------------------------------------------------

    def blended(self, source: Tensor, target: Tensor, step: int) -> Tensor:
        settings = self.settings
        if not settings.blend or step < int(settings.start * self.count + 1e-9):
            return target
        mask = self.mask(settings.blend, is_pooled=True)
        if settings.subtract:
            mask = mask & ~self.mask(settings.subtract, is_pooled=False)
        return torch.where(mask, target, source)

    def mask(self, words: str, is_pooled: bool) -> Tensor:
        """(h, w) bool on the latent: of the words of either prompt."""
        by_grid: dict[tuple[int, int], list[Tensor]] = {}
        for place, maps in self.maps.items():
            if not place.startswith("mid_block"):
                height, width = self.size
                while height * width > maps.shape[2]:
                    height, width = -(-height // 2), -(-width // 2)
                by_grid.setdefault((height, width), []).append(maps)
        fine = [grid for grid in by_grid if min(grid) >= 16]
        grid = min(fine) if fine else max(by_grid)
        both = torch.cat(by_grid[grid], dim=1).mean(1).unflatten(1, grid)
        out = torch.zeros(self.size, dtype=torch.bool)
        for own, prompt in zip(both, self.settings.prompts, strict=True):
            rows = [row for word in words.split() for row in rows_of(self.encoder, prompt, word)]
            cells = own[..., rows].sum(-1)
            if is_pooled:
                wider = torch.nn.functional.pad(cells, (1, 1, 1, 1), value=-1.0)
                cells = torch.stack(
                    [
                        wider[dy : dy + grid[0], dx : dx + grid[1]]
                        for dy in range(3)
                        for dx in range(3)
                    ]
                ).amax(0)
            ys = [y * grid[0] // self.size[0] for y in range(self.size[0])]
            xs = [x * grid[1] // self.size[1] for x in range(self.size[1])]
            enlarged = cells[ys][:, xs]
            if rows:
                out |= enlarged / enlarged.max() > self.settings.threshold
        return out


class EndTokenEncoder:
    """A text encoder by which one prompt has the end tokens of another (ETS)."""

    def __init__(self, encoder: TextEncoder, prompt: str, plain: str) -> None:
        self._encoder, self._prompt, self._plain = encoder, prompt, plain

    def encode(self, text: str) -> Tensor:
        own = self._encoder.encode(text)
        if text != self._prompt:
            return own
        words = len(self._encoder.ids(text)) - 2
        return torch.cat([own[: words + 1], self._encoder.encode(self._plain)[words + 1 :]])


def edit(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: Settings,
) -> list[Step]:
    """The whole edit of one image, the target's steps. x0: (C, h, w), the source latent as the UNet
    sees it (scaled)."""
    source, target = settings.prompts
    places = {m: n for n, m in network.unet.named_modules() if n.endswith(("attn1", "attn2"))}
    attention = P2PAttention(settings, encoder, places, (x0.shape[-2], x0.shape[-1]))

    def begin(step: int, count: int) -> None:
        attention.step, attention.count = step, count

    reads: Any = EndTokenEncoder(encoder, target, settings.plain) if settings.plain else encoder
    texts = (source, source, target)
    return edit_inverted(
        network,
        reads,
        texts,
        x0,
        settings.sampling,
        attention,
        seed=seed,
        begin=begin,
        blend=attention.blended,
    )
