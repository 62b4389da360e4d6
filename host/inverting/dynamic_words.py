"""Dynamic Prompt Learning by a MODEL and its CLIP (inversion/dynamic_words.py), then null-text
inversion by the texts that it finds, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import latent_preview
import torch
from torch import Tensor

from ...attention.clusters import find_background
from ...attention.layout_maps import LayoutRecorder
from ...attention.word_losses import (
    balance_loss,
    binding_loss,
    leakage_loss,
    maps_of,
    overlap_loss,
    region_overlap_loss,
    region_similarity_loss,
)
from ...editors.editor import WordsToLearn
from ...inversion.ddim import Convention
from ...inversion.dynamic_words import BINDING, CLUSTER_TERMS, MASK_TERMS, LossTerm, fit_words
from ...inversion.null_text import NullTextSettings
from ...inversion.stored import Inversion, Schedule
from ...regions.grid import sample_masks
from ..attention.adapter import add_control
from ..comfy_types import Cond, Conditioning, Options, RunCallback
from ..gradients import (
    checkpoint_blocks,
    leaf,
    ordinary_entry,
    stop_if_interrupted,
    use_differentiable_attention,
)
from ..messages import name_node
from ..sampling.schedule import sigmas_of
from ..text.conditioning import BRANCHES_KEY, EntryBranches
from ..text.dynamic import encode_with, read_embeddings, record_text_gradients
from ..text.tokens import Tokenized
from .invert import invert_image
from .null_text import NullTextSampler, Predict

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

SOURCE, TARGET = "source", "target"
TEXT_ENCODER = "ale_edit.text_encoder"
"""Key of a MODEL's additional models with the text encoder, which then stays loaded beside it."""
SAME_TEXT = 0.05
"""Most difference of a stored text from the same one encoded again, in its standard deviations."""

Measure: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class WordLearner:
    """What an edit's own inversion learns, and where the words stand in its prompts.

    source, target: the prompts in tokens. mapper: (N_target,) the source row of each target row,
        negative for none. node: to name in errors.
    """

    model: ModelPatcher
    clip: CLIP
    source: Tokenized
    target: Tokenized
    mapper: Tensor
    words: WordsToLearn
    node: str

    def invert(
        self,
        conditioning: Conditioning,
        latent: Tensor,
        schedule: Schedule,
        prompt: str,
        *,
        negative: Conditioning,
        guidance: float,
        convention: Convention = "published code",
        callback: RunCallback | None = None,
    ) -> Inversion:
        """The inversion of a latent (B, C, h, w) as a VAE encodes it; see `invert_by`."""
        words = self.words
        if callback is None:
            steps = len(sigmas_of(self.model, schedule)) - 1
            callback = latent_preview.prepare_callback(self.model, steps)
        recorder = LayoutRecorder(words.nouns, SOURCE)
        model = add_control(self.model, "ale_edit.dpl", lambda *_: recorder, self.node)
        model.set_additional_models(TEXT_ENCODER, [self.clip.patcher])
        ((text, options),) = conditioning
        entry = EntryBranches((SOURCE,), tokens={SOURCE: text.shape[1]})
        watched: Conditioning = [[text, {**options, BRANCHES_KEY: entry}]]
        with recorder.averaging():
            inversion = invert_image(
                model, watched, latent, schedule, prompt, convention=convention, callback=callback
            )
        with name_node(self.node):
            terms, measure = self._losses(recorder, latent)
        null_text = words.settings.null_text(guidance)
        if math.isclose(guidance, 1.0):  # where no negative text changes anything
            null_text = replace(null_text, updates=0)
        sampler = WordSampler(inversion, null_text, self, recorder, terms, measure)
        sampler.follow(model, watched, negative, latent, callback)
        return replace(
            inversion,
            method="DPL",
            guidance=guidance,
            null_texts=torch.stack(sampler.texts),
            word_rows=words.rows,
            word_vectors=torch.stack(sampler.vectors),
            word_texts=torch.stack(sampler.prompts),
        )

    def _losses(
        self, recorder: LayoutRecorder, latent: Tensor
    ) -> tuple[tuple[LossTerm, ...], Measure]:
        """The losses of this inversion, and (attention (B, h, w, N), maps of the nouns) -> their
        values (B, T)."""
        words, grid = self.words, recorder.grid
        if words.regions is None:
            terms, background = CLUSTER_TERMS, _find_background(recorder)

            def measure(attention: Tensor, maps: Tensor) -> Tensor:
                balance = balance_loss(attention, words.nouns)
                leakage = leakage_loss(maps, leaf(background.to(maps)))
                return torch.stack([balance, leakage, overlap_loss(maps)], 1)
        else:
            terms, regions = MASK_TERMS, _find_cells(words, grid, latent)

            def measure(attention: Tensor, maps: Tensor) -> Tensor:
                own = leaf(regions.to(maps))
                similarity = region_similarity_loss(maps, own)
                return torch.stack([similarity, region_overlap_loss(maps, own)], 1)

        bound = [k for k, adjectives in enumerate(words.adjectives) if adjectives]
        if not bound:
            return terms, measure

        def measure_bound(attention: Tensor, maps: Tensor) -> Tensor:
            adjectives = maps_of(attention, [words.adjectives[k] for k in bound])
            loss = binding_loss(maps[:, bound], adjectives)
            return torch.cat([measure(attention, maps), loss[:, None]], 1)

        return (*terms, BINDING), measure_bound

    def find_texts(self, inversion: Inversion) -> dict[str, Tensor]:
        """(N, B, L, D) by branch: the texts of each step with the words of an inversion. A target
        without one of these words has a text of its own.

        Raises ValueError for an inversion by another text encoder.
        """
        vectors, texts = inversion.word_vectors, inversion.word_texts
        assert vectors is not None and texts is not None
        self.clip.load_model()
        rows = inversion.word_rows
        with torch.no_grad():
            self._require_same_encoder(rows, vectors[0], texts[0])
            found = {SOURCE: texts}
            places = {
                row: rows.index(source)
                for row, source in enumerate(self.mapper.tolist())
                if source in rows
            }
            if places:
                found[TARGET] = torch.stack(
                    [
                        encode_with(
                            self.clip, self.target, {row: own[:, k] for row, k in places.items()}
                        )
                        for own in vectors
                    ]
                )
        return found

    def _require_same_encoder(self, rows: Sequence[int], vectors: Tensor, text: Tensor) -> None:
        width = read_embeddings(self.clip, self.source, rows[:1]).shape[1]
        if width == vectors.shape[-1]:
            again = self.encode(vectors, rows).to(text)
            if again.shape == text.shape and bool(
                (again - text).abs().max() <= SAME_TEXT * text.std()
            ):
                return
        raise ValueError(
            f"{self.node}: the words of the inversion were learned with another text encoder than "
            "the clip input. Connect the CLIP that they were learned with, with its LoRAs and clip "
            "skip, or invert the image again."
        )

    def read_vectors(self) -> Tensor:
        """(K, W) the words' own embeddings, where the search starts."""
        return read_embeddings(self.clip, self.source, self.words.rows)

    def encode(self, vectors: Tensor, rows: Sequence[int]) -> Tensor:
        """(B, L, D) the source prompt with embeddings (B, K, W) at some rows."""
        own = {row: vectors[:, k] for k, row in enumerate(rows)}
        return encode_with(self.clip, self.source, own)


