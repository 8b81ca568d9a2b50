"""Field to RBE-weighted dose under a named dose system."""

from importlib import import_module

from ionrt.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
import_module("ionrt.rbe.functions")  # `MODELS` is full before anyone asks for a model
