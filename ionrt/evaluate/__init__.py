"""Evaluation of dose, RBE-weighted dose and LET: volume histograms, gamma, indices, depth profiles."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
