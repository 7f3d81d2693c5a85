"""Extensions: formats, captioners, domains and families, loaded only by `loraloom.plugins`."""
