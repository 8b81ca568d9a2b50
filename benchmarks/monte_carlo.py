"""Pencil beams beside an independent transport code: range, gamma, LETd and fragments per ion and phantom.

    python benchmarks/monte_carlo.py --transport PROGRAM [--ions p He C O Ne] [--phantoms water slabs edge head] [--histories N]

PROGRAM is benchmarks/geant4/transport.cc, built as docs/howto/monte_carlo.md says. Geant4's own data sets are used where
G4ENSDFSTATEDATA names them, else stand-ins of ours (docs/decisions/0106). Nothing is fitted to the comparison.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import ionrt
from ionrt.beam import base_data, energy_for_range, transport
from ionrt.evaluate.comparing import agreement
from ionrt.ions import IONS
from ionrt.plan import Beam, Plan, Room, influence
from ionrt.plan import field as plan_field
from ionrt.plan.phase_space import write_monte_carlo

ROOM = Room("parallel", optics_sigma=4.0, window_thickness=0.0, source_distance=(1e6, 1e6))
DEPTHS = (84.0, 88.0, 92.0, 96.0, 100.0)  # mm of water: where the peaks of the five energies of the one spot lie
WEIGHTS = np.array([0.16, 0.18, 0.22, 0.32, 1.0])  # about a flat physical dose; the same for all ions
WIDE, LONG = 33, 150  # voxels
BEHIND = 115.0  # mm: fragments are counted here
HEAVIEST = 26  # charge of the stand-in nuclide table; calcium of bone and a projectile's protons stay below it
GY = 1.602176634e-7  # per MeV in 1 mm3 of water


def box(kind: str) -> xr.Dataset:
    """A SYNTHETIC block of 10 x 10 x 15 cm3, entered along y; 3 mm voxels, 1 mm along the beam."""
    side, depth = 3.0 * (np.arange(WIDE) - WIDE // 2), np.arange(LONG) + 0.5
    spr = np.ones((WIDE, LONG, WIDE), np.float32)
    if kind == "slabs":
        for first, last, value in ((20, 35, 1.6), (45, 65, 0.26), (65, 75, 0.001)):  # bone, lung, air
            spr[:, first:last] = value
    if kind == "edge":  # bone that ends in a plane of 45 degrees to the beam, through its axis
        y, x = np.meshgrid(depth, side, indexing="ij")
        spr[:, (y > 20.0) & (y < 50.0) & (x > y - 35.0)] = 1.6
    return _with_target(spr, {"z": side, "y": depth, "x": side})


def head() -> tuple[xr.Dataset, float]:
    """The built-in SYNTHETIC head, entered from the patient's left."""
    with tempfile.TemporaryDirectory() as place:
        patient = ionrt.read_dicom(ionrt.write_phantom(Path(place) / "head", anatomy="head"))
        spr = ionrt.patient.stopping_power_ratio(patient["ct"]).rename("spr").to_dataset()
    line = {d: np.arange(*ends) for d, ends in {"z": (-49.5, 50, 3.0), "y": (-49.5, 50, 3.0), "x": (-96.0, 97, 1.0)}.items()}
    fine = spr.interp(line, kwargs={"fill_value": 0.001}).astype(np.float32)["spr"]
    return _with_target(fine.transpose("z", "y", "x").values, line), 90.0


def _with_target(spr: np.ndarray, line: dict[str, np.ndarray]) -> xr.Dataset:
    whole = np.ones_like(spr)
    return xr.Dataset(
        {"spr": (("z", "y", "x"), spr), "structures": (("structure", "z", "y", "x"), np.stack([whole, whole]))},
        coords={**line, "structure": ["CTV", "BODY"]},
    )


def case(ion: str, phantom: str) -> tuple[xr.Dataset, Beam]:
    """Patient and beam; the isocentre lies at 100 mm of the block, or in the middle of the head."""
    if phantom == "head":
        patient, gantry = head()
        return patient, Beam(ion, gantry, isocentre=(0.0, 0.0, 0.0), room=ROOM)
    return box(phantom), Beam(ion, 0.0, isocentre=(0.0, 100.0, 0.0), room=ROOM)


