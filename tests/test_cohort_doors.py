"""Tables and JSON from outside: encodings, delimiters, decimal commas, bounds; every refusal names the place and no cell."""

from __future__ import annotations

import os
import random
import warnings

import fuzz
import numpy as np
import pandas as pd
import pytest

from ionrt import IonrtError, cohort
from ionrt.cohort import adtte, redcap
from ionrt.cohort.doors import decimal_comma, numbers, read_json, read_table
from ionrt.cohort.schema import CohortError, dictionary

KOREAN = [
    "선암",
    "편평세포암",
    "전립선",
    "췌장",
    "간",
    "폐",
    "육종",
    "신장",
    "재발",
    "소아",
    "두경부",
    "서울",
    "남",
    "여",
    "생존",
    "사망",
    "국소재발",
    "탄소",
    "병기",
    "조직",
    "피부염",
    "설사",
]
JAPANESE = [
    "腺癌",
    "扁平上皮癌",
    "前立腺",
    "膵臓",
    "肝臓",
    "肺",
    "肉腫",
    "再発",
    "小児",
    "頭頸部",
    "千葉",
    "男",
    "女",
    "その他",
    "生存",
    "死亡",
    "炭素",
    "病期",
    "リンパ節",
    "あり",
    "なし",
    "不明",
]
KANA = ["その他", "リンパ節", "あり", "なし", "がん", "サトウ", "治療なし", "頭頸部のがん"]
LATIN = ["München", "Zürich", "Köln", "Genève", "Würzburg", "Québec", "Málaga", "Bjørn", "Göteborg", "São", "Curaçao", "5°C"]


def read(tmp_path, raw, **keywords):
    (tmp_path / "t.csv").write_bytes(raw)
    return fuzz.warned(lambda: read_table(tmp_path / "t.csv", **keywords))


@pytest.mark.parametrize(("words", "codec"), [(KOREAN, "cp949"), (JAPANESE, "cp932"), (KANA, "euc_jp"), (LATIN, "cp1252")])
def test_the_encoding_found_is_right_or_asked_for_never_wrong(tmp_path, words, codec):
    rng, right = random.Random(1), 0
    for _ in range(150):
        cells = [rng.choice(words) for _ in range(rng.choice([1, 2, 5]))]
        raw = ("a,b\n" + "".join(f"{cell},1\n" for cell in cells)).encode(codec)
        try:
            table, said = read(tmp_path, raw)
        except IonrtError as error:
            assert "t.csv" in str(error) and "UTF-8" in str(error) and "encoding=" in str(error)
            assert not any(cell in str(error) for cell in cells)
            continue
        assert table["a"].tolist() == cells and table.attrs["encoding"] == codec and codec in said
        right += 1
    assert right > 100
    assert read(tmp_path, raw, encoding=codec)[0]["a"].tolist() == cells


@pytest.mark.parametrize(
    ("text", "codec"),
    [("姓名,组织学\n王小明,鳞状细胞癌\n李华,前列腺\n", "gb18030"), ("氏名,組織\n山田太郎,扁平上皮癌\n", "euc_jp")],
)
def test_chinese_and_han_alone_are_not_taken_for_korean(tmp_path, text, codec):
    with pytest.raises(IonrtError, match=r"fits none of .*state encoding="):
        read(tmp_path, text.encode(codec))


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_a_mark_or_utf8_says_needs_no_word(tmp_path, codec):
    table, said = read(tmp_path, "병기\t名\nⅢ\t山田\n".encode(codec))
    assert table.to_dict("list") == {"병기": ["Ⅲ"], "名": ["山田"]} and not said and table.attrs["delimiter"] == "\t"


def test_the_line_in_which_excel_states_the_delimiter_is_no_header(tmp_path):
    table, _ = read(tmp_path, b"sep=;\r\na,b;c\r\n1,5;x,y\r\n")
    assert table.to_dict("list") == {"a,b": ["1,5"], "c": ["x,y"]}
    with pytest.raises(IonrtError, match=r"row 0 \(line 3\): 3 fields"):
        read(tmp_path, b"sep=;\na;b\n1;2;3\n")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b"a,b\n1,2,3\n", "row 0 (line 2): 3 fields"),
        (b"a,b\n1,2\n\n1\n", "row 1 (line 4): 1 fields"),
        (b"a,a\n1,2\n", "columns 1 and 2 have one name"),
        (b"a,\n1,2\n", "column 2 has cells and no name"),
        (b'a,b\n1,"2\n', "quotation mark never ends"),
        (b"a,b\n1,\x002\n", "control character"),
        (b"a,b\n1,\xff\xfe\xfa\n", "row 0, line 2, column b"),
        (b"\xff\xfea\x00\n", "utf-16"),
        (b"a," * 30000 + b"b\n", "columns"),
        (b"PK\x03\x04\x14\x00[Content_Types].xml", "Excel workbook"),
        (bytes.fromhex("D0CF11E0A1B11AE1") + bytes(8), "save it as CSV UTF-8"),
    ],
)
def test_refusals_name_file_and_place(tmp_path, raw, words):
    with pytest.raises(IonrtError) as error:
        read(tmp_path, raw)
    assert "t.csv" in str(error.value) and words in str(error.value)


