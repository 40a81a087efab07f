"""Networks that judge whether two pictures belong together, by the tokens of both: ``CrossNet`` and ``TransportNet``.

Both take a query with a list of candidates, tokens of any length (only directions count, so int8 codes cast to float or signs of
1 and -1 do as well as the descriptors), any number of tokens on either side, and the first stage's cosine; both give a logit a
candidate. ``correspondences`` says which token of the one picture they lay on which of the other. They're made of what exports
to ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - what everybody calls it

from pixdex.errors import ConfigError

__all__ = ["FORMS", "CrossNet", "CrossShape", "PairNet", "TransportNet", "TransportShape", "described", "made"]

FORMS: Mapping[str, Mapping[str, Any]] = {
    "query": {},
    "self+cross": {"attention": "both", "layers": 3},
    "symmetric": {"attention": "symmetric"},
}
"""Forms of ``cross`` by name, as values of its shape: the query's tokens attend; those of both do; the same whichever picture asks."""
_TINY = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossShape:
    """The measures of a ``CrossNet``.

    Attributes:
        token_dim: width of a token.
        dim: width inside.
        heads: attention heads.
        before: blocks in which the tokens of a picture attend to one another before the other is seen. The query's cost once
            a query.
        layers: blocks in which they attend to those of the other picture, and to one another.
        hidden: width of the feed-forward parts.
        attention: ``query``: only the query's tokens attend, the candidate's are attended to, which is cheap; ``both``: the
            candidate's tokens do all the same, in every block; ``symmetric``: the candidate's side is read too, so that two
            pictures get the same score whichever of them asks.
    """

    token_dim: int
    dim: int = 128
    heads: int = 4
    before: int = 1
    layers: int = 2
    hidden: int = 256
    attention: Literal["query", "both", "symmetric"] = "query"

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ConfigError(f"dim={self.dim} is no multiple of heads={self.heads}")
        if self.attention not in {"query", "both", "symmetric"}:
            raise ConfigError(f"attention={self.attention!r}: query, both or symmetric")
        if self.layers < 1 or self.before < 0:
            raise ConfigError(f"layers={self.layers}, before={self.before}: 1 or more, 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportShape:
    """The measures of a ``TransportNet``.

    Attributes:
        token_dim: width of a token.
        dim: width in which tokens are compared.
        hidden: width of what refines a token before that.
        iterations: of Sinkhorn's scaling.
        temperature: similarities are multiplied by it.
    """

    token_dim: int
    dim: int = 128
    hidden: int = 256
    iterations: int = 10
    temperature: float = 10.0


class CrossNet(nn.Module):
    """A transformer in which the tokens of the query look at those of a candidate.

    The idea of asymmetric matching by attention is that of Suma et al.: AMES, ECCV 2024, and of Tan, Yuan, Ordonez:
    Instance-level Image Retrieval using Reranking Transformers, ICCV 2021; smaller, with attention within a picture and across
    as two calls, and with two numbers a token that say how near and how mutual its best match is, so that what MaxSim
    knows need not be learned.
    """

    def __init__(self, shape: CrossShape) -> None:
        super().__init__()
        self.shape = shape
        dim = shape.dim
        self.embed = nn.Sequential(nn.Linear(shape.token_dim, dim), nn.LayerNorm(dim))
        self.nearness = nn.Linear(2, dim)
        self.matching = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.before = nn.ModuleList(_Block(shape, cross=False, within=True) for _ in range(shape.before))
        # The matching token and the others exchange what they found in all blocks but the first.
        self.blocks = nn.ModuleList(_Block(shape, cross=True, within=i > 0) for i in range(shape.layers))
        self.norm = nn.LayerNorm(dim)
        self.read = nn.Sequential(nn.Linear(2 * dim + 1, dim), nn.GELU(), nn.Linear(dim, 1))

    def forward(
        self, query: Tensor, query_mask: Tensor, candidates: Tensor, candidate_mask: Tensor, first: Tensor
    ) -> Tensor:
        """Logits ``[q, n]`` of ``n`` candidates for each of ``q`` queries.

        ``query`` is ``[q, tq, d]``, ``candidates`` ``[q, n, td, d]``; the masks ``[q, tq]`` and ``[q, n, td]`` are 1 where
        there is a token, else 0; ``first`` ``[q, n]`` is the cosine of the first stage. All float.
        """
        return self._score(query, query_mask, candidates, candidate_mask, first)[0]

    def correspondences(self, query: Tensor, query_mask: Tensor, candidates: Tensor, candidate_mask: Tensor) -> Tensor:
        """``[q, n, tq, td]``: how much each token of the query looks at each of a candidate, all heads of the first block."""
        first = candidate_mask.new_zeros(candidate_mask.shape[:2])
        return self._score(query, query_mask, candidates, candidate_mask, first, looks=True)[1]

    def _score(
        self,
        query: Tensor,
        query_mask: Tensor,
        candidates: Tensor,
        candidate_mask: Tensor,
        first: Tensor,
        *,
        looks: bool = False,
    ) -> tuple[Tensor, Tensor]:
        queries, count = first.shape
        form = self.shape.attention
        query, candidates = _unit(query), _unit(candidates)
        with _exactly(query):
            cosines = _cosines(query, query_mask, candidates, candidate_mask)
            near = self._near(cosines)
        x, own = self._begun(query, query_mask)
        x = x[:, None].expand(-1, count, -1, -1).flatten(0, 1) + near
        own = own[:, None].expand(-1, count, -1).flatten(0, 1)
        y, others = candidates.flatten(0, 1), candidate_mask.flatten(0, 1)
        if form == "query":
            y = self.embed(y)
        else:
            y, others = self._begun(y, others)
        if form == "symmetric":
            with _exactly(query):
                y = y + self._near(cosines.transpose(2, 3))
        look = self._looks(x, y, others) if looks else x
        look = look[:, 1:] if form == "query" else look[:, 1:, 1:]  # without the matching tokens
        for block in self.blocks:
            if form == "query":
                x = block(x, own, y, others)
            else:
                x, y = block(x, own, y, others), block(y, others, x, own)
        logits = self._read(x, own, first, query)
        if form == "symmetric":
            logits = (logits + self._read(y, others, first, query)) / 2
        return logits, look.reshape(queries, count, *look.shape[1:])

    def _begun(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """One picture's tokens with the matching token before them, and the mask of both, before the other is seen."""
        x = torch.cat([self.matching.expand(tokens.shape[0], -1, -1), self.embed(tokens)], dim=1)
        own = F.pad(mask, (1, 0), value=1.0)
        for block in self.before:
            x = block(x, own, None, None)
        return x, own

    def _near(self, cosines: Tensor) -> Tensor:
        """What the tokens of the third axis learn of their best matches, ``[q * n, 1 + t, dim]``; the matching token nothing."""
        return F.pad(self.nearness(_nearness(cosines)).flatten(0, 1), (0, 0, 1, 0))

    def _read(self, x: Tensor, own: Tensor, first: Tensor, like: Tensor) -> Tensor:
        """Logits ``[q, n]`` from one side."""
        x = self.norm(x)
        pooled = _mean(x[:, 1:], own[:, 1:])
        read = torch.cat([x[:, 0], pooled, first.flatten()[:, None].to(x.dtype)], dim=1)
        with _exactly(like):
            logits: Tensor = self.read(read.to(like.dtype))
        return logits.view(first.shape[0], first.shape[1])

    def _looks(self, x: Tensor, y: Tensor, others: Tensor) -> Tensor:
        """The weights of the first block's attention across, the mean of all heads ``[q * n, tx, ty]``."""
        first = self.blocks[0]
        assert isinstance(first, _Block)  # noqa: S101 - the list forgets it
        assert first.across is not None  # noqa: S101
        return first.across.weights(x, y, others)


class TransportNet(nn.Module):
    """Votes of an optimal transport between the tokens of two pictures.

    Tokens are embedded and compared; each may also go to a dustbin at a price of its own; the plan that Sinkhorn's scaling
    finds says for every token how well it is matched, and its votes are added up. The idea is that of ELViS (Suma et al., ICLR
    2026), its dustbins are those of Sarlin et al.: SuperGlue, CVPR 2020. Similarities are cosines times 10, whose exponentials
    float32 holds, so the scaling needs no logarithms.
    """

    def __init__(self, shape: TransportShape) -> None:
        super().__init__()
        self.shape = shape
        dim = shape.dim
        self.embed = nn.Sequential(nn.Linear(shape.token_dim, dim), nn.LayerNorm(dim))
        back = nn.Linear(shape.hidden, dim)
        self.refine = nn.Sequential(nn.Linear(dim, shape.hidden), nn.GELU(), back)
        self.dustbin = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, 1), nn.Tanh())
        self.corner = nn.Parameter(torch.zeros(()))
        last, reads = nn.Linear(16, 1), (nn.Linear(3, 64), nn.Linear(64, 1))
        self.vote = nn.Sequential(nn.Linear(2, 16), nn.LayerNorm(16), nn.GELU(), last, nn.Sigmoid())
        self.read = nn.Sequential(reads[0], nn.GELU(), reads[1])
        nn.init.zeros_(back.weight)  # it starts as nothing but its input
        nn.init.zeros_(back.bias)
        # Scores begin by rising with what matches. Where chance has them fall, training first moves all tokens to the dustbins,
        # from where no gradient leads back.
        with torch.no_grad():
            few, many = self.vote(torch.tensor([[0.0, 0.5], [0.5, 1.0]]))[:, 0]
            last.weight.mul_(1.0 if many > few else -1.0)
            for layer in reads:
                layer.weight.abs_()

    def forward(
        self, query: Tensor, query_mask: Tensor, candidates: Tensor, candidate_mask: Tensor, first: Tensor
    ) -> Tensor:
        """As ``CrossNet.forward``."""
        plan, cosines = self._transport(query, query_mask, candidates, candidate_mask)
        theirs = query_mask[:, None].expand(-1, first.shape[1], -1)
        with _exactly(query):
            return self._votes(plan, cosines, theirs, candidate_mask, first)

    def _votes(self, plan: Tensor, cosines: Tensor, theirs: Tensor, candidate_mask: Tensor, first: Tensor) -> Tensor:
        rows = self.vote(torch.stack([plan.amax(dim=3), cosines.amax(dim=3)], dim=3))[..., 0]
        columns = self.vote(torch.stack([plan.amax(dim=2), cosines.amax(dim=2)], dim=3))[..., 0]
        logits: Tensor = self.read(torch.stack([_share(rows, theirs), _share(columns, candidate_mask), first], dim=2))
        return logits[..., 0]

    def correspondences(self, query: Tensor, query_mask: Tensor, candidates: Tensor, candidate_mask: Tensor) -> Tensor:
        """``[q, n, tq, td]``: the plan, how much of each token of the query goes to each of a candidate."""
        return self._transport(query, query_mask, candidates, candidate_mask)[0]

    def _embedded(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors and the price of the dustbin ``[..., t]``."""
        x = self.embed(_unit(tokens))
        x = x + self.refine(x)
        return _unit(x), self.dustbin(x)[..., 0]

    def _transport(
        self, query: Tensor, query_mask: Tensor, candidates: Tensor, candidate_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The plan and the cosines, ``[q, n, tq, td]`` float32; the latter -1 where there is no token."""
        (x, x_bin), (y, y_bin) = self._embedded(query), self._embedded(candidates)
        with _exactly(query):
            return self._scaled(x.float(), x_bin.float(), query_mask, y.float(), y_bin.float(), candidate_mask)

    def _scaled(
        self, x: Tensor, x_bin: Tensor, query_mask: Tensor, y: Tensor, y_bin: Tensor, candidate_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        both = query_mask[:, None, :, None] * candidate_mask[:, :, None, :]
        cosines = x[:, None] @ y.transpose(2, 3)
        hot = self.shape.temperature
        count = candidate_mask.shape[1]
        inner = torch.exp(hot * cosines) * both
        right = (torch.exp(hot * x_bin) * query_mask)[:, None, :, None].expand(-1, count, -1, -1)
        below = (torch.exp(hot * y_bin) * candidate_mask)[:, :, None, :]
        corner = torch.exp(hot * torch.tanh(self.corner.float())).expand(*candidate_mask.shape[:2], 1, 1)
        kernel = torch.cat([torch.cat([inner, right], dim=3), torch.cat([below, corner], dim=3)], dim=2)
        ours = query_mask[:, None].expand(-1, count, -1)
        rows = torch.cat([ours, candidate_mask.sum(dim=2, keepdim=True)], dim=2)[..., None]
        columns = torch.cat([candidate_mask, ours.sum(dim=2, keepdim=True)], dim=2)[..., None]
        turned = kernel.transpose(2, 3)
        v = torch.ones_like(columns)
        for _ in range(self.shape.iterations):
            u = rows / (kernel @ v + _TINY)
            v = columns / (turned @ u + _TINY)
        plan = (kernel * u * v.transpose(2, 3))[:, :, :-1, :-1]
        return plan, cosines * both - (1 - both)


PairNet: TypeAlias = CrossNet | TransportNet


def made(kind: str, values: Mapping[str, Any]) -> PairNet:
    """The network of a kind, ``cross`` or ``transport``, and the values of its shape.

    Raises:
        ConfigError: no such kind, or not such values.
    """
    try:
        if kind == "cross":
            return CrossNet(CrossShape(**values))
        if kind == "transport":
            return TransportNet(TransportShape(**values))
    except TypeError as error:
        raise ConfigError(f"{kind} cannot be made of {dict(values)}: {error}") from error
    raise ConfigError(f"no network {kind!r}: cross, transport")


def described(net: PairNet) -> dict[str, Any]:
    """What ``made`` takes: ``{"kind": ..., "shape": ...}``."""
    return {"kind": "cross" if isinstance(net, CrossNet) else "transport", "shape": asdict(net.shape)}


class _Block(nn.Module):
    """Attention across, attention within, feed-forward; each on normalized input and added."""

    def __init__(self, shape: CrossShape, *, cross: bool, within: bool) -> None:
        super().__init__()
        dim = shape.dim
        self.across = _Attention(dim, shape.heads, shared=False) if cross else None
        self.within = _Attention(dim, shape.heads, shared=True) if within else None
        self.forth = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, shape.hidden), nn.GELU(), nn.Linear(shape.hidden, dim)
        )

    def forward(self, x: Tensor, own: Tensor, y: Tensor | None, others: Tensor | None) -> Tensor:
        if self.across is not None and y is not None and others is not None:
            x = x + self.across(x, y, others)
        if self.within is not None:
            x = x + self.within(x, x, own)
        made: Tensor = x + self.forth(x)
        return made


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, *, shared: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.norm_other = None if shared else nn.LayerNorm(dim)
        self.asks = nn.Linear(dim, dim)
        self.tells = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self._parts(x, y)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=_allowed(mask, q.dtype))
        made: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return made

    def weights(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        q, k, _ = self._parts(x, y)
        weights: Tensor = ((q @ k.transpose(2, 3)) * q.shape[3] ** -0.5 + _allowed(mask, q.dtype)).softmax(dim=3)
        return weights.mean(dim=1)

    def _parts(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.asks(self.norm(x))
        k, v = self.tells((self.norm if self.norm_other is None else self.norm_other)(y)).chunk(2, dim=2)
        return self._split(q), self._split(k), self._split(v)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


def _exactly(like: Tensor) -> torch.autocast:
    """No bfloat16 inside, which is too coarse to tell near matches apart."""
    return torch.autocast(like.device.type, enabled=False)


def _allowed(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention ``[n, 1, 1, t]``: very little to tokens, as good as everything away from the others."""
    return ((mask - 1) * 1e4).to(dtype)[:, None, None, :]


def _cosines(query: Tensor, query_mask: Tensor, candidates: Tensor, candidate_mask: Tensor) -> Tensor:
    """``[q, n, tq, td]``; where there is no token, below all others."""
    cosines = query[:, None] @ candidates.transpose(2, 3)
    return cosines + 2 * (candidate_mask[:, :, None, :] - 1) + 2 * (query_mask[:, None, :, None] - 1)


def _nearness(cosines: Tensor) -> Tensor:
    """``[q, n, t, 2]``: the cosine of each token of the third axis with its best match, and how much more that match likes
    another.
    """
    best, at = cosines.max(dim=3)
    liked = cosines.amax(dim=2).gather(2, at)
    return torch.stack([best, liked - best], dim=3)


def _unit(x: Tensor) -> Tensor:
    """The last axis scaled to length one; zeros stay zeros."""
    return x / (x.square().sum(dim=-1, keepdim=True) + _TINY * _TINY).sqrt()


def _mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask[..., None]).sum(dim=1) / (mask.sum(dim=1, keepdim=True) + _TINY)


def _share(votes: Tensor, mask: Tensor) -> Tensor:
    """The votes of the tokens that there are, as a share of all of them."""
    return (votes * mask).sum(dim=2) / (mask.sum(dim=2) + _TINY)
