"""Targets that start the scripts of a recipe: systemd units, a compose file, Kubernetes manifests.

A target wraps the recipe's own scripts unchanged, so that LMCache has validated what runs. ``plan`` lists the processes
and their needs; ``systemd``, ``containers`` and ``kubernetes`` turn the plan into files. All are pure.
"""
