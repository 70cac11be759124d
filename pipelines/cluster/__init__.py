"""Runs on a Kubeflow cluster: submitted, scheduled, followed and compared through its REST API."""
