"""What is published per indication, each number with its source and dose system, and plans of it in a phantom."""

from ionrt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
