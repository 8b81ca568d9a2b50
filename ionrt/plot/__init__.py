"""Figures: the only importer of HoloViews. Every figure carries a caption that states ion, LET definition and RBE model."""

from ionrt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
