"""Files: atomic writes, JSON, Orbax."""