def test_no_file_no_table(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("none.csv", ".", "pipe.csv", "a\0b"):
        with pytest.raises(IonrtError):
            read_table(tmp_path / name)
    with pytest.raises(IonrtError, match="does not exist"):
        read(tmp_path, b"a\n1\n", encoding="hex")
    with pytest.raises(IonrtError, match="delimiter"):
        read(tmp_path, b"a\n1\n", delimiter="ab")


def test_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    with (tmp_path / "big.csv").open("wb") as stream:
        stream.truncate(2**28 + 1)
    with pytest.raises(IonrtError, match="at most 256 MB"):
        read_table(tmp_path / "big.csv")
    with pytest.raises(IonrtError, match="at most 16 MB"):
        read_json(tmp_path / "big.csv")


def test_decimal_commas_are_read_where_the_table_has_no_point():
    column = [pd.Series(["57,6", " 1 ", "2,25"])]
    assert decimal_comma(column) and numbers(column[0], comma=True).tolist() == [57.6, 1.0, 2.25]
    assert not decimal_comma([pd.Series(["57,6", "1.5"])])  # both: neither can be trusted
    assert not decimal_comma([pd.Series(["1,234", "2,500"])])  # thousands?
    odd = pd.Series(["nan", "inf", "1e999", "0x10", "1_0", "٣", "", "1,5", True, None, [1], 10**400], dtype=object)
    assert numbers(odd).isna().all()


def test_a_european_cohort_comes_back_as_it_was(tmp_path):
    tables = cohort.synthetic(30, 2)
    cohort.save(tables, tmp_path)
    expected = cohort.load(tmp_path)
    for name in tables:
        frame = expected[name].copy()
        frame.to_csv(tmp_path / f"{name}.csv", sep=";", decimal=",", index=False, encoding="cp1252")
    again = cohort.load(tmp_path)
    for name, table in again.items():
        pd.testing.assert_frame_equal(table, expected[name])
    assert again["course"].attrs["decimal"] == ","
    text = (tmp_path / "course.csv").read_text(encoding="cp1252").replace(",", ".", 1)
    (tmp_path / "course.csv").write_text(text, encoding="cp1252")
    with pytest.raises(CohortError, match="a number is needed"):
        cohort.load(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100000, "1" * 5000, '{"a": Infinity}', "\x00"]
)
def test_json_that_is_none(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(IonrtError, match=r"s\.json"):
        read_json(tmp_path / "s.json")


def test_mutated_cohorts_are_refused_or_right(tmp_path):
    """Every table, every kind of damage: an error in one line, or tables in which only a legal value is another."""
    cohort.save(cohort.synthetic(12, 4), tmp_path)
    whole = {f.name: f.read_bytes() for f in sorted(tmp_path.glob("*.csv"))}
    names = list(whole)

    def attempt(rng):
        name = names[rng.integers(len(names))]
        mutate = (fuzz.mutate_bytes, as_text, as_table)[rng.integers(3)]
        try:
            (tmp_path / name).write_bytes(mutate(rng, whole[name])[0])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tables = cohort.load(tmp_path)
        finally:
            (tmp_path / name).write_bytes(whole[name])
        for name, spec in dictionary()["tables"].items():
            for column, rules in spec["columns"].items():
                cells = tables[name][column].dropna()
                if rules["type"] != "str" and not np.isfinite(cells.to_numpy(dtype=float)).all():
                    return f"{name}.{column} is not finite"
                if "max" in rules and (cells > rules["max"]).any():
                    return f"{name}.{column} is absurd"
        return ""

    def as_text(rng, raw):
        text, *rest = fuzz.mutate_text(rng, raw.decode())
        return text.encode("utf-8", "replace"), *rest

    def as_table(rng, raw):
        return fuzz.mutate_table(rng, raw), None

    fuzz.hold(attempt, seeds=(1, 2, 3), n=fuzz.tries(12))


def test_mutated_adtte_is_refused_or_right():
    whole = adtte.to_adtte(cohort.synthetic(30, 7), study="S").astype(str)

    def attempt(rng):
        event = adtte.from_adtte(fuzz.mutate_frame(rng, whole))
        if not (event["day"].between(0, 36500).all() and event["code"].isin([0, 1, 2]).all()):
            return "day or code absurd"
        return "pid empty" if event["pid"].isna().any() else ""

    fuzz.hold(attempt, seeds=(1, 2))


def test_mutated_redcap_dictionaries_are_refused_or_checks():
    whole = redcap.to_redcap()

    def attempt(rng):
        read = redcap.from_redcap(fuzz.mutate_frame(rng, whole))
        for table in read["tables"].values():
            for rules in table["columns"].values():
                if rules["type"] not in ("int", "float", "str") or not all(
                    np.isfinite(rules[k]) for k in ("min", "max", "above") if k in rules
                ):
                    return "limits are none"
        cohort.violations({}, dictionary=read)
        return ""

    fuzz.hold(attempt, seeds=(1, 2), n=fuzz.tries(20))
