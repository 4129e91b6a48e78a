"""Two-layer models in the layouts of other code bases, written anew from their formulas."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.public.measure import LONGEST, TOKENS, WORDS, seeded

WIDTH, HIDDEN, HEADS, GROUPS, HEAD, LAYERS, EPS = 256, 256, 4, 2, 64, 2, 1e-5


def speeds() -> Tensor:
    """Angles of a position by half columns, [LONGEST, HEAD / 2]."""
    return torch.outer(torch.arange(float(LONGEST)), 1e4 ** (-torch.arange(0, HEAD, 2) / HEAD))


def linear(given: int, made: int) -> nn.Linear:
    return nn.Linear(given, made, bias=False)


class Gained(nn.Module):
    """RMSNorm with a gain behind the cast."""

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt((wide * wide).mean(dim=-1, keepdim=True) + EPS)
        return normed.type_as(x) * self.weight


class Cached(nn.Module):
    """Keys and values [1, GROUPS, LONGEST, HEAD], and attention over what is written of them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.zeros(1, GROUPS, LONGEST, HEAD))
        self.register_buffer("values", torch.zeros(1, GROUPS, LONGEST, HEAD))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, at: Tensor) -> Tensor:
        """Heads [1, heads, tokens, HEAD] at positions [tokens] -> [1, tokens, HEADS * HEAD]."""
        self.keys[:, :, at] = k
        self.values[:, :, at] = v
        seen = (torch.arange(LONGEST) <= at[:, None])[None, None]
        keys, values = (
            held.repeat_interleave(HEADS // GROUPS, 1) for held in (self.keys, self.values)
        )
        y = functional.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
        return y.transpose(1, 2).flatten(2)


class PairsAttention(Cached):
    """gpt-fast's layout: one projection, neighbouring columns, a table [LONGEST, HEAD / 2, 2]."""

    def __init__(self):
        super().__init__()
        self.wqkv = linear(WIDTH, (HEADS + 2 * GROUPS) * HEAD)
        self.wo = linear(HEADS * HEAD, WIDTH)

    def forward(self, x: Tensor, table: Tensor, at: Tensor) -> Tensor:
        count = x.shape[1]
        q, k, v = self.wqkv(x).split([HEADS * HEAD, GROUPS * HEAD, GROUPS * HEAD], dim=-1)
        q = turned_pairs(q.view(1, count, HEADS, HEAD), table).transpose(1, 2)
        k = turned_pairs(k.view(1, count, GROUPS, HEAD), table).transpose(1, 2)
        v = v.view(1, count, GROUPS, HEAD).transpose(1, 2)
        return self.wo(self.attend(q, k, v, at))


def turned_pairs(x: Tensor, table: Tensor) -> Tensor:
    """[1, tokens, heads, HEAD], turned by [tokens, HEAD / 2, 2]."""
    pairs = x.float().reshape(*x.shape[:-1], -1, 2)
    table = table.view(1, x.shape[1], 1, HEAD // 2, 2)
    real = pairs[..., 0] * table[..., 0] - pairs[..., 1] * table[..., 1]
    imaginary = pairs[..., 1] * table[..., 0] + pairs[..., 0] * table[..., 1]
    return torch.stack((real, imaginary), -1).flatten(3).type_as(x)


class PairsModel(nn.Module):
    """gpt-fast's layout: the residual is the second term of each sum."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, WIDTH), linear(WIDTH, WORDS)
        self.attention = nn.ModuleList(PairsAttention() for _ in range(LAYERS))
        self.w1, self.w3, self.w2 = (
            nn.ModuleList(linear(*sizes) for _ in range(LAYERS))
            for sizes in ((WIDTH, HIDDEN), (WIDTH, HIDDEN), (HIDDEN, WIDTH))
        )
        self.norms = nn.ModuleList(Gained() for _ in range(2 * LAYERS + 1))
        turn = torch.polar(torch.ones_like(speeds()), speeds())
        self.register_buffer("table", torch.view_as_real(turn))

    def forward(self, ids: Tensor, at: Tensor) -> Tensor:
        x, table = self.words(ids), self.table[at]
        for index, attention in enumerate(self.attention):
            h = x + attention(self.norms[2 * index](x), table, at)
            y = self.norms[2 * index + 1](h)
            x = h + self.w2[index](functional.silu(self.w1[index](y)) * self.w3[index](y))
        return self.head(self.norms[-1](x))


class GainlessModel(nn.Module):
    """nanochat's layout: norms without a gain, also of the words and of turned queries and keys,
    halves turned the other way, squared ReLU, logits under a tanh."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, WIDTH), linear(WIDTH, WORDS)
        self.caches = nn.ModuleList(Cached() for _ in range(LAYERS))
        sizes = {"q": HEADS * HEAD, "k": GROUPS * HEAD, "v": GROUPS * HEAD, "up": HIDDEN}
        self.parts = nn.ModuleList(
            nn.ModuleDict({name: linear(WIDTH, size) for name, size in sizes.items()})
            for _ in range(LAYERS)
        )
        self.outs = nn.ModuleList(linear(HEADS * HEAD, WIDTH) for _ in range(LAYERS))
        self.downs = nn.ModuleList(linear(HIDDEN, WIDTH) for _ in range(LAYERS))
        self.register_buffer("cos", speeds().cos()[None, :, None])
        self.register_buffer("sin", speeds().sin()[None, :, None])

    def forward(self, ids: Tensor, at: Tensor) -> Tensor:
        x = gainless(self.words(ids))
        cos, sin = self.cos[:, at], self.sin[:, at]
        for parts, cache, out, down in zip(
            self.parts, self.caches, self.outs, self.downs, strict=True
        ):
            y = gainless(x)
            heads = [parts[name](y).unflatten(-1, (-1, HEAD)) for name in "qkv"]
            q, k = (gainless(turned_back(one, cos, sin)) for one in heads[:2])
            q, k, v = (one.transpose(1, 2) for one in (q, k, heads[2]))
            x = x + out(cache.attend(q, k, v, at))
            x = x + down(functional.relu(parts["up"](gainless(x))).square())
        return 15 * torch.tanh(self.head(gainless(x)) / 15)


def gainless(x: Tensor) -> Tensor:
    return functional.rms_norm(x, (x.size(-1),), eps=EPS)


def turned_back(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[1, tokens, heads, HEAD], halves turned by minus the angle."""
    half = x.shape[3] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos + b * sin, a * (-sin) + b * cos], 3).to(x.dtype)


def packed_projections() -> tuple[nn.ModuleList, ...]:
    """Of each layer: queries, keys and values in one, what joins the heads, gate and up in one,
    down."""
    return tuple(
        nn.ModuleList(linear(*sizes) for _ in range(LAYERS))
        for sizes in (
            (WIDTH, (HEADS + 2 * GROUPS) * HEAD),
            (HEADS * HEAD, WIDTH),
            (WIDTH, 2 * HIDDEN),
            (HIDDEN, WIDTH),
        )
    )


class FlatModel(nn.Module):
    """vLLM's and SGLang's native layers: flat tokens, sums and norms in float32, cosines beside
    sines in one cache, packed projections."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, WIDTH), linear(WIDTH, WORDS)
        self.caches = nn.ModuleList(Cached() for _ in range(LAYERS))
        self.qkv, self.out, self.gate_up, self.down = packed_projections()
        self.gains = nn.ParameterList(torch.ones(WIDTH) for _ in range(2 * LAYERS + 1))
        self.register_buffer("table", torch.cat((speeds().cos(), speeds().sin()), -1))

    def forward(self, ids: Tensor, at: Tensor) -> Tensor:
        x, residual = self.words(ids[0]), None
        for index, cache in enumerate(self.caches):
            x, residual = native_norm(x, residual, self.gains[2 * index])
            q, k, v = self.qkv[index](x).split([HEADS * HEAD, GROUPS * HEAD, GROUPS * HEAD], -1)
            q, k = (native_rotation(one, self.table, at) for one in (q, k))
            q, k, v = (one.view(1, -1, one.shape[-1] // HEAD, HEAD).mT for one in (q, k, v))
            q, k, v = (one.mT.transpose(1, 2) for one in (q, k, v))
            x = self.out[index](cache.attend(q, k, v, at)[0])
            x, residual = native_norm(x, residual, self.gains[2 * index + 1])
            packed = self.gate_up[index](x)
            half = packed.shape[-1] // 2
            x = self.down[index](functional.silu(packed[..., :half]) * packed[..., half:])
        x, _ = native_norm(x, residual, self.gains[-1])
        return self.head(x)[None]


def native_norm(x: Tensor, residual: Tensor | None, gain: Tensor) -> tuple[Tensor, Tensor]:
    """The norm of a sum, and the sum."""
    wide, kind = x.to(torch.float32), x.dtype
    if residual is not None:
        wide = wide + residual.to(torch.float32)
    total = wide.to(kind)
    wide = wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + EPS)
    return wide.to(kind) * gain, total


def native_rotation(x: Tensor, table: Tensor, at: Tensor) -> Tensor:
    """Flat heads [tokens, heads * HEAD] by a cache of cosines beside sines."""
    cos, sin = table.index_select(0, at).chunk(2, dim=-1)
    cos, sin = (one.unsqueeze(-2).to(x.dtype) for one in (cos, sin))
    a, b = torch.chunk(x.view(x.shape[0], -1, HEAD), 2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).reshape(x.shape)


class TokensFirstModel(nn.Module):
    """Megatron's layout: tokens first, queries, keys and values of a group side by side, a packed
    gate by chunk, gains of one plus a weight, angles in the model."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, WIDTH), linear(WIDTH, WORDS)
        self.caches = nn.ModuleList(Cached() for _ in range(LAYERS))
        self.qkv, self.out, self.fc1, self.fc2 = packed_projections()
        self.gains = nn.ParameterList(torch.ones(WIDTH) for _ in range(2 * LAYERS + 1))
        self.register_buffer("angles", torch.cat((speeds(), speeds()), -1))

    def forward(self, ids: Tensor, at: Tensor) -> Tensor:
        x = self.words(ids).transpose(0, 1).contiguous()  # [tokens, 1, WIDTH]
        turn = self.angles[at][:, None, None]
        for index, cache in enumerate(self.caches):
            mixed = self.qkv[index](zero_centred(x, self.gains[2 * index]))
            mixed = mixed.view(*x.shape[:2], GROUPS, (HEADS // GROUPS + 2) * HEAD)
            q, k, v = mixed.split([HEADS // GROUPS * HEAD, HEAD, HEAD], 3)
            q = q.reshape(*x.shape[:2], HEADS, HEAD)
            q, k = (turned_by_angles(one, turn) for one in (q, k))
            q, k, v = (one.permute(1, 2, 0, 3) for one in (q, k, v))
            x = x + self.out[index](cache.attend(q, k, v, at)).transpose(0, 1)
            y = self.fc1[index](zero_centred(x, self.gains[2 * index + 1]))
            gate, up = torch.chunk(y, 2, dim=-1)
            x = x + self.fc2[index](functional.silu(gate) * up)
        return self.head(zero_centred(x, self.gains[-1])).transpose(0, 1)


def zero_centred(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
    return (wide * (1.0 + weight.float())).to(x.dtype)


def turned_by_angles(x: Tensor, turn: Tensor) -> Tensor:
    """[tokens, 1, heads, HEAD] by angles [tokens, 1, 1, HEAD]."""
    a, b = torch.chunk(x, 2, dim=-1)
    cos, sin = torch.cos(turn).to(x.dtype), torch.sin(turn).to(x.dtype)
    return (x * cos) + (torch.cat((-b, a), dim=-1) * sin)


def model_of(kind: type[nn.Module]) -> nn.Module:
    """A seeded model, its tables as exact as bfloat16 and its angles as float32 have them."""
    model = seeded(kind())
    if isinstance(model, TokensFirstModel):
        model.angles = torch.cat((speeds(), speeds()), -1)
    return model


def step(model: nn.Module, tokens: Tensor, start: int) -> Tensor:
    """The next tokens; a prompt is `TOKENS` long."""
    assert start in (0, *range(TOKENS, LONGEST))
    return model(tokens, torch.arange(start, start + tokens.shape[1]))
