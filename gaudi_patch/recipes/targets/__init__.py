"""What starts the scripts of a recipe: systemd units, a compose file, Kubernetes manifests.

A target wraps the recipe's own scripts and leaves them as they are, so that LMCache has validated what runs. ``plan``
says which processes there are and what they need; ``systemd``, ``containers`` and ``kubernetes`` write it down: all
pure.
"""
