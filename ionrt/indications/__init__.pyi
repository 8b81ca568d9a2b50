from .facts import load as load
from .page import tables as tables
from .plans import beside as beside
from .plans import coverage as coverage
from .plans import limits_of as limits_of
from .plans import plan_page as plan_page
from .plans import target_table as target_table
