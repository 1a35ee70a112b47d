"""Configurations of LMCache for Gaudi.

``release`` says what a release can do, ``stores`` what a store wants; ``compose`` makes the processes of a mode of
them, and ``text`` their files: all pure. ``validate`` has the installed LMCache load them.
"""
