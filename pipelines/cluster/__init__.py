"""Runs on a Kubeflow cluster: submitted, scheduled, followed and compared through its REST API.

Where the cluster refuses, or is away for longer than is waited for, that is a ClusterError.
"""
