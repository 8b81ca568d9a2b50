from .cases import ION_NAMES as ION_NAMES
from .cases import nearest_organs as nearest_organs
from .cases import open_patient as open_patient
from .ions import Comparison as Comparison
from .ions import IonPlan as IonPlan
from .ions import compare_ions as compare_ions
