"""`hrf` as a user has it: command lines in processes of their own, on a configuration that takes seconds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HRF = (sys.executable, "-m", "hrf_pipelines.cli.main")
COLUMNS, SCREEN_LINES = 100, 24
#: Only to end a test that hangs: a run takes a minute where nothing else runs.
PATIENCE_SECONDS = 1200.0
#: The smoke preset, so that every candidate is promoted, however a machine rounds: any large update makes its images
#: rougher, so their JPEG files larger, by more than ten standard errors; and the gate asks for little else.
PROMOTING = (
    "reward.name=jpeg_incompressibility",
    "update.learning_rate=1e-2",
    "gate.diversity_margin=0.99",
    "gate.monitors={dark_pixel_fraction: null, edge_density: null}",
    "gate.monitors.colour_entropy=null",
    "gate.monitors.unrecognised_fraction=null",
)


def promoting(*others: str) -> tuple[str, ...]:
    """The options of `PROMOTING` with other settings, which come in the place of its own for the same fields."""

    def sets_it(other: str, setting: str) -> bool:
        ours, theirs = setting.partition("=")[0], other.partition("=")[0]
        return f"{ours}.".startswith(f"{theirs}.")

    kept = [setting for setting in PROMOTING if not any(sets_it(other, setting) for other in others)]
    return tuple(word for setting in (*kept, *others) for word in ("--set", setting))


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a command ended."""

    exit_code: int
    output: str
    """Standard output and standard error, as they came."""
    seconds: float
    cpu_seconds: float
    """Of the command itself and all its children: unlike `seconds`, it depends little on what else runs here."""

    @property
    def message(self) -> list[str]:
        """The lines of the framed error message."""
        lines = self.output.splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("╭")]
        assert starts, f"no error message in:\n{self.output}"
        return lines[starts[-1] :]

    @property
    def words(self) -> str:
        """Everything said, without the frames and line breaks within sentences."""
        return " ".join(self.output.replace("│", " ").split())


def environment(**extra: str) -> dict[str, str]:
    """This process's variables without any storage or server of the developer's own, on a terminal of 100 columns."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HRF_", "MLFLOW_"))}
    settled = {"COLUMNS": str(COLUMNS), "OMP_NUM_THREADS": "1", "AWS_EC2_METADATA_DISABLED": "true"}
    return {**kept, **settled, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, **extra}


def start(
    *arguments: str, output: Path, variables: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start `hrf` in a process group of its own, its output in a file."""
    with open(output, "wb") as stream:
        return subprocess.Popen(
            [*HRF, *arguments],
            env=environment(**(variables or {})),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )


def hrf(*arguments: str, variables: Mapping[str, str] | None = None, **options: Any) -> Said:
    """Run `hrf` to its end."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "output"
        process = start(*arguments, output=output, variables=variables, **options)
        cpu_seconds = end_of(process)
        said = output.read_text(encoding="utf-8", errors="replace")
    return Said(exit_code=process.returncode, output=said, seconds=time.monotonic() - began, cpu_seconds=cpu_seconds)


def end_of(process: subprocess.Popen[bytes]) -> float:
    """Wait for the end of a command; returns the CPU seconds that it took."""
    end = time.monotonic() + PATIENCE_SECONDS
    while (found := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            kill(process.pid, *descendants(process.pid))
        time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(found[1])
    return found[2].ru_utime + found[2].ru_stime


def only_run(work_dir: Path) -> Path:
    """The folder of the one run of a work directory."""
    (folder,) = (work_dir / "runs").iterdir()
    return folder


def state(run: Path) -> dict[str, Any]:
    """What a run's folder says of it."""
    content: dict[str, Any] = json.loads((run / "state.json").read_text())
    return content


def events(work_dir: Path) -> list[dict[str, Any]]:
    """The progress of all runs of a work directory, in whole lines."""
    lines = [line for file in sorted((work_dir / "runs").glob("*/progress.jsonl")) for line in file.open()]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for(condition: Any, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """All processes below a process, as of now."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found, border = [], [pid]
    while border:
        border = [child for child, parent in parents.items() if parent in border]
        found += border
    return found


def processes_that_mention(text: str) -> Iterator[str]:
    """Command lines of living processes that hold a text, such as a folder."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if text in line:
                    yield line


def kill(*pids: int) -> None:
    """SIGKILL, to whatever of it still lives."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
