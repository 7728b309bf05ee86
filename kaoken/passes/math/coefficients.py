"""Coefficients, constant term first; written by bench/derive_polynomials.py.

The comment gives the largest relative error of the exact polynomial with these rounded
coefficients: what is left after that is float32 round-off. The measured sums, in units in the last
place, stand with the functions that use them and are held by tests/unit/test_lower_math.py.
"""

# exp(r) for |r| <= ln(2)/2; 1 + r + ... so that exp(0) is exactly 1: 3.1e-09
EXP = (
    float.fromhex("0x1.0000000000000p+0"),
    float.fromhex("0x1.0000000000000p+0"),
    float.fromhex("0x1.fffffc0000000p-2"),
    float.fromhex("0x1.5554920000000p-3"),
    float.fromhex("0x1.5558ac0000000p-5"),
    float.fromhex("0x1.12397e0000000p-7"),
    float.fromhex("0x1.6a51500000000p-10"),
)

# 2**r for |r| <= 1/2: 3.0e-09
EXP2 = (
    float.fromhex("0x1.0000000000000p+0"),
    float.fromhex("0x1.62e4300000000p-1"),
    float.fromhex("0x1.ebfbdc0000000p-3"),
    float.fromhex("0x1.c6af7c0000000p-5"),
    float.fromhex("0x1.3b2de00000000p-7"),
    float.fromhex("0x1.5f08380000000p-10"),
    float.fromhex("0x1.416b7e0000000p-13"),
)

# (log(1+f) - f) / f**2 for sqrt(1/2) <= 1 + f <= sqrt(2), relative to log(1+f): 7.7e-10
LOG = (
    float.fromhex("-0x1.0000000000000p-1"),
    float.fromhex("0x1.5555480000000p-2"),
    float.fromhex("-0x1.0000060000000p-2"),
    float.fromhex("0x1.99a4760000000p-3"),
    float.fromhex("-0x1.555c440000000p-3"),
    float.fromhex("0x1.233ba20000000p-3"),
    float.fromhex("-0x1.fc28ca0000000p-4"),
    float.fromhex("0x1.e6c00c0000000p-4"),
    float.fromhex("-0x1.de01e20000000p-4"),
    float.fromhex("0x1.1473400000000p-4"),
)

# (atanh(s)/s - 1) / s**2 in z = s**2 for |s| <= 3 - 2*sqrt(2), relative to atanh(s)/s: 2.5e-11
ATANH = (
    float.fromhex("0x1.5555540000000p-2"),
    float.fromhex("0x1.999c280000000p-3"),
    float.fromhex("0x1.23d3140000000p-3"),
    float.fromhex("0x1.f161240000000p-4"),
)

# (sin(r)/r - 1) / r**2 in z = r**2 for |r| <= pi/4, relative to sin(r)/r: 1.6e-10
SIN = (
    float.fromhex("-0x1.5555560000000p-3"),
    float.fromhex("0x1.1111740000000p-7"),
    float.fromhex("-0x1.a059560000000p-13"),
    float.fromhex("0x1.7c2d9e0000000p-19"),
)

# (cos(r) - 1) / r**2 in z = r**2 for |r| <= pi/4, relative to cos(r): 1.2e-10
COS = (
    float.fromhex("-0x1.0000000000000p-1"),
    float.fromhex("0x1.55554a0000000p-5"),
    float.fromhex("-0x1.6c0c280000000p-10"),
    float.fromhex("0x1.99e80c0000000p-16"),
)

# erf(x)/x - ERF_OFFSET in s = x**2 for |x| <= ERF_CLAMP: 7.0e-08
ERF_NUMERATOR = (
    float.fromhex("0x1.c1baec0000000p-1"),
    float.fromhex("0x1.87b1ee0000000p-5"),
    float.fromhex("0x1.85fdbe0000000p-6"),
    float.fromhex("-0x1.a6750c0000000p-12"),
    float.fromhex("0x1.21e9a00000000p-15"),
    float.fromhex("-0x1.0b41040000000p-17"),
)

# its denominator, in the same s
ERF_DENOMINATOR = (
    float.fromhex("0x1.0000000000000p+0"),
    float.fromhex("0x1.ee39900000000p-2"),
    float.fromhex("0x1.af4e600000000p-4"),
    float.fromhex("0x1.b180920000000p-7"),
    float.fromhex("0x1.00ef880000000p-10"),
    float.fromhex("0x1.5be5de0000000p-15"),
)
ERF_OFFSET = float.fromhex("0x1.0000000000000p-2")
ERF_CLAMP = float.fromhex("0x1.eb851e0000000p+1")

# tanh(x)/x - TANH_OFFSET in s = x**2 for |x| <= TANH_CLAMP: 3.4e-08
TANH_NUMERATOR = (
    float.fromhex("0x1.c000000000000p-1"),
    float.fromhex("0x1.35eeac0000000p-4"),
    float.fromhex("0x1.2453b00000000p-12"),
    float.fromhex("-0x1.59849c0000000p-16"),
    float.fromhex("-0x1.75fc580000000p-24"),
)

# its denominator, in the same s
TANH_DENOMINATOR = (
    float.fromhex("0x1.0000000000000p+0"),
    float.fromhex("0x1.dea5b20000000p-2"),
    float.fromhex("0x1.aa14fa0000000p-6"),
    float.fromhex("0x1.5e5c0e0000000p-12"),
    float.fromhex("0x1.b2be680000000p-21"),
)
TANH_OFFSET = float.fromhex("0x1.0000000000000p-3")
TANH_CLAMP = float.fromhex("0x1.1333340000000p+3")

# 2**r for |r| <= 1/2, a parabola whose value at 1/2 is twice that at -1/2: 2.6e-03
QUAKE2 = (
    float.fromhex("0x1.003f040000000p+0"),
    float.fromhex("0x1.69c2600000000p-1"),
    float.fromhex("0x1.e258800000000p-3"),
)

# log2 of the middle of (1 + f) / 2**f: 3.0e-02
QUAKE1_OFFSET = 0.04367744890360175

# Phi(x) = logistic(x * q(x**2)); GELU's error: 2.8e-04
QUAKE1_GELU = (
    float.fromhex("0x1.99b24a0000000p+0"),
    float.fromhex("0x1.1c21220000000p-4"),
)

# y = float of (word - word of -d); y * (sum - d * y) is near 1 / d: 1.3e-03
RECIPROCAL_WORD = 0xFEF33447
RECIPROCAL_SUM = 2.0012903213500977
QUAKE1_LOWEST = float.fromhex("0x1.ff59340000000p-126")
QUAKE2_LOWEST = float.fromhex("0x1.ff82760000000p-126")
