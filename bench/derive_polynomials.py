"""Derives the coefficients in kaoken/passes/math/coefficients.py. Needs numpy alone.

    python bench/derive_polynomials.py > kaoken/passes/math/coefficients.py

Three steps. A weighted least-squares fit whose weights are raised where the error is large
(Lawson's iteration) converges to the minimax coefficients of the relative error. They are rounded
to float32 one after the other, each time fitting the rest again, so that the later ones make up for
what rounding did to the earlier ones. For the two rational functions, whose error is mostly float32
round-off, a seeded random search then moves coefficients by a few units in the last place and
measures the float32 result: largest error first, never above 1, exactly 1 at the clamp. Ten
seconds in all. The constants of `quake.py` come last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
erf = np.vectorize(math.erf, otypes=[np.float64])

HEADER = '''"""Coefficients, constant term first; written by bench/derive_polynomials.py.

The comment gives the largest relative error of the exact polynomial with these rounded
coefficients: what is left after that is float32 round-off. The measured sums, in units in the last
place, stand with the functions that use them and are held by tests/unit/test_lower_math.py.
"""
'''


def chebyshev_points(low: float, high: float, count: int = 4000) -> Array:
    """Points of [low, high], dense at both ends, never exactly 0."""
    points = (low + high) / 2 - (high - low) / 2 * np.cos(np.linspace(0, np.pi, count))
    points[np.abs(points) < 1e-9] = 1e-9
    return points


def minimax(basis: Array, target: Array, weight: Array, rounds: int = 300) -> Array:
    """The coefficients c that minimise max |weight * (target - basis @ c)|."""
    share = np.full(len(target), 1 / len(target))
    best, answer = math.inf, np.zeros(basis.shape[1])
    for _ in range(rounds):
        scale = np.sqrt(share) * weight
        rows = basis * scale[:, None]
        norm = np.linalg.norm(rows, axis=0)
        c = np.linalg.lstsq(rows / norm, target * scale, rcond=None)[0] / norm
        error = np.abs(weight * (target - basis @ c))
        if error.max() < best:
            best, answer = error.max(), c
        share = share * error / (share @ error)
    return answer


def rounded(
    x: Array, target: Array, weight: Array, powers: Sequence[int], fixed: Sequence[float]
) -> tuple[list[float], float]:
    """Float32 coefficients of the given powers of x, the first ones fixed, and their error."""
    c = [float(np.float32(v)) for v in fixed]
    while len(c) < len(powers):
        rest = target - sum(v * x**p for v, p in zip(c, powers, strict=False))
        basis = np.stack([x**p for p in powers[len(c) :]], axis=1)
        c.append(float(np.float32(minimax(basis, rest, weight)[0])))
    value = sum(v * x**p for v, p in zip(c, powers, strict=True))
    return c, float(np.abs(weight * (target - value)).max())


def fit_exp() -> tuple[list[float], float]:
    """exp(r) for |r| <= ln(2)/2; 1 + r + ... so that exp(0) is exactly 1."""
    r = chebyshev_points(-0.34664, 0.34664)
    return rounded(r, np.exp(r), np.exp(-r), range(7), [1, 1])


def fit_exp2() -> tuple[list[float], float]:
    """2**r for |r| <= 1/2."""
    r = chebyshev_points(-0.5001, 0.5001)
    return rounded(r, np.exp2(r), np.exp2(-r), range(7), [1])


def fit_log() -> tuple[list[float], float]:
    """(log(1+f) - f) / f**2 for sqrt(1/2) <= 1 + f <= sqrt(2), relative to log(1+f)."""
    f = chebyshev_points(math.sqrt(0.5) - 1, math.sqrt(2) - 1)
    f = f[np.abs(f) > 1e-3]
    log = np.log1p(f)
    c, error = rounded(f, log - f, 1 / log, range(2, 12), [-0.5])
    return c, error


def fit_atanh() -> tuple[list[float], float]:
    """(atanh(s)/s - 1) / s**2 in z = s**2 for |s| <= 3 - 2*sqrt(2), relative to atanh(s)/s."""
    z = chebyshev_points(1e-6, 0.02944)
    s = np.sqrt(z)
    ratio = np.arctanh(s) / s
    return rounded(z, ratio - 1, 1 / ratio, range(1, 5), [])


def fit_sin() -> tuple[list[float], float]:
    """(sin(r)/r - 1) / r**2 in z = r**2 for |r| <= pi/4, relative to sin(r)/r."""
    z = chebyshev_points(1e-6, 0.6171)
    ratio = np.sinc(np.sqrt(z) / np.pi)
    return rounded(z, ratio - 1, 1 / ratio, range(1, 5), [])


def fit_cos() -> tuple[list[float], float]:
    """(cos(r) - 1) / r**2 in z = r**2 for |r| <= pi/4, relative to cos(r)."""
    z = chebyshev_points(1e-6, 0.6171)
    cos = np.cos(np.sqrt(z))
    return rounded(z, cos - 1, 1 / cos, range(1, 5), [-0.5])


class Rational:
    """f(x) = x * A(s)/B(s) + offset * x, s = x**2, for 0 <= x <= clamp; B(0) = 1.

    The offset is a power of two, so that its product is exact. With an offset near f(clamp)/clamp
    the quotient vanishes towards the clamp, and with it the round-off of A, B and the division:
    just where f comes near 1 and its units are finest.
    """

    def __init__(self, function, slope: float, clamp: float, offset: float, degree: int):
        self.function = function
        self.clamp = float(np.float32(clamp))
        self.offset = float(np.float32(offset))
        self.degree = degree
        self.first = float(np.float32(np.float32(slope) - np.float32(offset)))

    def fit(self) -> None:
        """Sets numerator and denominator: linearised least squares with Lawson's weights."""
        x = np.sqrt(chebyshev_points(0, self.clamp**2) + 1e-12)
        s, f = x**2 / self.clamp**2, self.function(x) / x
        powers = np.stack([s**k for k in range(1, self.degree + 1)], axis=1)
        below, share = np.ones_like(s), np.full(len(s), 1 / len(s))
        best, rest = math.inf, f - self.offset
        answer = np.zeros(2 * self.degree)
        for _ in range(120):
            scale = np.sqrt(share) / (f * np.abs(below))
            rows = np.hstack([powers, -rest[:, None] * powers]) * scale[:, None]
            norm = np.linalg.norm(rows, axis=0)
            c = np.linalg.lstsq(rows / norm, (rest - self.first) * scale, rcond=None)[0] / norm
            below = 1 + powers @ c[self.degree :]
            above = self.first + powers @ c[: self.degree]
            error = np.abs((above / below - rest) / f)
            if error.max() < best:
                best, answer = error.max(), c
            share = share * (error / error.max() + 1e-3)
            share /= share.sum()
        scaled = answer.reshape(2, -1) / self.clamp ** (2 * np.arange(1, self.degree + 1))
        self.coefficients = scaled.astype(np.float32)

    def relative_error(self) -> float:
        """The largest relative error with exact arithmetic."""
        x = np.sqrt(chebyshev_points(0, self.clamp**2) + 1e-12)
        above, below = self.polynomials()
        quotient = np.polyval(above[::-1], x**2) / np.polyval(below[::-1], x**2)
        f = self.function(x) / x
        return float(np.abs((quotient + self.offset) / f - 1).max())

    def polynomials(self) -> tuple[list[float], list[float]]:
        above, below = self.coefficients
        return [self.first, *map(float, above)], [1.0, *map(float, below)]

    def evaluate(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the lowered IR computes, for x >= 0."""
        x = np.minimum(x, np.float32(self.clamp))
        s = x * x
        above, below = (horner32(c, s) for c in self.polynomials())
        quotient = (above / below).astype(np.float64)
        return (x * quotient + x * np.float64(self.offset)).astype(np.float32)

    def units(self, x: NDArray[np.float32], exact: Array) -> Array:
        """The error in units in the last place of the float32 result."""
        unit = np.spacing(exact.astype(np.float32)).astype(np.float64)
        return np.abs(self.evaluate(x) - exact) / unit

    def badness(self, x: NDArray[np.float32], exact: Array) -> float:
        units = self.units(x, exact)
        top = self.evaluate(np.array([self.clamp], np.float32))[0]
        forbidden = 10.0 * (self.evaluate(x) > 1).any() + 10.0 * (top != 1)
        return forbidden + units.max() + 0.3 * math.sqrt((units**2).mean())

    def polish(self, rounds: int, steps: int) -> None:
        """Moves coefficients by units in the last place while that helps on a sample of points.

        Each round begins with the worst points of a dense set added to the sample.
        """
        end = self.clamp * 1.05
        dense = np.concatenate([np.geomspace(1e-3, end, 400_000), np.linspace(1e-3, end, 400_000)])
        dense = dense.astype(np.float32)
        exact = self.function(dense.astype(np.float64))
        sample = np.arange(0, len(dense), 80)
        generator = np.random.default_rng(0)
        for _ in range(rounds):
            worst = self.units(dense, exact) + 10 * (self.evaluate(dense) > 1)
            sample = np.union1d(sample, np.argsort(worst)[-1000:])
            self.climb(dense[sample], exact[sample], steps, generator)

    def climb(
        self, x: NDArray[np.float32], exact: Array, steps: int, generator: np.random.Generator
    ) -> None:
        best = self.badness(x, exact)
        for _ in range(steps):
            before = self.coefficients.copy()
            for i in generator.choice(before.size, generator.integers(1, 4), replace=False):
                unit = np.spacing(before.flat[i])
                self.coefficients.flat[i] += unit * generator.integers(-4, 5)
            now = self.badness(x, exact)
            if now < best:
                best = now
            else:
                self.coefficients = before


def horner32(c: Sequence[float], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """A polynomial in float32 with one rounding per fused step."""
    y = np.full_like(x, c[-1])
    for v in reversed(c[:-1]):
        y = (y.astype(np.float64) * x + np.float64(v)).astype(np.float32)
    return y


def show(name: str, values: Sequence[float], comment: str) -> None:
    print(f"\n# {comment}\n{name} = (")
    for value in values:
        print(f'    float.fromhex("{np.float64(value).hex()}"),')
    print(")")


def show_rational(name: str, what: str, r: Rational) -> None:
    above, below = r.polynomials()
    show(f"{name}_NUMERATOR", above, f"{what}: {r.relative_error():.1e}")
    show(f"{name}_DENOMINATOR", below, "its denominator, in the same s")
    print(f'{name}_OFFSET = float.fromhex("{r.offset.hex()}")')
    print(f'{name}_CLAMP = float.fromhex("{r.clamp.hex()}")')


# ---- constants of quake.py ----


def fit_quake2() -> tuple[list[float], float]:
    """2**r for |r| <= 1/2, a parabola whose value at 1/2 is twice that at -1/2."""
    r = chebyshev_points(-0.5, 0.5)
    # a + b/2 + c/4 = 2 * (a - b/2 + c/4) leaves two free coefficients.
    basis = np.stack([1 + r * 2 / 3, r**2 + r / 6], axis=1)
    a, c = minimax(basis, np.exp2(r), np.exp2(-r))
    error = np.abs(basis @ [a, c] * np.exp2(-r) - 1).max()
    return [float(np.float32(v)) for v in (a, (a + c / 4) * 2 / 3, c)], float(error)


def fit_gelu_argument() -> tuple[list[float], float]:
    """A line q with Phi(x) = logistic(x * q(x**2)), and the error of GELU, which is x * Phi(x)."""
    x = chebyshev_points(1e-6, 7)
    phi = (1 + erf(x / math.sqrt(2))) / 2
    below = np.vectorize(math.erfc, otypes=[np.float64])(x / math.sqrt(2)) / 2
    target = np.log(phi / below)
    return rounded(x, target, x * phi * below, (1, 3), [])


def fit_reciprocal() -> tuple[int, float, float]:
    """(word, sum): y = float of (word - word of d); y * (sum - d * y) is near 1 / d."""
    d = np.linspace(1, 2, 20_001, dtype=np.float32)[:-1]

    def fit(word: int) -> tuple[int, float, float]:
        y = (word - d.view(np.int32).astype(np.int64)).astype(np.int32).view(np.float32)
        u = d * y.astype(np.float64)
        total = float(np.float32(u.min() + u.max()))
        return word, total, float(np.abs(u * (total - u) - 1).max())

    center, best = 0x7EF311C7, (0, 0.0, math.inf)
    for step in (1 << 15, 1 << 11, 1 << 7):
        tries = [fit(center + step * i) for i in range(-64, 65)]
        best = min([best, *tries], key=lambda found: found[2])
        center = best[0]
    return best


def highest_power32(parabola: Sequence[float]) -> float:
    """What `second_order` gives for exp where it is held at 2**125."""
    slope = math.log2(math.e)
    fraction = np.float32(float(np.float32(125 / slope)) * float(np.float32(slope)) - 125)
    return float(horner32([2 * c for c in parabola], np.array([fraction]))[0]) * 2.0**124


def reciprocal32(power: float, word: int, total: float, steps: int) -> float:
    """What `Quake.logistic` gets for 1 / (1 + power) before it takes off the lowest."""
    d = np.float32(1 + power)
    y = np.int32(word - int(d.view(np.int32))).view(np.float32)
    correction = np.float32(total - float(d) * float(y))
    for _ in range(steps):
        y = y * correction
        correction = np.float32(2 - float(d) * float(y))
    return float(y * correction)


def show_quake() -> None:
    parabola, error = fit_quake2()
    show("QUAKE2", parabola, f"{(fit_quake2.__doc__ or '').rstrip('.')}: {error:.1e}")
    # (1 + f) / 2**f is at most 2 / (e * ln(2)) = 1.0615: half of that is above 1, half below.
    largest = 2 / (math.e * math.log(2))
    offset = math.log2((1 + largest) / 2)
    print(f"\n# log2 of the middle of (1 + f) / 2**f: {largest * 2**-offset - 1:.1e}")
    print(f"QUAKE1_OFFSET = {offset!r}")
    q, error = fit_gelu_argument()
    show("QUAKE1_GELU", q, f"Phi(x) = logistic(x * q(x**2)); GELU's error: {error:.1e}")
    word, total, error = fit_reciprocal()
    # -d is at hand, so its sign is part of the word.
    print(f"\n# y = float of (word - word of -d); y * (sum - d * y) is near 1 / d: {error:.1e}")
    print(f"RECIPROCAL_WORD = 0x{word + 2**31:X}\nRECIPROCAL_SUM = {total!r}")
    powers = (2.0**125, highest_power32(parabola))
    for order, power in enumerate(powers, 1):
        value = reciprocal32(power, word, total, order - 1)
        print(f'QUAKE{order}_LOWEST = float.fromhex("{value.hex()}")')


def main() -> None:
    print(HEADER, end="")
    for name, fit in {
        "EXP": fit_exp,
        "EXP2": fit_exp2,
        "LOG": fit_log,
        "ATANH": fit_atanh,
        "SIN": fit_sin,
        "COS": fit_cos,
    }.items():
        values, error = fit()
        show(name, values, f"{(fit.__doc__ or '').rstrip('.')}: {error:.1e}")
    erf_fit = Rational(erf, 2 / math.sqrt(math.pi), 3.84, 0.25, 5)
    tanh_fit = Rational(np.tanh, 1.0, 8.6, 0.125, 4)
    for name, rational in {"ERF": erf_fit, "TANH": tanh_fit}.items():
        rational.fit()
        rational.polish(rounds=8, steps=600)
        what = f"{name.lower()}(x)/x - {name}_OFFSET in s = x**2 for |x| <= {name}_CLAMP"
        show_rational(name, what, rational)
    show_quake()


if __name__ == "__main__":
    main()
