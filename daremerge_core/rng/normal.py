"""Standard normal numbers from uniform bits, the same bytes on every CPU.

The inverse of the normal distribution function by M. J. Wichura, "Algorithm AS 241: the percentage points of the
normal distribution", Applied Statistics 37(3), 1988, pp. 477-484 (PPND16, about 16 digits), in float64.

Only ``+ - * /`` and ``sqrt`` appear below, one array operation each: IEEE 754 says how each of them rounds. A fused
multiply-add rounds once where two operations round twice, and a library's ``log`` differs between libraries and
vector widths, so neither is used. The arrays are numpy's because torch may hand ``sqrt`` to a vector maths library
that does not promise correct rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["normal", "quantile"]

Array = NDArray[np.float64]

# Wichura's coefficients, highest power first.
_CENTRE_TOP = (
    2.5090809287301226727e3,
    3.3430575583588128105e4,
    6.7265770927008700853e4,
    4.5921953931549871457e4,
    1.3731693765509461125e4,
    1.9715909503065514427e3,
    1.3314166789178437745e2,
    3.3871328727963666080e0,
)
_CENTRE_BOTTOM = (
    5.2264952788528545610e3,
    2.8729085735721942674e4,
    3.9307895800092710610e4,
    2.1213794301586595867e4,
    5.3941960214247511077e3,
    6.8718700749205790830e2,
    4.2313330701600911252e1,
    1.0,
)
_TAIL_TOP = (
    7.74545014278341407640e-4,
    2.27238449892691845833e-2,
    2.41780725177450611770e-1,
    1.27045825245236838258e0,
    3.64784832476320460504e0,
    5.76949722146069140550e0,
    4.63033784615654529590e0,
    1.42343711074968357734e0,
)
_TAIL_BOTTOM = (
    1.05075007164441684324e-9,
    5.47593808499534494600e-4,
    1.51986665636164571966e-2,
    1.48103976427480074590e-1,
    6.89767334985100004550e-1,
    1.67638483018380384940e0,
    2.05319162663775882187e0,
    1.0,
)

_LN2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476
_ATANH = tuple(1.0 / n for n in range(21, 0, -2))
"""atanh(s)/s = 1 + s²/3 + s⁴/5 + …; for ``|s|`` ≤ 0.172 the first term left out, s²²/23, is below 2⁻⁵⁹."""


def normal(bits: NDArray[np.int64]) -> NDArray[np.float32]:
    """Φ⁻¹((bits + ½) · 2⁻³²) for bits in ``[0, 2**32)``, of the same 1-D shape; values lie within ±6.34."""
    return quantile((bits.astype(np.float64) - (2.0**31 - 0.5)) * 2.0**-32).astype(np.float32)  # p - ½ is exact


def quantile(q: Array) -> Array:
    """Φ⁻¹(½ + q) for ``|q|`` ≤ ½ - 2⁻³³, within about 10⁻¹⁵ of its value. Counting from ½ is exact near it."""
    x = _centre(q)
    tail = np.flatnonzero(np.abs(q) > 0.425)
    x[tail] = _tail(q[tail])
    return x


def _centre(q: Array) -> Array:
    """Φ⁻¹(½ + q) for ``|q|`` ≤ 0.425."""
    r = 0.180625 - q * q
    return q * (_horner(_CENTRE_TOP, r) / _horner(_CENTRE_BOTTOM, r))


def _tail(q: Array) -> Array:
    """Φ⁻¹(½ + q) for 0.425 < ``|q|`` ≤ ½ - 2⁻³³.

    AS 241 has one more range, beyond √(-log p) = 5; 32 bits end at p = 2⁻³³, where that root is 4.78.
    """
    r = np.sqrt(-_log(0.5 - np.abs(q))) - 1.6
    return np.copysign(_horner(_TAIL_TOP, r) / _horner(_TAIL_BOTTOM, r), q)


def _log(x: Array) -> Array:
    """log x for x > 0, to a few units in the last place.

    x = m · 2ᵉ with m in [√½, √2), and log m = 2 atanh((m - 1) / (m + 1)).
    """
    m, e = np.frexp(x)  # exact; m in [½, 1)
    low = m < _SQRT_HALF
    m, e = np.where(low, m + m, m), np.where(low, e - 1, e)
    s = (m - 1.0) / (m + 1.0)
    return e * _LN2 + 2.0 * (s * _horner(_ATANH, s * s))


def _horner(coefficients: tuple[float, ...], x: Array) -> Array:
    """The polynomial with these coefficients, highest power first, at ``x``."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total *= x
        total += coefficient
    return total
