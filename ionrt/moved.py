"""Names that were public in 0.1.0 and are inner since 0.2.0.

They still answer, with a `DeprecationWarning` that says where they live. Loaded only when asked for; goes with 0.3.0.
"""

from __future__ import annotations

# room -> module -> names
MOVED = {
    "beam": {
        "beam.physics.nuclear": "cross_section",
        "beam.writing": "export_matrad export_netcdf",
        "beam.physics.water.machine": "machine_energies",
    },
    "biology": {
        "biology.track": "KieferChatterjee",
        "biology.tissues": "Lem1 Mkm Osmk Osmk21 Osmk23 Smk get_tissue saturation_z0",
        "biology.specific": "closure single_event_dose",
        "biology.moments": "let_table moment_tables",
        "biology.oxygen": "osmk21_resistance osmk23_at",
    },
    "cohort": {
        "cohort.exchange": "CONVERSIONS select",
        "cohort.schema": "CohortError dictionary",
        "cohort.adtte": "from_adtte to_adtte",
        "cohort.analysis": "metric_table",
        "cohort.redcap": "from_redcap to_redcap",
    },
    "compare": {
        "ions": "ION_NAMES",
    },
    "evaluate": {
        "evaluate.quality": "conformity homogeneity",
        "evaluate.bands": "error_parts",
        "evaluate.histograms": "mean_value",
        "evaluate.gamma_index": "pass_rate",
    },
    "outcome": {
        "outcome.toxicity": "actuarial_toxicity crude_rate",
    },
    "patient": {
        "patient.ionplan": "IonPlan",
        "patient.calibration": "calibration_table",
        "patient.geometry.structures": "contours find_structure",
        "patient.geometry.grid": "crop",
        "patient.phantom": "recipe",
        "patient.geometry.margins": "with_margin",
    },
    "plan": {
        "plan.setup.room": "GANTRY_2 REFERENCE_FACILITY",
        "plan.engine.influence": "Influence",
        "plan.setup.beams": "ReachError",
        "plan.mixture": "course join_influences spot_table",
        "plan.setup.objectives": "default_objectives make_robust",
        "plan.fields": "scenario_field",
        "plan.setup.scenarios": "NOMINAL scenarios_grid scenarios_random scenarios_single",
        "plan.setup.raytrace": "wepl",
    },
    "plot": {
        "plot.style": "Figure ION_COLOURS",
    },
    "rbe": {
        "rbe.model": "Model voxels_outside",
        "rbe.blocks": "Validity",
        "rbe.isoeffect": "bed eqdx",
        "rbe.functions": "chen linear osmk23 rorvik wilkens",
        "rbe.systems": "dose_in_system",
    },
    "trial": {
        "trial.axis": "Axis",
        "trial.designs": "bounds_of sample_size",
        "trial.flow_diagram": "consort",
        "trial.sequential": "crossing spent",
        "trial.conduct": "departures",
        "trial.simulation": "dose_finding",
        "trial.survival_design": "dropout_hazard event_probability freedman hazard logrank_drift time_of_events",
        "trial.rates": "exact_rejection farrington_manning",
        "trial.continual_reassessment": "indifference_skeleton tite_crm",
        "trial.phase2": "survival_rate two_stage_ci",
    },
}


def home_of(room: str, name: str) -> str | None:
    """The module that a name of 0.1.0 lives in; None where it was none."""
    modules = MOVED.get(room.removeprefix("ionrt."), {})
    return next((f"ionrt.{module}" for module, names in modules.items() if name in names.split()), None)