def ours(ion: str, patient: xr.Dataset, beam: Beam) -> tuple:
    """Influence of the one spot, weights (particles), fields of both LET definitions and the time they took."""
    energy = energy_for_range(ion, np.array(DEPTHS)).values
    spacing = tuple(float(patient[d][1] - patient[d][0]) for d in ("z", "y", "x"))
    base = {ion: base_data(ion, energy=energy)}
    plan = Plan((beam,), "CTV", 1.0, spacing=spacing, model="constant")
    spots = xr.Dataset(
        coords={k: ("spot", c) for k, c in (("beam_index", [0] * 5), ("energy", energy), ("u", [0.0] * 5), ("v", [0.0] * 5))}
    )
    weights = WEIGHTS / WEIGHTS.sum()
    start = time.process_time()
    dij = influence(patient, plan, base=base, spots=spots)
    fields = {d: plan_field(dij, weights, models=(), let_definition=d) for d in ("primary", "charged", "charged_with_target")}
    return dij, weights, fields, time.process_time() - start


def theirs(program: Path, folder: Path, model: str, like: xr.DataArray) -> tuple[xr.Dataset, dict[int, float], float]:
    """Run the transport and read its scores, per primary particle."""
    before = os.times()
    with (folder / "log.txt").open("w") as log:
        subprocess.run([str(program), str(folder), model], check=True, stdout=log, stderr=log, env=data_sets(folder))
    after = os.times()
    rows = [line.split() for line in (folder / "crossings.txt").read_text().splitlines()]
    number, batches = int(rows[0][1]), int(rows[0][3])
    raw = np.fromfile(folder / "scores.raw").reshape(5, *like.shape)
    volume = np.prod([float(like[d][1] - like[d][0]) for d in like.dims])
    dose, square, primary, let_all, let_primary = raw
    mean = dose / batches
    error = np.sqrt(np.maximum(square / batches - mean**2, 0.0) / (batches - 1)) * batches
    scores = {"dose": dose, "error": error, "primary": primary, "let_all": let_all, "let_primary": let_primary}
    out = xr.Dataset({k: like.copy(data=a * GY / volume / number) for k, a in scores.items()})
    fragments = {int(z): float(n) / number for _, z, n in rows[1:]}
    return out, fragments, after.children_user - before.children_user


def data_sets(folder: Path) -> dict[str, str]:
    """The environment with Geant4's data sets, or with stand-ins: ground states of light nuclides, all stable; no levels.

    A line of the nuclide table holds Z, A, excitation energy, its index, lifetime (s), spin and magnetic moment.
    """
    if "G4ENSDFSTATEDATA" in os.environ:
        return dict(os.environ)
    states = [f"{z} {a} 0 - 1e30 0 0" for z in range(1, HEAVIEST + 1) for a in range(z, 3 * z + 2)]
    made = {}
    for name in ("ENSDFSTATE", "LEVELGAMMA", "PARTICLEXS"):
        made[f"G4{name}DATA"] = str(folder / name)
        (folder / name).mkdir()
    (folder / "ENSDFSTATE" / "ENSDFSTATE.dat").write_text("\n".join(states) + "\n")
    return os.environ | made


def reach(depth: np.ndarray, dose: np.ndarray) -> float:
    """Distal depth of 80 % of the maximum of a depth dose (mm)."""
    top = int(dose.argmax())
    behind = dose[top:] / dose[top]
    k = int(np.flatnonzero(behind < 0.8)[0])
    return float(np.interp(0.8, behind[k - 1 : k + 1][::-1], depth[top + k - 1 : top + k + 1][::-1]))


