"""Runs on this machine: the compiled package under the local runner of Kubeflow, on an S3 server of its own."""
