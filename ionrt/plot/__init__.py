"""Figures: the only importer of HoloViews. Every figure carries a caption that states ion, LET definition and RBE model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
