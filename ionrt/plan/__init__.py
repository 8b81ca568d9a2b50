"""Treatment planning: rooms, beams, spots, influence, optimisation. The result of a plan is an additive field."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
