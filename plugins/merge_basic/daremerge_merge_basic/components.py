"""The blends as merge methods. The formulas are in :mod:`.kernels`; t = 1 − ratio, so t = 0 is A and t = 1 is B."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from daremerge_core import MergeMethod, ModelRef

from . import shares

if TYPE_CHECKING:
    from torch import Tensor

    from daremerge_core import Site
    from daremerge_core.loops import Loop
    from daremerge_core.site import TensorSite

NO_WEIGHTS = "scaled-add has no result at a ratio of 2: A weighs 1 and B weighs −1, which adds up to nothing"


class _Line(MergeMethod):
    """A straight line from A to B, of which ``share`` says how far to go."""

    def share(self, t: float) -> float:
        return t

    def merge(self, site: Site) -> Tensor:
        from . import kernels

        return kernels.lerp(site.a, site.b, self.share(site.t))

    def loop(self, site: TensorSite) -> Loop:
        from daremerge_core.task_sum import line

        return line(self.share(site.t))


class Lerp(_Line):
    """Blend in a straight line: a + t(b − a).

    A ratio of 1 is A and 0 is B, bit for bit; what A and B share stays as it is. Outside 0 to 1 the line goes on:
    −0.5 overshoots B by half the difference. Also known as weighted sum.
    """

    name = "lerp"


class Colorize(Lerp):
    """The same as lerp, under the name that old ComfyUI-DareMerge workflows use."""

    name = "colorize"


class Cosine(_Line):
    """Lerp with a slow start and end: lerp at (1 − cos πt)/2.

    Nearer to A below t = ½ and nearer to B above than lerp is; both ends bit for bit. Outside ratios 0 to 1 the cosine
    turns back instead of extrapolating.
    """

    name = "cosine"

    def share(self, t: float) -> float:
        return shares.cosine(t)


class Cubic(_Line):
    """Lerp with a slow start and end: lerp at t²(3 − 2t), the smoothstep polynomial.

    Within 0.011 of cosine's share; both ends bit for bit. Outside ratios 0 to 1 the polynomial turns back and runs
    off: t = −0.5 is B, t = 1.5 is A.
    """

    name = "cubic"

    def share(self, t: float) -> float:
        return shares.cubic(t)


class ScaledAdd(_Line):
    """Weigh A by 1 and B by t: (a + tb)/(1 + t).

    A mean rather than a way from A to B: a ratio of 1 is A bit for bit, 0 is the midpoint, and B is never reached
    (ratio −9 weighs it 10 to 1). At a ratio of 2 the weights add up to nothing, and it is refused.
    """

    name = "scaled-add"
    ratio: float = Field(
        0.5, description="B weighs 1 − ratio beside A's 1: 1 keeps A, 0 is the midpoint; 2 is refused."
    )

    def check_ratio(self, ratio: float) -> None:
        if ratio == 2.0:
            raise ValueError(NO_WEIGHTS)

    def share(self, t: float) -> float:
        return shares.scaled_add(t)


class AddDifference(MergeMethod):
    """Add what B learned over a model C to A: a + tα(b − c).

    C is the model that B was tuned from. A ratio of 0, the default, adds α times the difference; 1 is A bit for bit.
    Known from other tools as "add difference", with α as its multiplier. Not exact at B even where C equals A:
    a + (b − a) is rounded twice.

    Source: Ilharco et al., "Editing Models with Task Arithmetic", arXiv 2212.04089, with one task.
    """

    name = "add-difference"
    base: ModelRef = Field(description="Model C: what B was tuned from; B − C is added to A.")
    alpha: float = Field(1.0, description="How much of the difference is added; negative takes it away.")
    ratio: float = Field(0.0, description="1 keeps A, 0 adds all of alpha × (B − C); other values go on in a line.")

    def merge(self, site: Site) -> Tensor:
        from . import kernels

        return kernels.add_difference(site.a, site.delta, site.t * self.alpha)

    def loop(self, site: TensorSite) -> Loop:
        from daremerge_core.task_sum import TaskSum

        amount = site.t * self.alpha
        return TaskSum("b", "base", "a", amount) if amount else lambda block: block["a"]


class Slice(MergeMethod):
    """Take the first share t of the last dimension from B, the rest from A.

    Of n positions along a tensor's last dimension (inputs of a linear layer, width of a convolution's kernel, elements
    of a bias), the first round(tn) are B's, halves rounded to even; nothing is averaged. A single position, as in a
    1×1 convolution, goes to the larger share. Both ends bit for bit; ratios outside 0 to 1 count as the nearer end.
    """

    name = "slice"

    def merge(self, site: Site) -> Tensor:
        from . import kernels

        return kernels.slice_(site.a, site.b, site.t, site.position(), _last_size(site))


class Cyclic(MergeMethod):
    """Take positions of the last dimension from A and B in turn, a share t of them from B.

    Of n positions along a tensor's last dimension, round(tn), halves rounded to even, are B's, spread evenly: every
    other one at t = ½. Nothing is averaged. A single position, as in a 1×1 convolution, goes to the larger share.
    Both ends bit for bit; ratios outside 0 to 1 count as the nearer end.
    """

    name = "cyclic"

    def merge(self, site: Site) -> Tensor:
        from . import kernels

        return kernels.cyclic(site.a, site.b, site.t, site.position(), _last_size(site))


class Gradient(MergeMethod):
    """Lerp whose share of B is a ramp along the last dimension: highest at x = t, t on average.

    w(x) = t + s(m − |x − t|) for positions x from 0 to 1, with m the mean of |x − t| and s the steepest slope that
    keeps w between 0 and 1. At t = ½ it goes from A over B to A. Both ends bit for bit; ratios outside 0 to 1 count
    as the nearer end. (A gradient of ratios over layers is something else: the gradient option.)
    """

    name = "gradient"

    def merge(self, site: Site) -> Tensor:
        from . import kernels

        return kernels.gradient(site.a, site.b, site.t, site.position(), _last_size(site))


class Slerp(MergeMethod):
    """Blend along the arc between A and B: sin((1 − t)θ)/sin θ · a + sin(tθ)/sin θ · b.

    θ is the angle between the two whole tensors, cos θ = a·b/(‖a‖‖b‖), measured in float64 by a first pass. Where
    the tensors are nearly parallel or opposite (|cos θ| > 0.9995), zero or not finite, it is lerp. Fine-tunes of one
    base are often that near: then there is no difference. Both ends bit for bit.

    Source: Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985.
    """

    name = "slerp"

    def passes(self) -> int:
        return 1

    def measure(self, site: Site) -> Tensor:
        from . import kernels

        return site.total(*kernels.products(site.a, site.b))

    def merge(self, site: Site) -> Tensor:
        from . import kernels

        ab, aa, bb = site.measured[0].tolist()
        return kernels.slerp(site.a, site.b, site.t, ab, aa, bb)


class Bislerp(MergeMethod):
    """Slerp row by row: each row's direction along an arc, its length along a line.

    slerp(a/‖a‖, b/‖b‖, t) · ((1 − t)‖a‖ + t‖b‖) for each row of a matrix, each output channel of a convolution, a
    vector as a whole. Lengths do not shrink between the ends, as lerp's do. Rows that are nearly parallel or opposite
    (|cos θ| > 0.9995), zero or not finite are lerp. Both ends bit for bit.

    Source: ComfyUI's latent upscaler of that name.
    """

    name = "bislerp"
    elementwise = False
    rowwise = True

    def merge(self, site: Site) -> Tensor:
        from . import kernels

        return kernels.bislerp(site.a, site.b, site.t)


class Hslerp(MergeMethod):
    """Hybrid of lerp and a bump on the first channel: lerp + sin(2πt)/6 · ‖b − a‖.

    The norm is over the channels: dimension 1 of a weight, a vector as a whole. The bump adds on A's half, takes away
    on B's, and is zero halfway and at both ends, which are bit for bit. A heuristic from blending latent images; for
    weights it is here for old workflows.

    Source: ComfyUI-DareMerge, whose bump of a constant ±‖b − a‖/6 kept neither end.
    """

    name = "hslerp"
    elementwise = False
    rowwise = True

    def merge(self, site: Site) -> Tensor:
        from . import kernels

        return kernels.hslerp(site.a, site.b, site.t)


def _last_size(site: Site) -> int:
    """The size of the last dimension, 1 for a 0-d tensor: what ``site.position()`` runs to."""
    return site.shape[-1] if site.shape else 1
