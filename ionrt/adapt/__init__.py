"""Image guidance: what a daily CT changes, in dose, LET and RBE-weighted dose, and when to plan again."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
