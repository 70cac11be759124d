"""The subcommands of `hrf`. Modules import typer and rich only; the rest inside commands, so that `hrf` starts fast."""
