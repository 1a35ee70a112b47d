"""Tools for maintainers of the patches; the only user of GitPython."""
