"""`make help`."""

import re
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_help_tells_of_every_target_what_it_does():
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    command = ["make", "--no-print-directory", "help"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listed.splitlines() if len(line.split()) > 1} == set(phony.split())
