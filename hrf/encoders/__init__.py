"""Pretrained networks that rewards and diversity features share; the only place that imports their libraries."""
