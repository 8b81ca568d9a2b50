"""Protocol files from anybody: a protocol that follows from its file, or one line that names the file and the key."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import fuzz
import numpy as np
import pytest
import yaml

from ionrt import trial
from ionrt.files import read_yaml
from ionrt.quantities import IonrtError
from ionrt.trial.designs import sample_size
from ionrt.trial.reading import from_mapping

FOLDER = Path(__file__).resolve().parents[1] / "trials"
FILES = sorted(FOLDER.glob("*.yaml"))
HEAD = FILES[0].read_text(encoding="utf-8")


def refused(path: Path) -> str:
    """The message, which is one line with the file's name."""
    with pytest.raises(IonrtError) as caught:
        trial.load(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "\nalpha: 0.05\n", "key 'alpha' stands twice"),
        (HEAD.replace("parameters: {", "parameters: {margin: 0.1, "), "key 'margin' stands twice"),
        ("base: &a {n: 1}\nid: *a\n", "anchor &a; write the value out"),
        ("id: *a\n", "alias *a; write the value out"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "anchor &a"),
        ("id: &a [*a]\n", "anchor &a"),
        ("id: !!python/object/apply:os.system [ls]\n", "tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("id: !!binary aGFsbG8=\n", "tag tag:yaml.org,2002:binary"),
        ("id: " + "[" * 5000, "more than 12 levels"),
        ("{" * 5000, "a key that is a list or a mapping"),
        ("- " * 3000 + "x", "more than 12 levels"),
        ("? [a, b]\n: c\n", "a key that is a list or a mapping"),
        ("<<: {a: 1}\n", "merge key"),
        ("a: 1\n---\nb: 2\n", "a second document"),
        ("a: 1e999\n", "too large"),
        ("x" * 200_000, "at most 100 kB"),
        ("id: [", "not readable as YAML: line 1"),
        ("id: \x07", "not readable as YAML"),
        ("", "expected a mapping of keys, got NoneType"),
        ("- 1", "expected a mapping of keys, got list"),
        ("5", "expected a mapping of keys, got int"),
        ("5: a\n1.5: b\n", "key: '5' does not exist"),
    ],
)
def test_what_is_refused_before_its_meaning(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert message in refused(path)


@pytest.mark.parametrize("encoding", ["cp949", "cp932", "utf-16", "latin-1"])
def test_other_encodings_are_named(tmp_path, encoding):
    path = tmp_path / "mine.yaml"
    text = {"cp949": "title: 골육종", "cp932": "title: 骨肉腫", "latin-1": "title: Strahlenschäden"}.get(encoding, HEAD)
    path.write_bytes(text.encode(encoding))
    assert "not UTF-8" in refused(path)


def test_names_in_korean_and_japanese_are_kept(tmp_path):
    path = tmp_path / "골육종 第二相.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + HEAD.replace("title: ", "title: 骨肉腫 골육종 ").encode())
    assert trial.load(path).title.startswith("骨肉腫 골육종")


@pytest.mark.parametrize("place", ["missing.yaml", "folder.yaml", "nul\0.yaml"])
def test_no_file_there(tmp_path, place):
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(IonrtError, match=r"no such file|cannot be read"):
        trial.load(tmp_path / place)


def test_a_word_is_not_a_truth_value_and_a_time_is_not_a_number(tmp_path):
    path = tmp_path / "words.yaml"
    numbers = "[010, 1:30, 0x10, 2024-01-01, 1e-3, -2, .5, 1_000, '7', ~]"
    path.write_text(f"a: [yes, no, on, off, y, N, true, False]\nb: {numbers}\n", encoding="utf-8")
    assert read_yaml(path) == {
        "a": ["yes", "no", "on", "off", "y", "N", True, False],
        "b": [10, "1:30", "0x10", "2024-01-01", 1e-3, -2, 0.5, "1_000", "7", None],
    }


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_plain_files_read_as_by_the_library(path):
    assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


ODD = [
    None, True, -1, 0, 1, 2, 10**9, 10**300, 0.5, -0.5, 1.5, float("nan"), float("inf"), 1e-300, 1e300, "", " ", "x", "한글",
    "0.5", [], [[]], ["x"], [1, 1], [0.5, 0.50000001, 1.0], [float("nan")], list(range(500)), {}, {"x": 1}, {1: 2},
    [{"name": "a"}], {"name": []},
]  # fmt: skip


def spoiled(content: dict, rng: np.random.Generator) -> dict:
    """A protocol with a few values, at any depth, replaced, removed, renamed or doubled."""
    out = copy.deepcopy(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        inside, key = out, list(out)[rng.integers(len(out))]
        while isinstance(inside[key], (dict, list)) and inside[key] and rng.random() < 0.7:
            inside = inside[key]
            key = list(inside)[rng.integers(len(inside))] if isinstance(inside, dict) else int(rng.integers(len(inside)))
        action = rng.random()
        if action < 0.65:
            inside[key] = copy.deepcopy(ODD[rng.integers(len(ODD))])
        elif action < 0.8:
            del inside[key]
        elif isinstance(inside, dict):
            inside[str(rng.choice(["", "n", "hr", "n_max", "levels", "margin", str(key) * 40]))] = inside[key]
        else:
            inside.append(inside[key])
        if not out:
            break
    return out


def taken(protocol) -> str:
    """A protocol that passed has the size that its parameters give."""
    return "" if sample_size(protocol) == protocol.n else "n does not follow"


@pytest.mark.parametrize("mutate", ["odd values", "any tree"])
def test_spoiled_protocols(mutate):
    """Nothing but a protocol whose n follows, or one line that begins with the name of the file."""
    contents = [read_yaml(path) for path in FILES]

    def attempt(rng):
        content = contents[rng.integers(len(contents))]
        changed = spoiled(content, rng) if mutate == "odd values" else fuzz.mutate_tree(rng, content)[0]
        try:
            return taken(from_mapping(changed, name="spoiled.yaml"))
        except IonrtError as error:
            assert "\n" not in str(error) and str(error).startswith("spoiled.yaml: "), error
            raise

    fuzz.hold(attempt, seeds=(1, 2))


def test_spoiled_bytes(tmp_path):
    """Files with bytes changed, cut, doubled: read or refused in one line."""

    def attempt(rng):
        path = tmp_path / "bytes.yaml"
        path.write_bytes(fuzz.mutate_bytes(rng, FILES[rng.integers(len(FILES))].read_bytes())[0])
        try:
            return taken(trial.load(path))
        except IonrtError as error:
            assert "\n" not in str(error) and "bytes.yaml" in str(error)
            raise

    fuzz.hold(attempt, seeds=(1, 2))


@pytest.mark.parametrize(
    ("parameters", "design"),
    [
        ({"p0": 0.5, "p1": 0.51, "n_max": 10**7}, "simon"),
        ({"p0": 0.5, "p1": 0.5000001, "n_max": 10**8}, "ahern"),
        ({"target": 0.25, "n_max": 10**8}, "boin"),
        ({"target": 0.25, "levels": 10**8}, "boin"),
        ({"p_experimental": 0.5, "p_control": 0.5, "margin": 1e-9}, "noninferiority_rates"),
        ({"p_experimental": 0.500001, "p_control": 0.5}, "superiority_rates"),
    ],
)
def test_no_design_takes_the_machine(parameters, design):
    content = read_yaml(FOLDER / "multi_ion_sarcoma.yaml") | {"design": design, "parameters": parameters, "power": 0.8}
    if design == "boin":
        content.pop("axis")
    begin = time.process_time()
    with pytest.raises(IonrtError, match=r"expected|states n|no design"):
        from_mapping(content)
    assert time.process_time() - begin < 10


def test_looks_close_together_are_refused():
    content = read_yaml(FOLDER / "pancreas_randomised.yaml")
    for information in ([0.5, 0.5000001, 1.0], [1e-9, 1.0], 10**6, [i / 5000 for i in range(1, 5001)]):
        with pytest.raises(IonrtError, match="information"):
            from_mapping(content | {"looks": {"information": information}})


def test_hostile_protocols(shared):
    """Inputs that ended in a traceback or a hang before: each is one line now."""
    for path in [*shared("hostile/yaml").glob("*/p.yaml"), *shared("hostile/bombs").glob("*.yaml")]:
        refused(path)
