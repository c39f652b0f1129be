"""Append each event as a row to a CSV file, once and on disk.

sinks:
  archive:
    plugin: csv
    options:
      path: data/events.csv              # a template, data/{{ data.keyword }}.csv say
      mode: spreadsheet                  # or exact: leave all as it is, formulas too
      rotate: {size: 64MiB, every: day}  # default: never; every: hour, day or month
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic

import relay

from .paths import FilePaths, Rotation, fixed_end
from .rows import RowFormat
from .writer import CsvWriter

T = TypeVar("T")


class Options(relay.Options):
    """The options of a `csv` sink."""

    path: relay.Template
    """The file, as a template such as `data/{{ data.keyword }}.csv`. Its end is fixed text."""
    mode: Literal["spreadsheet", "exact"] = "spreadsheet"
    """`spreadsheet` quotes texts and makes formulas harmless. `exact` writes values as they are."""
    rotate: Rotation = Rotation()
    """When a new file begins. Default: never."""

    _folder: Path = pydantic.PrivateAttr(default_factory=Path.cwd)
    _zone: tzinfo = pydantic.PrivateAttr(default=UTC)

    @pydantic.field_validator("path")
    @classmethod
    def names_a_file(cls, path: relay.Template) -> relay.Template:
        if not path.text.rpartition("/")[2]:
            raise ValueError("should name a file, not a folder")
        if not fixed_end(path.text):
            raise ValueError(
                "should end in something fixed, such as .csv: what a callback says"
                " could else name any file in the folder"
            )
        return path

    def model_post_init(self, context: Any) -> None:
        """Keep what relay.yaml says beyond these options: where it lies, and its timezone."""
        if context:
            self._folder = context["folder"]
            self._zone = context["environment"].timezone

    def place(self) -> FilePaths:
        return FilePaths(self.path, self._folder)

    @property
    def zone(self) -> tzinfo:
        return self._zone


class Csv(relay.Sink):
    """Writes in a thread, one batch after the other."""

    Options = Options
    max_batch = 500

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._files = CsvWriter(
            self.options.place(),
            RowFormat(self.columns, defused=self.options.mode == "spreadsheet"),
            self.options.rotate,
            self.options.zone,
            self.log,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"csv-{self.name}")

    @classmethod
    def own_files(cls, options: Any) -> Collection[Path]:
        place = options.place()
        return [place.fixed or place.journal]

    async def open(self) -> None:
        await self._in_thread(self._files.open)

    async def close(self) -> None:
        await self._in_thread(self._files.close)

    async def check(self) -> list[str]:
        return await asyncio.to_thread(self._files.problems)

    async def erase(self, matcher: relay.NumberMatcher, ids: Collection[str]) -> relay.Erased:
        return await self._in_thread(self._files.erase, matcher, ids)

    async def send_batch(self, deliveries: Sequence[relay.Delivery]) -> Sequence[relay.Outcome]:
        return await self._in_thread(self._files.write, deliveries)

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


@relay.hookimpl
def register_sinks(register: Callable[[str, type[relay.Sink]], None]) -> None:
    register("csv", Csv)
