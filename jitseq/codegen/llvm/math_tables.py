"""Constants and minimax coefficients of the vector math, per element type.

Invariant: every number is exactly representable in its element type; they are
written in hexadecimal, lowest power first.

How the coefficients were found: the Remez exchange in 60-digit arithmetic on 1200
Chebyshev-spaced points, then rounding. For float32, one coefficient was rounded at a
time, lowest power first, and the rest refitted. Interval and weight of each:

    expm1     (e^r - 1 - r)/r²      |r| <= ln2/2           weight r²/(e^r - 1)
    tanh      (tanh x - x)/x³       x² in [0, 0.55²]       weight x³/tanh x
    log       (2 artanh s - 2s)/s³  s² in [0, (3-2√2)²]    weight s²/2
    erf       (erf x)/x - 1         x² in [0, t²]          weight x/erf x
    log_erfc  ln erfc x             x in [t, T]            weight erfc x/erf x

with t, T = 0.9, 4 (float32) and 1, 6 (float64). Weighted errors after rounding:
float32 2^-26.0, 2^-28.9, 2^-30.1, 2^-26.0, 2^-29.1; float64 2^-59.9, 2^-60.4,
2^-58.5, 2^-55.9, 2^-55.7.
"""

from __future__ import annotations

from dataclasses import dataclass

Polynomial = tuple[float, ...]


@dataclass(frozen=True)
class Constants:
    """Everything that differs between the element types.

    ``round_magic`` is 1.5·2^fraction: adding it rounds to an integer, which then
    stands in the low bits. ``ln2_high + ln2_low`` is ln 2 to twice the precision.
    """

    log2_e: float
    ln2_high: float
    ln2_low: float
    round_magic: float
    exp_zero: float
    """Below this, e^x rounds to 0."""
    exp_subnormal: float
    """From here up, 2^(n-1) is normal for n = round(x/ln2)."""
    exp_infinite: float
    """From here up, e^x overflows."""
    expm1_minus_one: float
    """Below this, e^x - 1 rounds to -1."""
    expm1_linear: float
    """For smaller |x|, e^x - 1 rounds to x."""
    tanh_split: float
    tanh_one: float
    """From here up, tanh(x/2) rounds to 1."""
    erf_split: float
    erf_one: float
    """From here up, erf x rounds to 1."""
    smallest_normal: float
    log_scale: int
    """Subnormal arguments of log are multiplied by 2 to this power."""
    expm1: Polynomial
    tanh: Polynomial
    log: Polynomial
    erf: Polynomial
    log_erfc: Polynomial


def _hex(text: str) -> Polynomial:
    return tuple(float.fromhex(word) for word in text.split())


FLOAT = Constants(
    log2_e=float.fromhex("0x1.715476p+0"),
    ln2_high=float.fromhex("0x1.62e430p-1"),
    ln2_low=float.fromhex("-0x1.05c610p-29"),
    round_magic=float.fromhex("0x1.8p+23"),
    exp_zero=-105.0,
    exp_subnormal=-86.0,
    exp_infinite=89.0,
    expm1_minus_one=-18.0,
    expm1_linear=float.fromhex("0x1p-26"),
    tanh_split=float.fromhex("0x1.19999ap-1"),
    tanh_one=19.0,
    erf_split=float.fromhex("0x1.ccccccp-1"),
    erf_one=4.0,
    smallest_normal=float.fromhex("0x1p-126"),
    log_scale=25,
    expm1=_hex(
        """
        0x1.fffffep-2 0x1.5554aap-3 0x1.5556dap-5 0x1.122c32p-7 0x1.6bec22p-10
        """
    ),
    tanh=_hex(
        """
        -0x1.55554cp-2 0x1.110d66p-3 -0x1.b92c8ap-5 0x1.592b72p-6 -0x1.99cec2p-8
        """
    ),
    log=_hex(
        """
        0x1.55557ap-1 0x1.995ed4p-2 0x1.31e278p-2
        """
    ),
    erf=_hex(
        """
        0x1.06eba6p-3 -0x1.8126ecp-2 0x1.ce1b86p-4 -0x1.b69b96p-6 0x1.479c9ep-8
        -0x1.3ba9cep-11
        """
    ),
    log_erfc=_hex(
        """
        -0x1.5d116ep-13 -0x1.20b752p+0 -0x1.4621bap-1 -0x1.aa7324p-4 0x1.6d9ce8p-6
        -0x1.91cd2cp-9 0x1.9fb356p-13
        """
    ),
)

