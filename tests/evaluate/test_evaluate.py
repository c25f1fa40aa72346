"""pydllm.evaluate: what counts as right, how rows add up, and `pydllm eval` as a user runs it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from decimal import Decimal
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from pydllm.errors import InvalidRequestError, UnsupportedError
from pydllm.evaluate import curve, report
from pydllm.evaluate.backends import Reply
from pydllm.evaluate.grid import SettingError, default_grid, parse
from pydllm.evaluate.run import Row, Score, run
from pydllm.evaluate.suite import Item, SuiteError, demo_suite, first_of_each, read_suite
from pydllm.params import SamplingParams

if TYPE_CHECKING:
    from pathlib import Path

    from pydllm.params import DiffusionParams


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("so it is #### 1,234", True),
        ("1234", True),
        ("1234.0 apples", True),
        ("#### 1234 and 7 more", False),
        ("7 then 1234", True),
        ("1234 #### 8", False),
        ("", False),
        ("none", False),
    ],
)
def test_a_number_is_right_after_the_mark_or_at_the_end(text: str, right: bool) -> None:
    assert Item(family="f", prompt="p", number=Decimal(1234)).right(text) is right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("21 + 21 = 42", True),
        (" 30 + 30 = 60\n", True),
        ("31 + 31 = 62", False),
        ("21 + 22 = 43", False),
        ("21 + 21 = 43", False),
        ("42", False),
    ],
)
def test_any_number_in_the_range_may_be_doubled(text: str, right: bool) -> None:
    assert Item(family="double", prompt="p", double=(21, 30)).right(text) is right


def test_an_exact_answer_may_not_have_anything_around_it() -> None:
    item = Item(family="f", prompt="p", answers=("Hello!", "Hi!"))
    assert [item.right(text) for text in ("Hello!", " Hi!\n", "Hi! You", "hi!")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no valid JSON"),
        ("[]", "expected an object"),
        ('{"question": "q"}', "expected an object"),
        ('{"question": "q", "answer": "none"}', "expected a number after ####"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text('{"question": "q", "answer": "#### 1"}\n' + line + "\n")
    with pytest.raises(SuiteError, match=f"suite.jsonl:2: .*{reason}"):
        read_suite(str(path))


def test_a_file_without_problems_or_without_existence_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("empty.jsonl", "missing.jsonl"):
        with pytest.raises(SuiteError, match=name):
            read_suite(str(tmp_path / name))


def test_the_demo_suite_has_two_hundred_distinct_problems_of_at_least_six_computed_families() -> None:
    prompts: dict[str, set[str]] = {}
    for item in demo_suite():
        prompts.setdefault(item.family, set()).add(item.prompt)
    assert sum(len(each) == 200 for each in prompts.values()) >= 6
    assert sum(map(len, prompts.values())) == len(demo_suite())


def test_limit_and_families_choose_problems() -> None:
    chosen = first_of_each(demo_suite(), 3, ["add", "sort"])
    assert [item.family for item in chosen] == ["add"] * 3 + ["sort"] * 3
    with pytest.raises(SuiteError, match="expected one of add, "):
        first_of_each(demo_suite(), None, ["nothing"])


def test_a_setting_splits_typed_parameters_from_those_of_one_algorithm() -> None:
    setting = parse("llada_schedule steps=16 block_length=8 remasking=random")
    assert (setting.diffusion.algorithm, setting.diffusion.block_length) == ("llada_schedule", 8)
    assert setting.diffusion.extra == {"steps": 16, "remasking": "random"}
    assert parse("default").diffusion.algorithm == ""


@pytest.mark.parametrize("text", ["", "dream steps", "dream =3"])
def test_a_setting_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="--setting: expected"):
        parse(text)


def test_a_parameter_of_the_wrong_type_names_the_field() -> None:
    with pytest.raises(InvalidRequestError, match=r"diffusion\.block_length"):
        parse("default block_length=much")


def test_the_default_grid_has_schedules_thresholds_and_blocks() -> None:
    labels = [setting.label for setting in default_grid(64)]
    assert len(set(labels)) == len(labels) >= 15
    assert "confidence_threshold block_length=64 confidence_threshold=0.9" in labels
    assert "llada_schedule block_length=32 steps=64" in labels


class Scripted:
    """Answers the prompt itself, in upper case when the setting says so, and counts how many run at once."""

    def __init__(self) -> None:
        self.running = self.most = 0

    async def answer(self, prompt: str, sampling: SamplingParams, diffusion: DiffusionParams) -> Reply:
        import asyncio

        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if prompt == "fail":
            raise UnsupportedError("x", "x: not here")
        return Reply(prompt, tokens=6, forward_passes=2)


async def test_a_row_counts_right_answers_tokens_and_forwards_and_keeps_to_its_batch() -> None:
    items = [Item(family=f, prompt=p, answers=("yes",)) for f, p in (("a", "yes"), ("a", "no"), ("b", "yes"))]
    backend = Scripted()
    row = await run(backend, items, parse("default"), SamplingParams(max_tokens=8), batch=2)
    assert row.families == {"a": Score(1, 2), "b": Score(1, 1)}
    assert (row.tokens, row.forward_passes, row.tokens_per_forward, backend.most) == (18, 6, 3.0, 2)
    assert row.accuracy == 0.75
    assert row.standard_error == pytest.approx(math.sqrt(0.25 / 2) / 2)


async def test_the_first_failure_is_raised_as_it_is() -> None:
    with pytest.raises(UnsupportedError, match="not here"):
        await run(
            Scripted(), [Item(family="a", prompt="fail")] * 3, parse("default"), SamplingParams(max_tokens=8), batch=3
        )


def rows() -> list[Row]:
    return [
        Row(
            setting=f"confidence_threshold block_length=32 confidence_threshold={threshold}",
            batch=1,
            families={"a": Score(9, 10), "b": Score(right, 10)},
            tokens=100,
            forward_passes=forwards,
            seconds=2.0,
        )
        for threshold, right, forwards in ((0.9, 10, 20), (0.5, 5, 10))
    ]


def test_the_table_has_a_line_per_row_and_a_column_per_family() -> None:
    lines = report.markdown(rows()).splitlines()
    assert lines[0].endswith("| tokens/forward | tokens/s | a | b |")
    assert lines[2].split(" | ")[1:6] == ["1", "0.950", "0.047", "5.00", "50"]
    assert len({line.count("|") for line in lines}) == 1


def test_json_has_what_the_table_was_made_from() -> None:
    entry = report.as_json(rows(), about={"model": "m"})["rows"][1]
    assert entry["families"]["b"] == {"right": 5, "count": 10, "standard_error": 0.1581}
    assert (entry["tokens"], entry["forward_passes"], entry["tokens_per_second"]) == (100, 10, 50.0)


def test_the_curve_is_an_svg_with_a_dot_per_row_further_right_for_more_tokens_per_forward() -> None:
    root = ElementTree.fromstring(curve.svg(curve.groups_of(rows(), "b"), title="b < c"))
    space = "{http://www.w3.org/2000/svg}"
    dots = root.findall(f"{space}circle")
    assert [dot[0].text for dot in dots] == ["0.9", "0.5"]
    assert float(dots[0].get("cx", "")) < float(dots[1].get("cx", ""))
    assert float(dots[0].get("cy", "")) < float(dots[1].get("cy", ""))  # higher accuracy is further up
    assert "b < c" in [text.text for text in root.iter(f"{space}text")]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pydllm", "eval", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def test_eval_answers_a_gsm8k_style_file_and_writes_its_results(tmp_path: Path) -> None:
    suite, out, picture = tmp_path / "sums.jsonl", tmp_path / "out.json", tmp_path / "curve.svg"
    sums = [{"question": f"Solve: {a} + {a + 1}.", "answer": f"So\n#### {2 * a + 1}"} for a in range(20, 30)]
    suite.write_text("".join(json.dumps(entry) + "\n" for entry in sums))
    done = command(
        *("--suite", str(suite), "--max-tokens", "32", "--batch", "1", "--batch", "4"),
        *("--json", str(out), "--curve", str(picture)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    entries = json.loads(out.read_text())["rows"]
    assert [(entry["batch"], entry["accuracy"]) for entry in entries] == [(1, 1.0), (4, 1.0)]
    assert done.stdout.startswith("| setting | batch | accuracy |")
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--suite", "missing.jsonl"], "missing.jsonl: cannot be read"),
        (["--family", "poetry"], "--family: no family 'poetry'"),
        (["--setting", "dream_of steps=3"], "algorithm"),
        (["--setting", "default steps"], "--setting: expected NAME=VALUE"),
        (["--limit", "0"], "--limit: expected an integer"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], reason: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
