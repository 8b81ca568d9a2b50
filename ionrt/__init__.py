"""ionrt: LET-weighted dose, RBE, planning and outcome analysis for multi-ion radiotherapy research.

Research software. Not a medical device, not for clinical decisions.

The names below load on first use, so that ``import ionrt`` stays fast; ``__init__.pyi`` is their only listing.
"""

from ionrt.lazy import attach

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = attach(__name__, __file__)
