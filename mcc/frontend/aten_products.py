"""ATen rules: sums of products over named axes, and what is made of norms and sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from mcc.frontend.aten import aten
from mcc.frontend.aten_arithmetic import axes_of, maximum
from mcc.frontend.aten_reduce import vector_norm
from mcc.frontend.emitter import Emitter
from mcc.frontend.values import AnyValue, Const

Ints = Sequence[int]


@aten("einsum.default")
def einsum(e: Emitter, equation: str, tensors: Sequence[AnyValue]) -> AnyValue:
    """Two operands: a matrix product over the axes that the result does not have."""
    terms, _, result = equation.replace(" ", "").partition("->")
    names = terms.split(",")
    known = len(names) == len(tensors) == 2 and result and "." not in equation
    if not known or any(len(set(term)) != len(term) for term in (*names, result)):
        e.refuse(f"einsum {equation!r} is not supported", "write it for two operands, with its result")
    return _Product(e, names, tensors, result).made()


class _Product:
    """An einsum of two operands: axes of both and the result, of one, and summed over."""

    def __init__(self, e: Emitter, names: Sequence[str], tensors: Sequence[AnyValue], result: str) -> None:
        self.e = e
        self.names = list(names)
        self.tensors = list(tensors)
        self.result = result
        self.lengths = {
            letter: length
            for term, tensor in zip(names, tensors, strict=True)
            for letter, length in zip(term, e.shape(tensor), strict=True)
        }

    def made(self) -> AnyValue:
        """The result, its axes in their order."""
        if isinstance(self.tensors[0], Const):
            self.names.reverse()
            self.tensors.reverse()
        a, b = (self._summed(index) for index in (0, 1))
        e, lead = self.e, self.names[0][0]
        if lead != self.result[0] or (not isinstance(b, Const) and self.names[1][0] != lead):
            e.refuse("sums or moves the batch axis", "keep axis 0 for the batch")
        shared = [c for c in self.names[0] if c in self.names[1] and c in self.result]
        inner = [c for c in self.names[0] if c in self.names[1] and c not in self.result]
        own = [[c for c in term if c in self.result and c not in shared] for term in self.names]
        if isinstance(b, Const) and lead not in self.names[1]:
            return self._with_constant(a, b, shared, inner, own)
        left = self._matrix(a, 0, shared, own[0], inner)
        right = self._matrix(b, 1, shared, inner, own[1])
        product = e.call("matmul", left, right)
        return self._ordered(product, [*shared, *own[0], *own[1]])

    def _summed(self, index: int) -> AnyValue:
        """An operand without the axes that it alone has and the result has not."""
        value, term, other = self.tensors[index], self.names[index], self.names[1 - index]
        gone = [i for i, c in enumerate(term) if c not in other and c not in self.result]
        if not gone:
            return value
        self.names[index] = "".join(c for c in term if c in other or c in self.result)
        if isinstance(value, Const):
            return self.e.like(value, value.tensor.sum(gone))
        return self.e.call("sum", value, axes=axes_of(self.e, value, gone), keepdim=False)

    def _matrix(
        self, value: AnyValue, index: int, batch: Sequence[str], rows: Sequence[str], columns: Sequence[str]
    ) -> AnyValue:
        """An operand as [batch..., rows, columns]."""
        order = [self.names[index].index(c) for c in (*batch, *rows, *columns)]
        shape = [*(self.lengths[c] for c in batch[1:]), self._count(rows), self._count(columns)]
        if isinstance(value, Const):
            tensor = value.tensor.permute(order)
            return self.e.like(value, tensor.reshape(tensor.shape[0], *shape))
        return self.e.reshape(self.e.transpose(value, order), shape)

    def _with_constant(
        self, a: AnyValue, b: Const, shared: Sequence[str], inner: Sequence[str], own: Sequence[Sequence[str]]
    ) -> AnyValue:
        """A linear layer over the summed axes, where each sample meets the whole constant."""
        if shared or not inner:
            aligned = b.tensor.permute([self.names[1].index(c) for c in self.names[0] if c in self.names[1]])
            shape = [self.lengths[c] if c in self.names[1] else 1 for c in self.names[0]]
            if own[1]:
                self.e.refuse("einsum with this constant is not supported", "use matmul or a product")
            product = self.e.broadcast("mul", a, self.e.like(b, aligned.reshape(shape)))
            axes = tuple(self.names[0].index(c) for c in inner)
            total = self.e.call("sum", product, axes=axes, keepdim=False) if axes else product
            return self._ordered(total, [c for c in self.names[0] if c not in inner])
        order = [self.names[0].index(c) for c in (*own[0], *inner)]
        rest = [self.lengths[c] for c in own[0][1:]]
        left = self.e.reshape(self.e.transpose(a, order), [*rest, self._count(inner)])
        turned = b.tensor.permute([self.names[1].index(c) for c in (*own[1], *inner)])
        weight = self.e.like(b, turned.reshape(self._count(own[1]), self._count(inner)))
        return self._ordered(self.e.call("linear", left, weight, None), [*own[0], *own[1]])

    def _ordered(self, value: AnyValue, letters: Sequence[str]) -> AnyValue:
        apart = self.e.reshape(value, [self.lengths[c] for c in letters[1:]])
        return self.e.transpose(apart, [letters.index(c) for c in self.result])

    def _count(self, letters: Sequence[str]) -> int:
        return math.prod(self.lengths[c] for c in letters)


@aten("logsumexp.default")
def logsumexp(e: Emitter, x: AnyValue, dim: Ints, keepdim: bool = False) -> AnyValue:
    """log(sum(exp(x - m))) + m, m the maximum."""
    axes = axes_of(e, x, dim)
    most = e.call("amax", x, axes=axes, keepdim=True)
    total = e.call("sum", e.call("exp", e.broadcast("sub", x, most)), axes=axes, keepdim=keepdim)
    most = most if keepdim else e.call("amax", x, axes=axes, keepdim=False)
    return e.broadcast("add", e.call("log", total), most)


@aten("cosine_similarity.default")
def cosine_similarity(e: Emitter, x1: AnyValue, x2: AnyValue, dim: int = 1, eps: float = 1e-8) -> AnyValue:
    """The product of both values, each over its norm, which is at least eps."""
    over = [_normalised(e, x, dim, eps) for x in (x1, x2)]
    product = e.broadcast("mul", *over)
    return e.call("sum", product, axes=axes_of(e, product, dim), keepdim=False)


def _normalised(e: Emitter, x: AnyValue, dim: int, eps: float) -> AnyValue:
    if isinstance(x, Const):
        norm = torch.linalg.vector_norm(x.tensor, dim=dim, keepdim=True).clamp(min=eps)
        return e.like(x, x.tensor / norm)
    norm = maximum(e, vector_norm(e, x, dim, True), e.scalar(eps))
    return e.broadcast("div", x, norm)


@aten("cumsum.default")
def cumsum(e: Emitter, x: AnyValue, dim: int) -> AnyValue:
    """Running sums along an axis: a product with a triangle of ones."""
    axis, rank = e.axis(x, dim), len(e.shape(x))
    length = e.shape(x)[axis]
    order = [*(i for i in range(rank) if i != axis), axis]
    triangle = Const(torch.tril(torch.ones(length, length)), f"{e.hint}_triangle")
    summed = e.call("linear", e.turn(x, order), triangle, None)
    return e.turn(summed, [order.index(i) for i in range(rank)])
