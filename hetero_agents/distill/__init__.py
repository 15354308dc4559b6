"""The paper's algorithm, one module a step: curate (S2), cluster (S3), select (S4), train (S5), evaluate; `distill` runs them.

S1 is the vault; S6 is rollout.
"""

from .evaluate import Prediction
from .intervals import Paired, paired, paired_difference, wilson
from .loop import Distilled, certify_cache, distill
from .recipe import Recipe

__all__ = [
    "Distilled",
    "Paired",
    "Prediction",
    "Recipe",
    "certify_cache",
    "distill",
    "paired",
    "paired_difference",
    "wilson",
]
