"""``cross``: a small transformer in which the tokens of the query look at those of a candidate.

After Suma et al.: AMES, ECCV 2024; see ``pixdex.training.pairnets``. Accurate, and some 0.4 ms a candidate on one core.
"""

from __future__ import annotations

from pixdex.rerankers import learned

__all__ = ["load"]


def load(rest: str) -> learned.Learned | learned.Shipped:
    """The reranker of ``cross`` (the one that comes with pixdex for the collection's encoder) or ``cross:rest``, a folder or
    the name of one that comes with pixdex.

    Raises:
        ConfigError: there is none.
        MissingDependency: ONNX Runtime is not installed.
    """
    return learned.load("cross", rest)