def _find_background(recorder: LayoutRecorder) -> Tensor:
    """(B, h, w)"""
    maps = recorder.self_maps()
    if maps is None:
        raise ValueError(
            "the model has no self-attention on half the latent's side, by which the background is "
            'found. Set priors to "masks".'
        )
    return find_background(maps, recorder.word_maps(), recorder.self_grid)


def _find_cells(words: WordsToLearn, grid: tuple[int, int], latent: Tensor) -> Tensor:
    """(B or 1, K, *grid): the cells of each noun's mask."""
    assert words.regions is not None
    size, objects = (latent.shape[-2], latent.shape[-1]), list(words.objects)
    names = [words.regions.names[k] for k in objects]
    each = [
        sample_masks(one.dilated[objects], names, grid, size, words.cell)
        for one in words.regions.images
    ]
    return torch.stack(each).float()


class WordSampler(NullTextSampler):
    """A SAMPLER that follows an inversion back to the image, and keeps the embeddings of words, the
    prompt with them and a negative text for each step."""

    def __init__(
        self,
        inversion: Inversion,
        null_text: NullTextSettings,
        learner: WordLearner,
        recorder: LayoutRecorder,
        terms: Sequence[LossTerm],
        measure: Measure,
    ) -> None:
        super().__init__(inversion, null_text, learner.node)
        self._learner, self._recorder = learner, recorder
        self._terms, self._measure = terms, measure
        self.vectors: list[Tensor] = []
        self.prompts: list[Tensor] = []

    def _choose_options(self, model_options: Options) -> Options:
        options = dict(model_options.get("transformer_options", {}))
        use_differentiable_attention(options)
        return {**model_options, "transformer_options": options}

    def _prompt_of(self, step: int, positive: Cond, predict: Predict, network: BaseModel) -> Cond:
        learner, recorder = self._learner, self._recorder
        words = learner.words
        positive = ordinary_entry(positive)
        own = positive["model_conds"]["c_crossattn"]

        def put(text: Tensor) -> Cond:
            conds = {**positive["model_conds"], "c_crossattn": type(own)(text.to(own.cond))}
            return {**positive, "model_conds": conds}

        def measure(vectors: Tensor) -> Tensor:
            stop_if_interrupted()
            with recorder.looking():
                predict(put(learner.encode(vectors, words.rows)))
            attention = recorder.take()[..., :length]
            return self._measure(attention, maps_of(attention, words.nouns))

        length = len(next(iter(learner.source.values()))[0])
        with record_text_gradients(learner.clip), recorder.learning():
            before = self._before(len(self._inversion.latents[0])).to(own.cond.device)
            with checkpoint_blocks(network.diffusion_model):
                vectors = fit_words(
                    before, measure, self._terms, words.settings, step, self._inversion.steps
                )
            with torch.no_grad():
                text = learner.encode(vectors, words.rows)
        self.vectors.append(vectors.cpu())
        self.prompts.append(text.cpu())
        return put(text)

    def _before(self, batch: int) -> Tensor:
        """The embeddings (B, K, W) that the search of a step starts from."""
        if self.vectors:
            return self.vectors[-1]
        return self._learner.read_vectors().repeat(batch, 1, 1)
