"""Small helpers that every room may use: files, paths, errors, random numbers, processes. They know no room."""
