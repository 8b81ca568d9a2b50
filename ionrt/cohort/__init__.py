"""The exchange cohort: six tables with one meaning of dose, pooling that refuses, export that is safe."""

from ionrt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
