"""Track structure and cell models: from charge and energy to what a voxel needs to add up."""

from ionrt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
