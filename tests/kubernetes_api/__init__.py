"""An API server of Kubernetes that is a real server of HTTPS with real state.

It answers as Kubernetes' API conventions say (lists with `items`, refusals as `Status`), holds each account to the
rules that it was given, and starts the pods that it is asked to make as processes of this machine. Workflows are
recordings: tests/kfp_api/recorded.

server.py        HTTP, objects, rights
certificates.py  a certificate that no authority has signed
"""
