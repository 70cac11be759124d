"""How the container images are built: `make images`. Each image's Dockerfile is in the folder of its name.

What is missing, fails or does not fit is an `images.commands.ImagesError`.
"""
