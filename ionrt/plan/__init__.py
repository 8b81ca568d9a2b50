"""Treatment planning: rooms, beams, spots, influence, optimisation. The result of a plan is an additive field."""

from ionrt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
