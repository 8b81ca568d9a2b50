"""Image guidance: what a daily CT changes, in dose, LET and RBE-weighted dose, and when to plan again."""

from ionrt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
