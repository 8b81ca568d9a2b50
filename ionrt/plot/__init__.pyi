from .curves import depth_profiles as depth_profiles
from .curves import histograms as histograms
from .slices import slices as slices
from .style import ION_COLOURS as ION_COLOURS
from .style import Figure as Figure
from .style import setup as setup
from .tables import table as table
