from . import beam as beam
from . import biology as biology
from . import ions as ions
from . import quantities as quantities
from . import rbe as rbe
from .quantities import IonrtError as IonrtError

__version__: str
