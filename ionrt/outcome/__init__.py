"""Outcome analysis: survival, competing risks, regression, weighting, toxicity, NTCP; data frames in, data frames out."""

from ionrt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
