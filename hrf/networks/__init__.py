"""Networks that judge pictures or turn them into features: pretrained ones, the small classifier, and their files."""