DOUBLE = Constants(
    log2_e=float.fromhex("0x1.71547652b82fep+0"),
    ln2_high=float.fromhex("0x1.62e42fefa39efp-1"),
    ln2_low=float.fromhex("0x1.abc9e3b39803fp-56"),
    round_magic=float.fromhex("0x1.8p+52"),
    exp_zero=-746.0,
    exp_subnormal=-706.0,
    exp_infinite=710.0,
    expm1_minus_one=-39.0,
    expm1_linear=float.fromhex("0x1p-55"),
    tanh_split=float.fromhex("0x1.199999999999ap-1"),
    tanh_one=40.0,
    erf_split=1.0,
    erf_one=6.0,
    smallest_normal=float.fromhex("0x1p-1022"),
    log_scale=54,
    expm1=_hex(
        """
        0x1p-1 0x1.5555555555559p-3 0x1.555555555553fp-5 0x1.111111110f6dap-7
        0x1.6c16c16c1f079p-10 0x1.a01a01afd3e13p-13 0x1.a01a017bc6501p-16
        0x1.71ddf87eb923ep-19 0x1.27e5362c7ff7dp-22 0x1.af5e750913b07p-26
        0x1.1ee8874cb8473p-29
        """
    ),
    tanh=_hex(
        """
        -0x1.5555555555552p-2 0x1.1111111110a68p-3 -0x1.ba1ba1b99d6dap-5
        0x1.664f485f63497p-6 -0x1.226e2fbd0ea33p-7 0x1.d6d2b331ddc64p-9
        -0x1.7d90e676ed3afp-10 0x1.348bc7c002c5cp-11 -0x1.e9bc314983c84p-13
        0x1.5e41495ca934p-14 -0x1.48eded5d580f7p-16
        """
    ),
    log=_hex(
        """
        0x1.555555555557cp-1 0x1.9999999984735p-2 0x1.2492493fb570dp-2
        0x1.c71c52b8e777p-3 0x1.746648dd50dd7p-3 0x1.399d126234965p-3
        0x1.2f51c48185b1fp-3
        """
    ),
    erf=_hex(
        """
        0x1.06eba8214db68p-3 -0x1.812746b03799dp-2 0x1.ce2f21a03f8b9p-4
        -0x1.b82ce311a97d5p-6 0x1.565bcceeda375p-8 -0x1.c02daeb703f09p-11
        0x1.f9a296b4844dfp-14 -0x1.f4c82f044063bp-17 0x1.b96b579357e3dp-20
        -0x1.5b8c6e2a40496p-23 0x1.d3ddba8805bd6p-27 -0x1.a23e53469c438p-31
        """
    ),
    log_erfc=_hex(
        """
        -0x1.81b3217ec14f8p-23 -0x1.20dd562f5ca2ap+0 -0x1.45f42b517f746p-1
        -0x1.a4da4dfa6f3edp-4 0x1.389398c6c3493p-6 0x1.261c0de5bbdcap-12
        -0x1.cfbb5ad7f8d84p-10 0x1.50284cdf2cb4dp-11 -0x1.77faeafa8ca91p-15
        -0x1.2724c1c2d9371p-14 0x1.79cdef930a9ccp-15 -0x1.150f659b0fcc4p-16
        0x1.22629ebf298bep-18 -0x1.c8a7234d06212p-21 0x1.0df3db95bd0f9p-23
        -0x1.d437a04c885d2p-27 0x1.19f2ba3f2b3fep-30 -0x1.a5dfdd0c33c32p-35
        0x1.277378060644dp-40
        """
    ),
)

CONSTANTS = {"float": FLOAT, "double": DOUBLE}
