"""Training captions as token ids, with what each token says about which object.

A caption is drawn again at each visit of a scene: order, attributes named and background vary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .captions import TEMPLATE_WORDS
from .scenes import BACKGROUNDS, COLORS, MATERIALS, MAX_OBJECTS, SHAPES

TOKENS = 77
BOS, EOS = 49406, 49407
NO_OBJECT = -1

_WORDS = (*SHAPES, *COLORS, *MATERIALS, *BACKGROUNDS, *TEMPLATE_WORDS)
# Share of object phrases that name (color, material).
_NAMED = (
    ((False, False), 0.08),
    ((True, False), 0.27),
    ((False, True), 0.20),
    ((True, True), 0.45),
)
_OMIT_OBJECTS = 0.4  # share of many-object captions that, as people's do, leave some objects out
_NAME_BACKGROUND = 0.2


@dataclass(frozen=True)
class TokenizedCaptions:
    """A batch of captions; B captions, N = 77 tokens."""

    ids: Tensor  # (B, N) of the compact vocabulary
    owner: Tensor  # (B, N) object index of a word token, else -1
    said: Tensor  # (B, N, 3) shape, color, material its object was given so far (last class: none)
    contents: (
        Tensor  # (B, 8, 3) of the whole caption: is the shape present, its color, its material
    )
    is_end: Tensor  # (B, N) True on end-of-text and padding tokens
    background: Tensor  # (B,) index of the background named, else 8

    def to(self, device: torch.device) -> "TokenizedCaptions":
        return TokenizedCaptions(*(t.to(device) for t in vars(self).values()))


class CaptionSampler:
    """Turns scene labels into tokenized captions; `tokenize` is the host's, text -> token ids."""

    def __init__(self, tokenize: Callable[[str], list[int]]):
        word_ids = {w: tokenize(w) for w in _WORDS}
        self.token_ids = sorted({BOS, EOS, *(i for ids in word_ids.values() for i in ids)})
        compact = {token: i for i, token in enumerate(self.token_ids)}
        self._words = {w: [compact[i] for i in ids] for w, ids in word_ids.items()}
        self._bos, self._eos = compact[BOS], compact[EOS]

    @lru_cache(maxsize=1024)  # noqa: B019  one sampler lives as long as its process
    def _phrase(
        self, shape: int, color: int, material: int
    ) -> list[tuple[int, tuple[int, int, int]]]:
        """Tokens of one object phrase with what has been said up to and with each."""
        unsaid = (len(SHAPES), len(COLORS), len(MATERIALS))
        words: list[tuple[str, tuple[int, int, int]]] = []
        if color != unsaid[1]:
            before = (unsaid[0], color, unsaid[2])
            words += [(COLORS[color], before), ("-", before), ("colored", before)]
        words.append((SHAPES[shape], (shape, color, unsaid[2])))
        if material != unsaid[2]:
            words += [
                ("made", words[-1][1]),
                ("of", words[-1][1]),
                (MATERIALS[material], (shape, color, material)),
            ]
        return [(i, said) for word, said in words for i in self._words[word]]

    def draw(
        self,
        labels: np.ndarray,
        backgrounds: np.ndarray,
        rng: np.random.Generator,
        is_empty: np.ndarray | None = None,
    ) -> TokenizedCaptions:
        """Captions for labels (B, 4, 3) of shape, color, material, backgrounds (B,); -1: none.

        Samples with is_empty (B,) get the empty caption; a scene without objects gets the name of
        its background, "fog".
        """
        count = len(labels)
        unsaid = (len(SHAPES), len(COLORS), len(MATERIALS))
        ids = np.full((count, TOKENS), self._eos)
        owner = np.full((count, TOKENS), NO_OBJECT)
        said = np.tile(np.array(unsaid), (count, TOKENS, 1))
        contents = np.tile(np.array((0, *unsaid[1:])), (count, len(SHAPES), 1))
        length = np.zeros(count, dtype=int)
        background = np.full(count, len(BACKGROUNDS))
        named = [pair for pair, _ in _NAMED]
        share = [p for _, p in _NAMED]
        for b in range(count):
            tokens: list[tuple[int, int, tuple[int, int, int]]] = [(self._bos, NO_OBJECT, unsaid)]
            if is_empty is not None and is_empty[b]:
                ids[b, 0], length[b] = self._bos, 1
                continue
            present = rng.permutation([k for k in range(MAX_OBJECTS) if labels[b, k, 0] >= 0])
            if len(present) > 1 and rng.random() < _OMIT_OBJECTS:
                present = present[rng.integers(1, len(present)) :]
            for place, k in enumerate(present.tolist()):
                with_color, with_material = named[rng.choice(len(named), p=share)]
                shape, color, material = labels[b, k].tolist()
                color = color if with_color else unsaid[1]
                material = material if with_material else unsaid[2]
                if place:
                    tokens += [(i, NO_OBJECT, unsaid) for i in self._words["and"]]
                tokens += [(i, k, s) for i, s in self._phrase(shape, color, material)]
                contents[b, shape] = (1, color, material)
            if backgrounds[b] >= 0 and (not len(present) or rng.random() < _NAME_BACKGROUND):
                background[b] = backgrounds[b]
                link = ("in", "the") if len(present) else ()
                for word in (*link, BACKGROUNDS[backgrounds[b]]):
                    tokens += [(i, NO_OBJECT, unsaid) for i in self._words[word]]
            length[b] = len(tokens)
            ids[b, : length[b]] = [t[0] for t in tokens]
            owner[b, : length[b]] = [t[1] for t in tokens]
            said[b, : length[b]] = [t[2] for t in tokens]
        is_end = np.arange(TOKENS)[None] >= length[:, None]
        return TokenizedCaptions(
            *(torch.from_numpy(a) for a in (ids, owner, said, contents, is_end, background))
        )
