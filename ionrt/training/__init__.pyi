from .engine import check as check
from .engine import verdict as verdict
from .exercise import Exercise as Exercise
from .exercise import TRACKS as TRACKS
from .exercise import exercises as exercises
from .record import forget as forget
from .record import record as record
from .record import verdicts as verdicts
