"""Tools for those who maintain the patches; the only user of GitPython."""
