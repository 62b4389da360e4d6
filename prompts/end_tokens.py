"""End-token substitution (ETS): the end-of-text rows of a prompt, which hold its attributes too,
take those of a prompt without attributes.

Hu, Li, van de Weijer, Gao, Khan, Yang, Cheng, Wang, Wang: Token Merging for Training-Free Semantic
Binding in Text-to-Image Synthesis, NeurIPS 2024 (arXiv 2411.07132). Rows are taken by their number,
without alignment, as there.
"""

from __future__ import annotations

from torch import Tensor

from .alignment import EncodedPrompt


def substitute_end_tokens(prompt: EncodedPrompt, plain: EncodedPrompt) -> Tensor:
    """The prompt's embedding (N, D), whose rows after the words of each chunk are those of
    `plain`, the same prompt without attributes; of its last chunk where it has fewer.

    Raises ValueError when `plain` has words in these rows.
    """
    length = len(prompt.tokens.chunks[0])
    out = prompt.embedding.clone()
    for c, end in enumerate(prompt.tokens.ends):
        other = min(c, len(plain.tokens.ends) - 1)
        if plain.tokens.ends[other] > end:
            raise ValueError(
                f'the prompt without attributes ("{plain.text}") is longer than the prompt '
                f'("{prompt.text}"): {plain.tokens.ends[other] - 1} tokens, not at most {end - 1}. '
                "Name its objects alone, in the same order."
            )
        given = plain.embedding[other * length + end : (other + 1) * length]
        out[c * length + end : (c + 1) * length] = given.to(out)
    return out
