"""An inversion that was computed before: the latents of an image at every noise level of a
schedule, and what makes an edit from them.

It belongs to one model, size, schedule and prompt, and says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from torch import Tensor

from .ddim import Convention

ImageMethod: TypeAlias = Literal[
    "DDIM", "direct", "negative-prompt", "null-text", "edit-friendly", "regularised"
]
"""Methods that a person chooses from: they need an image and its prompt alone."""
INVERSION_METHODS: tuple[str, ...] = get_args(ImageMethod)
InversionMethod: TypeAlias = ImageMethod | Literal["DPL", "second-order"]
"""DPL and LEDITS++ ("second-order") make their own."""
BY_MAPS: tuple[str, ...] = ("edit-friendly", "second-order")
"""Methods with a noise map for each step."""
REPLAYED: tuple[str, ...] = ("direct", "edit-friendly")
"""Methods whose source branch takes the stored latents instead of its own."""
OPTIMISED: tuple[str, ...] = ("null-text", "DPL")
"""Methods whose steps have negative texts of their own."""
TimeSteps: TypeAlias = Literal["DDIM", "LCM"]
TIME_STEPS: tuple[str, ...] = get_args(TimeSteps)
"""Those that a person chooses from."""
Spacing: TypeAlias = TimeSteps | Literal["LEDITS++"]
SPACINGS: tuple[str, ...] = (*TIME_STEPS, "LEDITS++")


@dataclass(frozen=True, eq=False)
class Schedule:
    """The steps of a run: how many at strength 1, the share that runs, and their spacing. LEDITS++
    runs all steps at any strength, from a time step that it sets."""

    steps: int
    strength: float = 1.0
    time_steps: Spacing = "DDIM"

    def __post_init__(self) -> None:
        if self.time_steps not in SPACINGS:
            raise ValueError(
                f'time_steps is "{self.time_steps}". Choose one of {", ".join(TIME_STEPS)}.'
            )

    def __str__(self) -> str:
        return f"{self.steps} {self.time_steps} steps at strength {self.strength:g}"


@dataclass(frozen=True, eq=False)
class Inversion:
    """N steps of B images, from noise to image.

    method: how an edit uses it. "DDIM": every branch starts from the noise that was found.
        "direct" (Ju, Zeng, Bian, Liu, Xu: PnP Inversion, ICLR 2024, arXiv 2310.01506): the source
        branch takes the stored latents as well. "negative-prompt" (Miyake, Iohara, Saito, Tanaka,
        arXiv 2305.16807): the source prompt is the negative one. "null-text" (Mokady, Hertz,
        Aberman, Pritch, Cohen-Or, CVPR 2023, arXiv 2211.09794): each step has a negative text of
        its own. "regularised" (regularised.py): as "DDIM", from noise that was made more like white
        noise. "edit-friendly" (edit_friendly.py): DDPM steps with stored noise maps.
        "second-order" (second_order.py): the same, of order 2. "DPL" (dynamic_words.py): each step
        has embeddings of its own for some words of the prompt, and a negative text of its own.
    sigmas: N + 1 descending noise levels, the last one the image's. latents: (N + 1, B, C, h, w) at
        these levels, as the network sees the image. prompt: the text that was inverted with. model:
        the fingerprint of the model (host/inverting/fingerprint.py). guidance: the scale that null
        texts were found at, or that the inversion ran at.
    null_texts: (N, B, L, D), of "null-text" and "DPL". noise_maps: (N, B, C, h, w), of BY_MAPS.
    word_rows, word_vectors, word_texts: of "DPL": the rows of the words' tokens in the
        prompt, their input embeddings (N, B, K, W), and the prompt encoded with them (N, B, L, D).
    """

    method: InversionMethod
    schedule: Schedule
    sigmas: tuple[float, ...]
    latents: Tensor
    prompt: str
    model: str
    convention: Convention = "published code"
    guidance: float = 1.0
    null_texts: Tensor | None = None
    noise_maps: Tensor | None = None
    word_rows: tuple[int, ...] = ()
    word_vectors: Tensor | None = None
    word_texts: Tensor | None = None

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def replays_source(self) -> bool:
        """Whether the source branch takes the stored latents instead of its own."""
        return self.method in REPLAYED


def find_fault(inversion: Inversion) -> str:
    """What of an inversion is missing or too much, as a sentence without its end; "" where nothing
    is."""
    latents, levels = inversion.latents, inversion.sigmas
    if len(latents) != len(levels):
        return f"the inversion holds {len(latents)} latents for {len(levels)} noise levels"
    wanted, maps = (inversion.steps, *latents.shape[1:]), inversion.noise_maps
    if inversion.method in BY_MAPS and maps is None:
        return (
            f"the inversion is {inversion.method}, but holds no noise maps for its {wanted[0]} "
            "steps"
        )
    if maps is not None and maps.shape != wanted:
        return (
            f"the inversion holds noise maps of the shape {tuple(maps.shape)} (steps, batch, "
            f"channels, height, width), but needs {wanted}"
        )
    if inversion.method == "DPL":
        return _find_fault_of_words(inversion)
    return ""


def _find_fault_of_words(inversion: Inversion) -> str:
    vectors, texts, nulls = inversion.word_vectors, inversion.word_texts, inversion.null_texts
    if vectors is None or texts is None or nulls is None or not inversion.word_rows:
        return "the inversion is of DPL, but holds no embeddings or no texts of them"
    wanted = inversion.steps, inversion.latents.shape[1]
    if vectors.shape[:-1] != (*wanted, len(inversion.word_rows)):
        return (
            f"the inversion holds embeddings of the shape {tuple(vectors.shape)} (steps, batch, "
            f"words, channels), but needs {(*wanted, len(inversion.word_rows))} and channels"
        )
    if {texts.shape[:2], nulls.shape[:2]} != {wanted} or texts.shape[3:] != nulls.shape[3:]:
        return (
            f"the inversion holds texts of the shapes {tuple(texts.shape)} and "
            f"{tuple(nulls.shape)} (steps, batch, tokens, channels), but needs {wanted} and the "
            "same channels"
        )
    return ""


def require_whole(inversion: Inversion) -> None:
    """Raises ValueError when the tensors of an inversion do not fit each other."""
    if fault := find_fault(inversion):
        raise ValueError(f"{fault}. Invert the image again.")


def is_prompt_of(inversion: Inversion, prompt: str) -> bool:
    return inversion.prompt.strip() == prompt.strip()


def require_same_prompt(inversion: Inversion, prompt: str) -> None:
    """Raises ValueError when an inversion was made with another prompt."""
    if not is_prompt_of(inversion, prompt):
        raise ValueError(
            f'the inversion was made with the prompt "{inversion.prompt}", but this edit starts '
            f'from "{prompt}". Invert the image again with this prompt.'
        )


def require_same_model(inversion: Inversion, fingerprint: str) -> None:
    """Raises ValueError when an inversion was made with another model."""
    if inversion.model != fingerprint:
        raise ValueError(
            f"the inversion was made with the model {inversion.model[:12]}, but the model input is "
            f"{fingerprint[:12]} (fingerprints of weights, LoRAs and their strengths). Connect "
            "the model that the image was inverted with, or invert it again."
        )


def require_same_latent(inversion: Inversion, shape: Sequence[int]) -> None:
    """Raises ValueError when an inversion is of images of another size or number. shape: (B, C, h,
    w)."""
    inverted = tuple(inversion.latents.shape[1:])
    if inverted != tuple(shape):
        raise ValueError(
            f"the inversion holds latents of the shape {inverted} (batch, channels, height, "
            f"width), but the image has {tuple(shape)}. Invert this image at this size."
        )


def require_same_sigmas(inversion: Inversion, sigmas: Sequence[float]) -> None:
    """Raises ValueError when a run's noise levels, without the last, are not the inversion's."""
    own, given = inversion.sigmas[:-1], tuple(sigmas)[:-1]
    if len(own) != len(given):
        raise ValueError(
            f"the inversion has {len(own)} steps, but this run has {len(given)}. Use the steps and "
            "the strength of the inversion, or invert again."
        )
    if any(abs(a - b) > 1e-4 * a for a, b in zip(own, given, strict=True)):
        raise ValueError(
            f"the inversion runs from sigma {own[0]:.4g} to {own[-1]:.4g}, but this run from "
            f"{given[0]:.4g} to {given[-1]:.4g}. Use the sigmas of the inversion."
        )


def require_same_schedule(inversion: Inversion, schedule: Schedule) -> None:
    """Raises ValueError when an edit's steps, strength or spacing are not the inversion's."""
    if str(inversion.schedule) != str(schedule):
        raise ValueError(
            f"the inversion has {inversion.schedule}, but this edit has {schedule}. Set both "
            "to the same values, or invert again."
        )
