"""Configurations of LMCache for Gaudi.

``release`` says what a release can do, ``compose`` and ``text`` make the files: all pure. ``validate`` has the
installed LMCache load them.
"""
