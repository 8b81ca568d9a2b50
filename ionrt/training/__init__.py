"""Training: exercises with an answer each that is computed, not believed, and a sentence for every usual slip."""

from ionrt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
