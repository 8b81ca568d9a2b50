from .dicom import read_dicom as read_dicom
from .dicom_dose import read_dose as read_dose
from .grid import crop as crop
from .grid import regrid as regrid
from .structures import contours as contours
from .structures import find_structure as find_structure
from .structures import volumes as volumes
