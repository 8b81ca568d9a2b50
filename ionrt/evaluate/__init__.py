"""Evaluation of dose, RBE-weighted dose and LET: volume histograms, gamma, indices, depth profiles."""

from ionrt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
