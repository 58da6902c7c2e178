"""The options that several methods share, in the same words."""

from __future__ import annotations

from pydantic import Field

WEIGHTS = Field([1.0], description="How much each model's changes count: one number for all, or one for each.")
GRADIENTS = Field(
    None, description="A gradient for each model: where it is 1 that model's changes are left out, 0 takes them all."
)
LAMBDA = Field(1.0, alias="lambda", description="λ: the merged changes are multiplied by this.")
REFINE = Field(None, description="Refine the merged changes: svc, lines or another refiner.")
DENSITIES = Field(
    None, description="A gradient for each model: where it has a value, that is the density of its layer."
)
SEED = Field(0, ge=0, description="Chooses the random masks; the same seed gives the same bytes.")
RESCALE = Field(True, description="Divide what is kept by the probability of keeping it, which keeps its expectation.")
BASE = Field(description="The model that the others were tuned from.")
ELECT = Field(
    "mass",
    description="Keep, element by element, only changes of the sign that wins: by mass (their sum), by count (their "
    "number), or none: keep all.",
)
NORMALIZE = Field(
    "weights",
    description="Divide by the weights of the models that take part (a weighted mean), by their count, or none: a sum.",
)


def density(default: float) -> object:
    """The share of each model's changes that is kept."""
    return Field([default], description="Share of each model's changes kept: one number for all, or one for each.")
