"""The exchange cohort: six tables with one meaning of dose, pooling that refuses, export that is safe."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
