"""Shared by sources that draft recipes: the survey of a folder, roles of columns, fields of file names, settings."""
