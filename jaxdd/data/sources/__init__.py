"""Readers: from a name or a folder to uint8 images as they were stored."""
