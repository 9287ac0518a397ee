"""SAM2's memory attention for many objects at once, with fixed shapes.

The same modules and weights as `sam2.modeling.memory_attention`. Equal to the official result up
to float rounding: what is absent is masked instead of left out, rotary encoding is computed with
real numbers (compilers know no complex ones), and objects share a call.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.segmenters.memory_bank import Recollection


class MemoryAttention:
    """Fuses a picture's features with what each object remembers."""

    def __init__(self, model: Any, recent: int, pointers: int) -> None:  # noqa: ANN401
        """`model`: a `SAM2Base` on its final device, whose parameters are shared.

        `recent` R and `pointers` P are sizes of the memory bank; K may be any.
        """
        attention = model.memory_attention
        self._layers = attention.layers
        self._norm = attention.norm
        self._recent = recent
        self._side = int(model.sam_image_embedding_size)
        self._dim, self._memory_dim = int(model.hidden_dim), int(model.mem_dim)
        device = next(model.parameters()).device
        dim, side = self._dim, self._side
        plain = torch.zeros(1, dim, side, side, device=device)
        self._positions = _tokens(model.image_encoder.neck.position_encoding(plain))
        self._at_input = 0.1 * self._positions if attention.pos_enc_at_input else None
        self._times = PointerTimes(model, pointers)
        self._spatial_positions = _spatial_positions(model, device)
        self._own = [
            (Rotated(attention.q_proj, attention), Rotated(attention.k_proj, attention))
            for attention in (layer.self_attn for layer in self._layers)
        ]
        self._cross = [
            (Rotated(attention.q_proj, attention), Rotated(attention.k_proj, attention))
            for attention in (layer.cross_attn_image for layer in self._layers)
        ]

    def look(self, coarse: Tensor) -> Tensor:
        """What does not depend on an object: features (S, C, h, w) to tokens (S, L, C)."""
        tokens = _tokens(coarse)
        if self._at_input is not None:
            tokens = tokens + self._at_input
        return self._self_attention(0, tokens)

    def read(self, looked: Tensor, memory: Recollection) -> Tensor:
        """Tokens (b, L, C) that `look` gave, a row an object, to features (b, C, h, w)."""
        values, keys = self._keys(memory)
        grid = memory.spatial.shape[1] * memory.spatial.shape[2]
        visible = memory.visible[:, None, None, :]
        tokens = looked
        for place, layer in enumerate(self._layers):
            if place:
                tokens = self._self_attention(place, tokens)
            tokens = self._cross_attention(place, tokens, keys, values, visible, grid)
            inner = layer.activation(layer.linear1(layer.norm3(tokens)))
            tokens = tokens + layer.linear2(inner)
        maps: Tensor = self._norm(tokens).transpose(1, 2)
        return maps.reshape(-1, self._dim, self._side, self._side)

    def _keys(self, memory: Recollection) -> tuple[Tensor, Tensor]:
        """Values and keys (b, T, M) before their projections."""
        rows = memory.spatial.shape[0]
        spatial = memory.spatial.flatten(1, 2).to(memory.pointers.dtype)
        pointers = memory.pointers.reshape(rows, -1, self._memory_dim)
        values = torch.cat((spatial, pointers), dim=1)
        age = (memory.spatial_age - 1).clamp(0, self._recent - 1)
        held = memory.spatial.shape[1] - self._recent
        old = torch.full_like(memory.pointer_age[:, :held], self._recent)
        place = torch.cat((old, age), dim=1)
        positions = self._spatial_positions[place].flatten(1, 2)
        times = self._times.encode(memory.pointer_age)
        times = times.repeat_interleave(self._dim // self._memory_dim, dim=1)
        keys = values
        if self._layers[0].pos_enc_at_cross_attn_keys:
            keys = values + torch.cat((positions, times), dim=1)
        return values, keys

    def _self_attention(self, place: int, tokens: Tensor) -> Tensor:
        layer = self._layers[place]
        normed = layer.norm1(tokens)
        told = normed + self._positions if layer.pos_enc_at_attn else normed
        attention, heads = layer.self_attn, layer.self_attn.num_heads
        queries, keys = (_heads(projected.apply(told), heads) for projected in self._own[place])
        values = _heads(attention.v_proj(normed), heads)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        added: Tensor = attention.out_proj(_joined(mixed))
        return tokens + added

    def _cross_attention(
        self, place: int, tokens: Tensor, keys: Tensor, values: Tensor, visible: Tensor, grid: int
    ) -> Tensor:
        layer = self._layers[place]
        normed = layer.norm2(tokens)
        if layer.pos_enc_at_cross_attn_queries:
            normed = normed + self._positions
        attention, heads = layer.cross_attn_image, layer.cross_attn_image.num_heads
        asking, asked = self._cross[place]
        spatial, pointers = asked.apply(keys[:, :grid]), attention.k_proj(keys[:, grid:])
        mixed = F.scaled_dot_product_attention(
            _heads(asking.apply(normed), heads),
            _heads(torch.cat((spatial, pointers), dim=1), heads),
            _heads(attention.v_proj(values), heads),
            attn_mask=visible,
        )
        added: Tensor = attention.out_proj(_joined(mixed))
        return tokens + added


class Rotated:
    """A projection followed by the rotary position encoding of grids of tokens.

    Pairs of channels (2i, 2i + 1) are turned by the angles of sam2's `compute_axial_cis`; the
    partner of each channel comes from a second set of weights, which is faster than moving it.
    """

    def __init__(self, projection: Any, attention: Any) -> None:  # noqa: ANN401
        """`projection`: one of the linear layers of `attention`, a `RoPEAttention` built for the
        model's grid."""
        weight, bias = projection.weight.detach(), projection.bias.detach()
        self._weight = torch.cat((weight, _partners(weight)))
        self._bias = torch.cat((bias, _partners(bias)))
        angles = attention.freqs_cis.to(weight.device)
        self._cos, self._sin = (
            part.float().repeat_interleave(2, dim=1).repeat(1, attention.num_heads)
            for part in (angles.real, angles.imag)
        )

    def apply(self, tokens: Tensor) -> Tensor:
        """(b, n L, in) to (b, n L, out): n grids of L tokens, each turned in the same way."""
        grids = tokens.unflatten(1, (-1, self._cos.shape[0]))
        plain, partner = F.linear(grids, self._weight, self._bias).chunk(2, dim=-1)
        turned = torch.addcmul(plain * self._cos, partner, self._sin)
        return turned.type_as(plain).flatten(1, 2)


def _partners(rows: Tensor) -> Tensor:
    """Rows (2i, 2i + 1) to (-(2i + 1), 2i)."""
    pairs = rows.unflatten(0, (-1, 2))
    partners: Tensor = torch.stack((-pairs[:, 1], pairs[:, 0]), dim=1).flatten(0, 1)
    return partners


class PointerTimes:
    """Encodings of how old an object pointer is; see `sam2.modeling.sam2_utils.get_1d_sine_pe`."""

    def __init__(self, model: Any, normaliser: int) -> None:  # noqa: ANN401
        """`normaliser`: the age that counts as 1; 15 where there are 16 frames or more."""
        self._projection = model.obj_ptr_tpos_proj
        self._used = bool(model.add_tpos_enc_to_obj_ptrs)
        self._signed = bool(model.use_signed_tpos_enc_to_obj_ptrs)
        self._memory_dim = int(model.mem_dim)
        dim = int(model.hidden_dim) if model.proj_tpos_enc_in_obj_ptrs else self._memory_dim
        half = dim // 2
        place = torch.arange(half, dtype=torch.float32, device=next(model.parameters()).device)
        self._period = 10000 ** (2 * (place // 2) / half)
        self._normaliser = normaliser

    def encode(self, age: Tensor) -> Tensor:
        """int64 (b, p), below 0 for frames that are still to come, to float (b, p, M)."""
        if not self._used:
            return torch.zeros(*age.shape, self._memory_dim, device=age.device)
        if not self._signed:
            age = age.abs()
        phase = (age / self._normaliser)[..., None] / self._period
        encoded: Tensor = self._projection(torch.cat((phase.sin(), phase.cos()), dim=-1))
        return encoded


def _spatial_positions(model: Any, device: torch.device) -> Tensor:  # noqa: ANN401
    """(R + 1, L, M): by age - 1 for recent frames, the last one for conditioning frames."""
    side = int(model.sam_image_embedding_size)
    plain = torch.zeros(1, int(model.mem_dim), side, side, device=device)
    grid = _tokens(model.memory_encoder.position_encoding(plain))
    positions: Tensor = grid + model.maskmem_tpos_enc.detach().view(-1, 1, grid.shape[-1])
    return positions


def _tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


def _heads(tokens: Tensor, heads: int) -> Tensor:
    rows, count, dim = tokens.shape
    return tokens.reshape(rows, count, heads, dim // heads).transpose(1, 2)


def _joined(tokens: Tensor) -> Tensor:
    return tokens.transpose(1, 2).flatten(2)
