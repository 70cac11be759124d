"""The steps of a run: folders in, folders out. One module per step, so that a step imports only what it needs."""
