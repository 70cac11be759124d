"""The Kubeflow components: one short file each, a signature and one call into `hrf.steps`.

`base_image` only says which role's image a step needs: `hrf_pipelines.placement` names the image, with its tag.
"""
