"""The explorer at 200^3: time from a changed dose per fraction to new maps, in Python and as a browser shows it.

python benchmarks/explorer.py [voxels per side]      the second figure needs chromium and chromedriver
"""

import socket
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import xarray as xr

from ionrt import plot
from ionrt.quantities import stamp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from browser import Page

TURNS = 9


def scene(n: int) -> tuple[xr.Dataset, xr.Dataset]:
    """SYNTHETIC: a field with the moments of two models, CT and two structures on n^3 voxels."""
    at = {d: np.arange(n) * 1.5 - 0.75 * (n - 1) for d in ("z", "y", "x")}
    squared = sum(v.reshape([-1 if d == e else 1 for e in at]) ** 2 for d, v in at.items())

    def on_grid(values, name, **about):
        return stamp(xr.DataArray(values.astype(np.float32), dims=tuple(at), coords=at), name, **about)

    dose = np.exp(-squared / 3000.0)
    field = {
        "dose": on_grid(dose, "dose"),
        "let_x_dose": on_grid(60 * dose, "let_x_dose", let_definition="charged"),
        "zstar_x_dose": on_grid(12 * dose, "zstar_x_dose", parameter_set="mkm_nirs"),
    }
    balls = [on_grid(squared < r**2, "structures") for r in (30.0, 50.0)]
    grid = {"ct": on_grid(np.where(squared < 1e4, 0.0, -1000.0), "ct"), "structures": xr.concat(balls, "structure")}
    return xr.Dataset(field), xr.Dataset(grid).assign_coords(structure=["CTV", "Organ"])


# from the key to the frame after the new value stands in the page; asked from outside, the page would be busy answering
WATCH = """
const found = [], walk = root => { for (const e of root.querySelectorAll('*')) {
  if (e.matches('b[data-quantity=rbe_dose]')) found.push(e);
  if (e.shadowRoot) walk(e.shadowRoot);
} };
walk(document);
const root = found[0].getRootNode(), text = () => root.querySelector('b[data-quantity=rbe_dose]')?.textContent;
let start = 0, before = text();
window.times = [];
document.addEventListener('keydown', () => { start = performance.now(); before = text(); }, true);
new MutationObserver(() => {
  if (!start || !text() || text() === before) return;
  const since = start;
  start = 0;
  requestAnimationFrame(() => requestAnimationFrame(() => window.times.push((performance.now() - since) / 1000)));
}).observe(root, {childList: true, subtree: true, characterData: true});
"""


def busy() -> tuple[float, float]:
    """CPU seconds of this process, and of the browser that it opened, so far."""
    spent = [sum(p.cpu_times()[:2]) for p in psutil.Process().children(recursive=True) if "chrom" in p.name()]
    return time.process_time(), sum(spent)


def painted(view) -> list[float]:
    """Seconds from a key on the slider of the dose until the page has painted new maps and value under the cross-hair."""
    import panel as pn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = pn.serve(view.view, port=port, address="127.0.0.1", show=False, threaded=True, verbose=False)
    try:
        with tempfile.TemporaryDirectory() as folder, Page(f"http://127.0.0.1:{port}/", Path(folder)) as page:
            page.canvases(4)
            handle = next(h for h in page.elements(".noUi-handle", at_least=6) if h.get_attribute("aria-valuemax") == "3.0")
            page.driver.execute_script(WATCH)
            before = busy()
            for turn in range(TURNS):
                handle.send_keys("\ue014")
                end = time.monotonic() + 20
                while len(page.driver.execute_script("return window.times")) <= turn and time.monotonic() < end:
                    time.sleep(0.5)
            each = [(b - a) / TURNS for a, b in zip(before, busy(), strict=True)]
            print(f"CPU of one change: Python {each[0]:.3f} s, browser {each[1]:.3f} s")
            return page.driver.execute_script("return window.times")
    finally:
        server.stop()


def main(n: int = 200) -> None:
    field, grid = scene(n)
    view = plot.explore(field, grid, prescription=2.0)
    start, worked = time.process_time(), []
    for turn in range(TURNS):
        begin = time.perf_counter()
        view.dose.value = 1.1 + 0.1 * turn
        worked.append(time.perf_counter() - begin)
    cpu = (time.process_time() - start) / TURNS
    print(f"{n}^3 voxels: maps, histograms and values {np.median(worked):.3f} s ({min(worked):.3f} least, {cpu:.3f} s CPU)")
    shown = painted(view)
    print(f"in the browser {np.median(shown):.3f} s ({min(shown):.3f} least) from the key to the new maps, {len(shown)} turns")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
