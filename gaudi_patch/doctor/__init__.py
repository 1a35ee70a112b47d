"""The host, the build and the configuration, checked before a server is started.

``checks`` lists every check; each subject has a module. ``host`` is the only way to files, environment, tools and
network, ``case`` what was gathered, ``finding`` what a check answers. Nothing is changed, but for one temporary file
in the directory of LMCache's disk backend, whose bandwidth is measured.
"""
