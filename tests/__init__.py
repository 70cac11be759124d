"""Tests, in the folders of what they test; `golden` holds a whole run to its recorded bits, `e2e` runs the command."""
