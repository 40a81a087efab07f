"""How good a ranking is, measured as the literature does: metrics, intervals, protocols. numpy only.

A library that calls two things by one name is why numbers from two papers can't be compared, so every metric here has one
definition, one name and a source (``metrics``). ``measure`` ranks vectors and gives a value a query; ``interval`` and
``paired`` say how far such values carry; ``revisited`` holds the protocol of revisited Oxford and Paris. Whole collections
on any store are ``pixdex.evaluating``.
"""

from __future__ import annotations

from pixdex.evaluation.metrics import DEFINITIONS, NAMES, Measure, named
from pixdex.evaluation.retrieval import measure
from pixdex.evaluation.statistics import Interval, interval, mean, paired

__all__ = ["DEFINITIONS", "NAMES", "Interval", "Measure", "interval", "mean", "measure", "named", "paired"]
