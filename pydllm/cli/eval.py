"""`pydllm eval`: accuracy against speed, on a model in this process or on a server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydllm.cli.console import FAILED, OK, USAGE, fail
from pydllm.cli.options import Resolved, UsageError, resolve
from pydllm.cli.settings import ENGINE, EVAL, MODEL, listed
from pydllm.cli.values import check_server_options
from pydllm.console import loading
from pydllm.errors import InvalidRequestError, PydllmError, UnsupportedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Mapping, Sequence

    from pydllm.evaluate.backends import Backend
    from pydllm.evaluate.grid import Setting
    from pydllm.evaluate.run import Row
    from pydllm.evaluate.suite import Item
    from pydllm.params import SamplingParams


def run(arguments: argparse.Namespace) -> int:
    """Prints the table; the exit code."""
    options = (MODEL, *listed(EVAL), *listed(ENGINE))
    try:
        settings = resolve(options, vars(arguments), os.environ, arguments.config)
        loading_options = [*listed(ENGINE), *(option for option in options if option.name == "block_length")]
        check_server_options(settings, local=loading_options, remote=EVAL["server"])
        items = _items(settings, arguments.family)
        grid = _grid(settings, arguments.setting)
        rows = asyncio.run(_rows(settings, items, grid, arguments.batch or [32]))
    except (UsageError, InvalidRequestError, UnsupportedError) as error:
        return fail("eval", error, USAGE)
    except PydllmError as error:
        return fail("eval", error, FAILED)
    return _write(settings, rows)


def _items(settings: Mapping[str, Resolved], families: Sequence[str]) -> list[Item]:
    from pydllm.evaluate.suite import SuiteError, demo_suite, first_of_each, read_suite

    suite = settings["suite"].value
    try:
        items = demo_suite() if suite == "demo" else read_suite(suite)
        return first_of_each(items, settings["limit"].value, families)
    except SuiteError as error:
        raise UsageError(str(error)) from None


def _grid(settings: Mapping[str, Resolved], given: Sequence[str]) -> list[Setting]:
    from pydllm.evaluate.grid import SettingError, default_grid, parse

    try:
        if given:
            return [parse(text) for text in given]
        return default_grid(settings["max_tokens"].value) if settings["grid"].value else [parse("default")]
    except SettingError as error:
        raise UsageError(str(error)) from None


async def _rows(
    settings: Mapping[str, Resolved], items: Sequence[Item], grid: Sequence[Setting], batches: Sequence[int]
) -> list[Row]:
    from pydllm.evaluate.run import run as run_suite
    from pydllm.params import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=settings["max_tokens"].value)
    rows = []
    async with _backend(settings, max(batches)) as backend:
        await _warm_up(backend, items[0], sampling, grid[0])
        for setting in grid:
            for batch in batches:
                with _progress(f"{setting.label}, batch {batch}", len(items)) as answered:
                    rows.append(await run_suite(backend, items, setting, sampling, batch=batch, answered=answered))
    return rows


async def _warm_up(backend: Backend, item: Item, sampling: SamplingParams, setting: Setting) -> None:
    """The first answer pays for what is made once (pages, packed kernels); it is not timed."""
    await backend.answer(item.prompt, sampling, setting.diffusion)


@contextlib.asynccontextmanager
async def _backend(settings: Mapping[str, Resolved], batch: int) -> AsyncIterator[Backend]:
    address = settings["server"].value
    if address is None:
        from pydllm.evaluate.backends import Local
        from pydllm.llm import AsyncLLM

        given = {name: settings[name].value for name in (*(option.name for option in listed(ENGINE)), "block_length")}
        given["max_running_requests"] = max(batch, given["max_running_requests"])
        model = settings["model"].value
        with loading(model or "the embedded demo model", quiet=True) as report:
            llm = AsyncLLM(
                model, load_progress=report, **{name: value for name, value in given.items() if value is not None}
            )
        async with llm:
            yield Local(llm)
        return
    import grpc

    from pydllm.evaluate.backends import Server

    async with grpc.aio.insecure_channel(address) as channel:
        yield Server(channel, model=settings["model"].value or "", api_key=settings["api_key"].value)


@contextlib.contextmanager
def _progress(label: str, total: int) -> Any:
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)


def _write(settings: Mapping[str, Resolved], rows: Sequence[Row]) -> int:
    from pydllm.evaluate import curve, report

    print(report.markdown(rows))
    about = {
        "model": settings["model"].value or "demo",
        "suite": settings["suite"].value,
        "max_tokens": settings["max_tokens"].value,
    }
    pictures = settings["curve"].value
    try:
        if settings["json"].value:
            text = json.dumps(report.as_json(rows, about=about), indent=1)
            Path(settings["json"].value).write_text(text + "\n", encoding="utf-8")
        if pictures:
            title = settings["curve_title"].value or f"{about['model']}: accuracy against speed"
            text = curve.svg(curve.groups_of(rows, settings["curve_family"].value), title=title)
            Path(pictures).write_text(text, encoding="utf-8")
    except OSError as error:
        return fail("eval", f"{error.filename}: cannot be written: {error.strerror}", FAILED)
    return OK
