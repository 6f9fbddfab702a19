"""`nn.MultiheadAttention` without the rule that its width is that of its heads together."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OpenAttention(nn.MultiheadAttention):
    """The same answers, from what the weights say: heads, query and value dimensions may each be any number.

    It takes the inputs of `nn.MultiheadAttention`, and gives the same outputs; how many heads there are says
    `num_heads`.
    """

    _qkv_same_embed_dim = False
    """What torch asks before it takes a shortcut around `forward`."""
    scale: float
    """Of queries, as the dense network has it."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As copies are made."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__.pop("_qkv_same_embed_dim", None)  # torch has it true where it is not said

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Query [N, T, E], key and value [N, S, E] where `batch_first`, else [T, N, E]; or without N.

        `is_causal` is a hint about `attn_mask`, as in torch, and changes nothing.
        """
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value))
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        projected = zip((query, key, value), self._projections(), strict=True)
        q, k, v = (F.linear(x, weight, bias) for x, (weight, bias) in projected)
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat((x, own.expand(len(x), 1, -1)), 1) for x, own in ((k, self.bias_k), (v, self.bias_v)))
        q, k, v = (self._heads(x) for x in (q, k, v))
        if self.add_zero_attn:
            k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
        if not batched and key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        mask = self._mask(q, attn_mask, key_padding_mask)
        if mask is not None:  # what is added to the keys is always looked at
            mask = F.pad(mask, (0, (self.bias_k is not None) + self.add_zero_attn))
        weights = (q * self.scale) @ k.transpose(-2, -1)
        weights = torch.softmax(weights if mask is None else weights + mask, -1)
        weights = F.dropout(weights, self.dropout, self.training)
        answer = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        answer = answer if self.batch_first else answer.transpose(0, 1)
        if not batched:
            answer = answer.squeeze(0 if self.batch_first else 1)
        if not need_weights:
            return answer, None
        weights = weights.mean(1) if average_attn_weights else weights
        return answer, weights if batched else weights.squeeze(0)

    def _projections(self) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias for queries, keys and values; packed ones are of equal heads, values last."""
        if self.in_proj_weight is None:
            biases = [None] * 3 if self.in_proj_bias is None else self._packed(self.in_proj_bias)
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
            return list(zip(weights, biases, strict=True))
        biases = [None] * 3 if self.in_proj_bias is None else self._packed(self.in_proj_bias)
        return list(zip(self._packed(self.in_proj_weight), biases, strict=True))

    def _packed(self, rows: Tensor) -> list[Tensor]:
        """Queries', keys' and values' rows of what holds all three."""
        values = self.out_proj.weight.shape[1]
        queries = (len(rows) - values) // 2
        return [rows[:queries], rows[queries : 2 * queries], rows[2 * queries :]]

    def _heads(self, x: Tensor) -> Tensor:
        """[N, T, heads * dim] as [N, heads, T, dim]."""
        heads: Tensor = x.unflatten(-1, (self.num_heads, -1))
        return heads.transpose(1, 2)

    def _mask(self, q: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """What is added to the scores [N, heads, T, S]: boolean masks leave out where they are true."""
        mask = None
        for each, padded in ((attn_mask, False), (padding, True)):
            if each is None:
                continue
            if each.dtype == torch.bool:
                each = torch.zeros_like(each, dtype=q.dtype).masked_fill_(each, -torch.inf)
            if padded:
                each = each[:, None, None]
            elif each.dim() == 3:
                each = each.view(len(q), -1, *each.shape[1:])
            mask = each if mask is None else mask + each
        return mask


def opened(model: nn.Module) -> nn.Module:
    """The network, whose attention layers of torch's own class are such; in place."""
    for module in model.modules():
        if type(module) is nn.MultiheadAttention:
            open_attention(module)
    return unnested(model)


def unnested(model: nn.Module) -> nn.Module:
    """The network, whose encoders give such layers tensors with padding, and no nested ones; in place."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(x, OpenAttention) for x in module.modules()):
            module.use_nested_tensor = False
    return model


def open_attention(module: nn.MultiheadAttention) -> None:
    """Make one such."""
    module.scale = float(module.head_dim) ** -0.5
    module.__dict__.pop("_qkv_same_embed_dim", None)
    module.__class__ = OpenAttention
