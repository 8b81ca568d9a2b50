"""Logarithm and exponential without calls or branches: loops over voxels run on whole vectors (relative error < 1e-11)."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

_LN2 = 0.6931471805599453
_ROUND = 6755399441055744.0  # 1.5 * 2^52: adding it leaves the nearest integer in the low bits
_ROUND_BITS = np.uint64(0x4338000000000000)  # its bits
_MANTISSA, _BIAS, _ONE = np.uint64(52), np.uint64(1023), np.uint64(1023 << 52)
_SHIFT = np.uint64((1023 << 52) - 0x3FE6A09E667F3BCD)  # 1 less sqrt(1/2), by their bits


@intrinsic
def _as_bits(typingctx, x):
    """The bits of a float64 as an unsigned integer."""
    return types.uint64(types.float64), lambda context, builder, signature, args: builder.bitcast(args[0], ir.IntType(64))


@intrinsic
def _as_float(typingctx, i):
    """The float64 with these bits."""
    return types.float64(types.uint64), lambda context, builder, signature, args: builder.bitcast(args[0], ir.DoubleType())


_to_bits: Any = _as_bits
_from_bits: Any = _as_float


@njit(inline="always")
def log(y: Any) -> Any:
    """ln y of a positive normal number: exponent by its bits, mantissa by the series of 2 artanh."""
    bits = _to_bits(y)
    # the mantissa is taken in [sqrt(1/2), sqrt(2)), where the series is short
    exponent = (bits + _SHIFT) >> _MANTISSA  # plus 1023
    m = _from_bits(bits - (exponent << _MANTISSA) + _ONE)
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    series = 1 / 3.0 + q * (1 / 5.0 + q * (1 / 7.0 + q * (1 / 9.0 + q * (1 / 11.0 + q * (1 / 13.0)))))
    # an integer below 2^51 becomes a float by its bits: cheaper than a conversion of 64-bit integers
    number = _from_bits(exponent + _ROUND_BITS) - (_ROUND + 1023.0)
    return number * _LN2 + 2.0 * s * (1.0 + q * series)


@njit(inline="always")
def exp(x: Any) -> Any:
    """e^x, with x kept within -700 to 700: power of two by its bits, the rest by its Taylor series."""
    x = -700.0 if x < -700.0 else x
    x = 700.0 if x > 700.0 else x
    shifted = x * (1.0 / _LN2) + _ROUND  # rounds to an integer, held in the low bits
    n = shifted - _ROUND
    r = x - n * 0.693147180369123816490 - n * 1.90821492927058770002e-10
    p = 1 / 720 + r * (1 / 5040 + r * (1 / 40320 + r * (1 / 362880 + r * (1 / 3628800))))
    p = 1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * p)))))
    return p * _from_bits((_to_bits(shifted) + _BIAS) << _MANTISSA)
