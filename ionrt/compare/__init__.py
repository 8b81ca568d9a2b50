"""The main questions, end to end: which ion, which mix of ions, which room, for one target at one prescribed dose."""

from ionrt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
