"""The main questions, end to end: which ion, which mix of ions, which room, for one target at one prescribed dose."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
