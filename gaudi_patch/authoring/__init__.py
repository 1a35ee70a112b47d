"""Tools for maintainers who keep the patches; the only user of GitPython."""
