"""The site: pages that lie elsewhere in the project, and pages that are made from the code."""
