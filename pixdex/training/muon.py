"""Muon: steps that turn a layer's weights evenly in all directions, whatever few directions the gradients favour.

Jordan et al.: Muon: An optimizer for hidden layers in neural networks (2024). For matrices and dense convolutions only;
what has one dimension and depthwise convolutions need another optimizer beside it. Importing this imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Muon", "even"]


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov's momentum whose steps have singular values of about one, times ``lr``.

    Tall matrices are moved further, by the root of height over width. ``weight_decay`` is decoupled, as in AdamW.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """See the class; parameters without a gradient stay as they are."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                mean = state["mean"].lerp_(parameter.grad, 1 - group["momentum"])
                turn = even(parameter.grad.lerp(mean, group["momentum"]).flatten(1))
                further = max(1.0, turn.shape[0] / turn.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(turn.view(parameter.shape), alpha=-group["lr"] * further)


def even(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Nearly the orthogonal factor of ``matrix``, in bfloat16: singular values between about .7 and 1.2.

    The quintic Newton-Schulz iteration with the coefficients of Jordan et al.
    """
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    evened: Tensor = (x.T if tall else x).to(matrix.dtype)
    return evened
