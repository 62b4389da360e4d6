"""The demo model's text encoder: ComfyUI's CLIPTextModel, 128 wide, end-of-text padding."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTEXT_DIM = 128
VOCABULARY = 49_408
CLIP_CONFIG = {
    "hidden_size": CONTEXT_DIM,
    "intermediate_size": 4 * CONTEXT_DIM,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "projection_dim": CONTEXT_DIM,
}


def text_states(text_model: Any, embeddings: Tensor) -> Tensor:
    """Final states (B, N, 128) of ComfyUI's CLIPTextModel_ for token embeddings (B, N, 128).

    Differs from ComfyUI's own forward: its layers add in place, which autograd does not allow.
    """
    x = embeddings + text_model.embeddings.position_embedding.weight
    for layer in text_model.encoder.layers:
        x = x + _attend(layer.self_attn, layer.layer_norm1(x))
        x = x + layer.mlp(layer.layer_norm2(x))
    return text_model.final_layer_norm(x)


def _attend(attention: Any, x: Tensor) -> Tensor:
    split = (*x.shape[:2], attention.heads, -1)
    q, k, v = (
        projection(x).reshape(split).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return attention.out_proj(out.transpose(1, 2).flatten(2))


class TrainableText(nn.Module):
    """A CLIPTextModel_ behind a table of the captions' tokens, plus one for all others."""

    token_ids: Tensor

    def __init__(self, text_model: Any, token_ids: list[int]):
        super().__init__()
        self.text_model = text_model
        text_model.embeddings.token_embedding = nn.Identity()
        self.table = nn.Embedding(len(token_ids) + 1, CONTEXT_DIM)
        self.register_buffer("token_ids", torch.tensor(token_ids))
        nn.init.normal_(self.table.weight, std=0.5)

    @property
    def unknown(self) -> int:
        """Compact id of every token outside the captions' vocabulary."""
        return len(self.token_ids)

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        """Take over a weight file's layers and the table rows of the words that it knows."""
        prefix = "text_model."
        layers = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        self.text_model.load_state_dict(layers)
        known = {token: row for row, token in enumerate(weights["token_ids"].tolist())}
        with torch.no_grad():
            self.table.weight[-1] = weights["table"][-1]
            for row, token in enumerate(self.token_ids.tolist()):
                if token in known:
                    self.table.weight[row] = weights["table"][known[token]]

    def forward(self, ids: Tensor) -> Tensor:
        """States (B, N, 128) of compact ids (B, N)."""
        return text_states(self.text_model, self.table(ids))


def expand_table(token_ids: Tensor, table: Tensor) -> Tensor:
    """Embedding (49408, 128) for ComfyUI's tokenizer: unknown tokens have the table's last row."""
    full = table[-1].expand(VOCABULARY, -1).clone()
    full[token_ids.long()] = table[:-1]
    return full
