"""Phrases in the tokens of GroundingDINO's text encoder, BERT, and which tokens are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from .checkpoints import UnfitFile
from .phrases import caption, head_span

if TYPE_CHECKING:
    import tokenizers
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

VOCABULARY = Path(__file__).parent / "bert" / "vocab.txt"

BertTokenizer: TypeAlias = "tokenizers.Tokenizer | BertWordPieceTokenizer"


@dataclass(frozen=True, eq=False)
class PhraseTokens:
    """A list of P phrases as the model reads it.

    ids: (1, N). words, heads: (P, N), True on the tokens of each phrase, and of its head noun.
    """

    ids: Tensor
    words: Tensor
    heads: Tensor


def load_tokenizer(folder: Path | None = None) -> BertTokenizer:
    """BERT's tokenizer: a folder's own tokenizer.json or vocab.txt, else the pack's vocabulary.

    Raises UnfitFile for a damaged tokenizer.json.
    """
    from tokenizers import Tokenizer
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

    if folder is not None and (folder / "tokenizer.json").is_file():
        file = folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the only class that tokenizers raises
            raise UnfitFile(
                f"{file} cannot be read as a tokenizer ({error}). Copy it again from the published "
                "folder, or remove it: this pack has BERT's vocabulary."
            ) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    own = folder / "vocab.txt" if folder is not None else VOCABULARY
    return BertWordPieceTokenizer(str(own if own.is_file() else VOCABULARY), lowercase=True)


def tokenize_phrases(tokenizer: BertTokenizer, phrases: tuple[str, ...]) -> PhraseTokens:
    """The tokens of cleaned phrases, and which of them belong to each phrase and head noun."""
    text, spans = caption(phrases)
    encoding = tokenizer.encode(text)
    heads = [
        (first + head_span(phrase)[0], first + head_span(phrase)[1])
        for phrase, (first, _) in zip(phrases, spans, strict=True)
    ]
    offsets = torch.tensor(encoding.offsets)
    return PhraseTokens(
        torch.tensor([encoding.ids]), _inside(offsets, spans), _inside(offsets, heads)
    )


def _inside(offsets: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """(P, N): tokens (N, 2) of first and first-behind characters that lie in each span."""
    ends = torch.tensor(spans)[:, None]
    is_text = offsets[:, 1] > offsets[:, 0]
    return (offsets[:, 0] >= ends[..., 0]) & (offsets[:, 1] <= ends[..., 1]) & is_text


def split_into_chunks(
    tokenizer: BertTokenizer, phrases: tuple[str, ...], limit: int
) -> list[tuple[str, ...]]:
    """The phrases in lists whose texts have at most `limit` tokens each.

    Raises ValueError for a phrase that is too long alone.
    """
    chunks: list[list[str]] = [[]]
    room = limit - 2  # the first and the last token
    for phrase in phrases:
        length = len(tokenizer.encode(f"{phrase}.").ids) - 2
        if length > limit - 2:
            raise ValueError(
                f'the source phrase "{phrase[:60]}..." has {length} tokens, a detector reads '
                f"{limit - 2}. Name the object in fewer words."
            )
        if length > room:
            chunks.append([])
            room = limit - 2
        chunks[-1].append(phrase)
        room -= length
    return [tuple(chunk) for chunk in chunks if chunk]