def row(ion: str, phantom: str, program: Path, model: str, histories: int, seed: int, folder: Path) -> dict:
    """One line of the table."""
    patient, beam = case(ion, phantom)
    dij, weights, fields, own_time = ours(ion, patient, beam)
    along = "x" if phantom == "head" else "y"
    w_behind = -15.0 if phantom != "head" else -40.0
    write_monte_carlo(dij, weights, patient, folder, histories=histories, seed=seed, planes=(w_behind,))
    mine = fields["charged_with_target"]
    mc, fragments, their_time = theirs(program, folder / "beam_1", model, mine["dose"])
    depth = mine[along].values if along == "y" else mine["x"].values[::-1]
    sign = slice(None) if along == "y" else slice(None, None, -1)
    across = [d for d in ("z", "y", "x") if d != along]
    curve = {k: da.sum(across).values[sign] for k, da in (("ours", mine["dose"]), ("mc", mc["dose"]))}
    position = np.arange(depth.size, dtype=float)
    shift = reach(position, curve["mc"]) - reach(position, curve["ours"])
    top = float(mine["dose"].max())
    deep = xr.DataArray(position[sign].copy(), dims=along, coords={along: mine[along]})
    end = reach(position, curve["ours"])
    inside = (mine["dose"] > 0.1 * top) & (deep > end - 17.0) & (deep < end - 2.0)
    behind = (mine["dose"] > 0.001 * top) & (deep > end + 8.0) & (deep < end + 28.0)
    # their stopping powers move the range by up to 1 %; LETd is compared at equal residual range
    moved = mc.assign_coords({along: mc[along] + (-shift if along == "y" else shift)}).interp({along: mine[along]}).fillna(0.0)

    def let(where, of):
        part = (mine["let_x_dose"], mine["dose"]) if of == "ours" else (moved["let_all"], moved["dose"])
        return float(part[0].where(where).sum() / part[1].where(where).sum())

    def let_primary(of):
        one = fields["primary"]
        part = (one["let_x_dose"], one["counted_dose"]) if of == "ours" else (moved["let_primary"], moved["primary"])
        return float(part[0].where(inside).sum() / part[1].where(inside).sum())

    asked = {"uncertainty": mc["error"], "dose_percent": 2, "distance_mm": 2, "threshold": 10.0}
    compared = agreement(mc["dose"], mine["dose"], **asked)
    shifted = {k: da.where(moved["dose"] > 0.0, 0.0) for k, da in moved.items()}
    at_equal_range = agreement(shifted["dose"], mine["dose"], **{**asked, "uncertainty": shifted["error"]})
    found = {
        "ion": ion, "phantom": phantom, "model": model, "histories": histories, "seed": seed,
        "error_percent": 100 * float((mc["error"] / mc["dose"]).where(mine["dose"] > 0.5 * top).median()),
        "range_mc_minus_ours_mm": shift,
        "entrance_ratio": float(curve["ours"][3:13].sum() / curve["mc"][3:13].sum()),
        "target_dose_ratio": float(mine["dose"].where(inside).sum() / moved["dose"].where(inside).sum()),
        "behind_dose_ratio": float(mine["dose"].where(behind).sum() / moved["dose"].where(behind).sum()),
        "gamma_2_2_percent": compared.attrs["gamma_percent"],
        "gamma_2_2_at_equal_range_percent": at_equal_range.attrs["gamma_percent"],
        "within_2_sigma_percent": compared.attrs["within_percent"],
        "let_target_ours": let(inside, "ours"), "let_target_mc": let(inside, "mc"),
        "let_behind_ours": let(behind, "ours"), "let_behind_mc": let(behind, "mc"),
        "let_primary_ours": let_primary("ours"), "let_primary_mc": let_primary("mc"),
        "cpu_ours_s": own_time, "cpu_mc_s": their_time,
    }  # fmt: skip
    for z in range(1, IONS[ion].charge + 1):
        found[f"mc_z{z}"] = fragments.get(z, 0.0)
    if phantom == "water":
        counted = [transport(ion, float(e), depth=[BEHIND])["fluence"] for e in energy_for_range(ion, np.array(DEPTHS)).values]
        total = sum(w * f.isel(depth=0) for w, f in zip(weights, counted, strict=True))
        for z in range(1, IONS[ion].charge + 1):
            found[f"ours_z{z}"] = float(total.sel(charge=z)) if z in total["charge"].values else 0.0
    return found


def main() -> None:
    """The table, as CSV on the way and at the end."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--transport", type=Path, required=True)
    ask.add_argument("--ions", nargs="+", default=list(IONS))
    ask.add_argument("--phantoms", nargs="+", default=["water", "slabs", "edge", "head"])
    ask.add_argument("--model", default="bic", choices=["bic", "qmd"])
    ask.add_argument("--histories", type=int, default=50_000)
    ask.add_argument("--seed", type=int, default=20260101)
    ask.add_argument("--out", type=Path, default=Path("monte_carlo.csv"))
    given = ask.parse_args()
    rows = []
    for phantom in given.phantoms:
        for ion in given.ions:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place) / "case"
                rows.append(row(ion, phantom, given.transport.resolve(), given.model, given.histories, given.seed, folder))
            pd.DataFrame(rows).to_csv(given.out, index=False)
            print(pd.DataFrame(rows[-1:]).T.to_string(header=False), flush=True)


if __name__ == "__main__":
    sys.exit(main())
