from .engine import check as check
from .engine import verdict as verdict
from .sealed import forget as forget
from .sealed import record as record
from .sealed import summary as summary
from .sealed import verdicts as verdicts
