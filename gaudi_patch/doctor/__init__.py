"""Checks of the host, the build and the configuration, before a server is started.

``checks`` lists every check; each subject has a module. Checks reach files, environment, tools and network only through
``host``. ``case`` holds the gathered facts, and ``finding`` the types of results. Nothing is changed, except for one
temporary file in the directory of LMCache's disk backend, to measure its bandwidth.
"""
