"""Configurations of LMCache for Gaudi.

``release`` says what a release can do, ``stores`` what a store needs. From these, ``compose`` makes the processes of a
mode, and ``text`` their files. All four are pure. ``validate`` makes the installed LMCache load the files.
"""
