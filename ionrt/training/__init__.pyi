from .engine import check as check
from .engine import verdict as verdict
from .exercise import Exercise as Exercise
from .exercise import TRACKS as TRACKS
from .exercise import exercises as exercises
from .sealed import forget as forget
from .sealed import record as record
from .sealed import verdicts as verdicts
