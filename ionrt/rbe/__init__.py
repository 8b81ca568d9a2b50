"""Field to RBE-weighted dose under a named dose system."""

from ionrt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
