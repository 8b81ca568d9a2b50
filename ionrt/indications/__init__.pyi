from .facts import Indications as Indications
from .facts import load as load
from .limits import check_limits as check_limits
