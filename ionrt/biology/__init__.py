"""Track structure and cell models: from charge and energy to what a voxel needs to add up."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
