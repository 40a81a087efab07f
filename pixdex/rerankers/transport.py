"""``transport``: votes of an optimal transport between the tokens of two pictures.

After Suma et al.: ELViS, ICLR 2026; see ``pixdex.training.pairnets``. Very small, and some 0.1 ms a candidate on one core.
"""

from __future__ import annotations

from pixdex.rerankers import learned

__all__ = ["load"]


def load(rest: str) -> learned.Learned | learned.Shipped:
    """The reranker of ``transport`` (the one that comes with pixdex for the collection's encoder) or ``transport:rest``, a
    folder or the name of one that comes with pixdex.

    Raises:
        ConfigError: there is none.
        MissingDependency: ONNX Runtime is not installed.
    """
    return learned.load("transport", rest)
