"""Studies of speed and method, each one command."""
