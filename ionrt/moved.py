"""Names that were public in 0.1.0 and are inner since 0.2.0.

They still answer, with a `DeprecationWarning` that says where they live. Loaded only when asked for; goes with 0.3.0.
"""

from __future__ import annotations

import re
from pathlib import Path

MOVED = {
    "beam": "cross_section export_matrad export_netcdf machine_energies",
    "biology": "closure get_tissue KieferChatterjee Lem1 let_table Mkm moment_tables Osmk Osmk21 osmk21_resistance Osmk23 "
    "osmk23_at saturation_z0 single_event_dose Smk",
    "cohort": "CohortError CONVERSIONS dictionary from_adtte from_redcap metric_table select to_adtte to_redcap",
    "compare": "ION_NAMES",
    "evaluate": "conformity error_parts homogeneity mean_value pass_rate",
    "outcome": "actuarial_toxicity crude_rate",
    "patient": "calibration_table contours crop find_structure IonPlan recipe with_margin",
    "plan": "course default_objectives GANTRY_2 Influence join_influences make_robust NOMINAL ReachError REFERENCE_FACILITY "
    "scenario_field scenarios_grid scenarios_random scenarios_single spot_table wepl",
    "plot": "Figure ION_COLOURS",
    "rbe": "bed chen dose_in_system eqdx linear Model osmk23 rorvik Validity voxels_outside wilkens",
    "trial": "Axis bounds_of consort crossing departures dose_finding dropout_hazard event_probability exact_rejection "
    "farrington_manning freedman hazard indifference_skeleton logrank_drift sample_size spent survival_rate "
    "time_of_events tite_crm two_stage_ci",
}  # fmt: skip


def home_of(room: str, name: str) -> str | None:
    """The module that a name of 0.1.0 lives in, of its room or at the top; None where it was none."""
    top, room = Path(__file__).parent, room.removeprefix("ionrt.")
    if name not in MOVED.get(room, "").split():
        return None
    made = re.compile(rf"^(?:(?:def|class) {name}\b|{name}\b[^=\n]*= )", re.MULTILINE)
    files = [*sorted((top / room).rglob("*.py")), *sorted(top.glob("*.py"))]
    home = next(file for file in files if made.search(file.read_text(encoding="utf-8")))
    return "ionrt." + ".".join(home.relative_to(top).with_suffix("").parts)
